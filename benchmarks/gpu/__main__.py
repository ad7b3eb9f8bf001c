"""Measure the kit on this machine's graphics card: `make gpu`, or on Windows

    .venv\\Scripts\\python -m benchmarks.gpu

Under 25 minutes; stops between jobs when its time is over, and the same command goes on. At the end of each call
results/gpu_CARD.json and .html hold what has been measured so far.

Exit status: 0 all jobs done, 1 all ended and some failed (or there is no card), 2 wrong usage, 3 not complete yet.
"""

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DONE, FAILED, NOT_COMPLETE = 0, 1, 3
MINUTES = 24.5


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of this call (default {MINUTES})")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to run with, on a machine without a network")
    parser.add_argument("--work", type=Path, default=ROOT / ".gpu", help="records, models and logs (default .gpu)")
    parser.add_argument("--out", type=Path, help="where the JSON and the page go (default benchmarks/results)")
    parser.add_argument("--only", nargs="+", default=[], metavar="JOB", help="jobs whose names begin with one of these")
    parser.add_argument("--again", nargs="+", default=[], metavar="JOB", help="run these once more; failed: all such")
    parser.add_argument("--list", action="store_true", help="the jobs and what became of them; runs nothing")
    parser.add_argument("--rehearse", action="store_true", help="all jobs in small, without a card on the CPU")
    found = parser.parse_args(argv)
    if found.minutes <= 0:
        parser.error("--minutes: a number above 0")
    return found


def use_wheels(wheels: Path, site: Path) -> str:
    """Install them into a folder of their own and run with it; why not, else "". Nothing of the kit is imported yet:
    it needs some of them itself."""
    files = sorted(wheels.glob("*.whl"))
    if not files:
        return f"There is no .whl file in {wheels}."
    names = hashlib.sha256("".join(f"{file.name} {file.stat().st_size}\n" for file in files).encode()).hexdigest()
    mark = site / f".installed-{names[:12]}"
    if not mark.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile",
                   "--upgrade", "--target", str(site), *map(str, files)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if done.returncode:
            return f"pip could not install the wheels: {done.stderr.strip().splitlines()[-1:]}"
        mark.touch()
    sys.path.insert(0, str(site))
    others = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(site), others)))
    return ""


def code_hash() -> str:
    """Of the sources that are measured and that measure."""
    files = sorted(path for top in ("kit", "benchmarks") for path in (ROOT / top).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def main(argv: list[str] | None = None) -> int:
    asked = options(sys.argv[1:] if argv is None else argv)
    if asked.wheels and (trouble := use_wheels(asked.wheels, asked.work / "site")):
        print(f"error: wheels-not-used\n\n  {trouble}\n\n  fix: --wheels FOLDER      (of .whl files)", file=sys.stderr)
        return FAILED
    from kit.support import console

    return console.status_of(lambda: measure(asked))


def measure(asked: argparse.Namespace) -> int:
    """Raises KitError: no card, and no rehearsal was asked for; a name that is no job's."""
    from benchmarks.gpu import catalogue, slices
    from benchmarks.measure import RESULTS
    from envcheck import probe, settings, wheels
    from kit.support import console, environment

    facts = probe.collect()
    card = settings.best_card(facts)
    if card is None and not asked.rehearse:
        raise no_card()
    about = about_machine(facts, card, asked.rehearse)
    key = about["key"]
    place = catalogue.Workplace(facts, asked.work.absolute() / f"{key}-{hash_of(about)}", small=asked.rehearse)
    jobs = [job for job in catalogue.jobs(place) if not asked.only or job.name.startswith(tuple(asked.only))]
    check_names(asked, jobs, [job.name for job in catalogue.jobs(place)])
    watched = slices.Watched()
    if card:
        is_only_one = len(wheels.nvidia_cards(facts)) == 1
        watched = slices.Watched(card.index, environment.of_card(card.index, card.uuid, is_only_one, os.environ))
    shift = slices.Slice(place.folder, asked.minutes, watched, code_hash(), console.say)
    if asked.list:
        return show(jobs, shift.records())
    again = {job.name for job in jobs if job.name in asked.again}
    if "failed" in asked.again:
        again |= {name for name, record in shift.records().items() if record["status"] != "done"}
    shift.forget(again)
    try:
        complete = shift.run(jobs)
    finally:
        folder = asked.out or (place.folder if asked.rehearse else RESULTS)
        paths = write(folder, key, catalogue.jobs(place), shift.records(), about)
    for path in paths:
        console.say(f"written: {path}")
    if not complete:
        console.say("not complete: the same command goes on")
        return NOT_COMPLETE
    return DONE if all(shift.records()[job.name]["status"] == "done" for job in jobs) else FAILED


def no_card() -> Exception:
    from kit.support.errors import failure

    return failure(
        "no-usable-gpu",
        "There is no graphics card to measure here.",
        "No NVIDIA card was found, or it is hidden from this program.",
        "python -m envcheck                      (says what is wrong with the card)",
        "python -m benchmarks.gpu --rehearse     (the same jobs in small, on the CPU)",
    )


def check_names(asked: argparse.Namespace, jobs: list[Any], known: list[str]) -> None:
    from kit.support.errors import USAGE, did_you_mean, failure

    wrong = [name for name in asked.again if name not in known and name != "failed"]
    wrong += [name for name in asked.only if not any(job.startswith(name) for job in known)]
    if wrong:
        what = f"No job is named {wrong[0]}. {did_you_mean(wrong[0], known)}".rstrip()
        raise failure("unknown-job", what, f"The jobs are {', '.join(known)}.", "--list", status=USAGE)


def about_machine(facts: Any, card: Any, rehearsal: bool) -> dict[str, Any]:
    from benchmarks.measure import machine
    from kit.options.resolve import card_key
    from kit.run.recording import versions

    key = "rehearsal" if rehearsal else card_key(card.name or "card")
    return {"key": key, "rehearsal": rehearsal, "machine": machine(facts), "versions": versions()}


def hash_of(about: dict[str, Any]) -> str:
    """Records of other versions or another driver are kept apart."""
    same = repr((about["versions"], about["machine"].get("driver"), about["machine"]["gpu"]))
    return hashlib.sha256(same.encode()).hexdigest()[:8]


def show(jobs: list[Any], records: dict[str, Any]) -> int:
    from kit.support.units import clock

    for job in jobs:
        record = records.get(job.name, {"status": "to do", "why": ""})
        print(f"{record['status']:<14}{clock(job.expected_s):>5}  {job.name:<32}{record['why'] or job.what}")
    return DONE


def write(folder: Path, key: str, jobs: list[Any], records: dict[str, Any], about: dict[str, Any]) -> list[Path]:
    import json

    from benchmarks.gpu import page, summary
    from kit.support.files import write_whole

    if not records:
        return []
    result = summary.combine(jobs, records, about)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"gpu_{key}{suffix}" for suffix in (".json", ".html")]
    write_whole(paths[0], [json.dumps(result, indent=1, ensure_ascii=False) + "\n"])
    write_whole(paths[1], [page.render(result)])
    return paths


if __name__ == "__main__":
    sys.exit(main())
