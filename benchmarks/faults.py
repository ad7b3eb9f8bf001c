"""Everything that can go wrong during a run, provoked in earnest: what it says, what it keeps, whether it goes on.

python -m benchmarks.faults [--only NAME ...]

Each fault strikes a `python -m kit.train` of its own on the embedded model (benchmarks/inject.py). Held against it: the
exit status, no traceback, an error that names a fix, the steps that are kept; and that the same command afterwards ends
with the losses of a run that nothing disturbed, to the last bit (it trains on the CPU). Linux; filling a disk mounts
one, which needs root.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from kit.run import checkpoints

STEPS = 6
OPTIONS = ("--preset", "cpu", "--max-steps", STEPS, "--batch-size", 4, "--sample-tokens", 4, "--held-out-rows", 5,
           "--evaluations", 1, "--learning-rate", "2e-3", "--keep-checkpoints", 1)  # fmt: skip
EACH_STEP = ("--checkpoint-minutes", 0)
DATA = measure.ROOT / "examples" / "identity.jsonl"
DISK_MIB, SMALL_DISK_MIB = 40, 5


@dataclass
class FaultSite:
    """Where one fault strikes: a folder of its own, with the run folder, the data and the cache in it."""

    root: Path
    backend: str
    options: tuple[Any, ...]

    @property
    def output(self) -> Path:
        return self.root / "disk" / "run"

    @property
    def data(self) -> Path:
        return self.root / "rows.jsonl"

    def arguments(self, *more: Any) -> list[str]:
        fixed = ("--backend", self.backend, "--data", self.data, "--output", self.output)
        return [*map(str, (*OPTIONS, *fixed, *self.options, *more))]

    def environment(self) -> dict[str, str]:
        """One thread each, so that faults can strike side by side without waiting for each other."""
        return {"KIT_CACHE": str(self.root / "cache"), "HOME": str(self.root), "OMP_NUM_THREADS": "1"}

    def run(self, *more: Any) -> measure.Done:
        """kit.train as it is."""
        return measure.run("-m", "kit.train", *self.arguments(*more), env=self.environment())

    def run_with(self, fault: str) -> measure.Done:
        return measure.run("-m", "benchmarks.inject", fault, *self.arguments(), env=self.environment())

    def losses(self) -> dict[int, tuple[float, int]]:
        """Step -> (loss, tokens so far), as written down; a step that stands there twice is an error."""
        path, found = self.output / "metrics.jsonl", {}
        for line in map(json.loads, path.read_text("utf-8").splitlines() if path.exists() else ()):
            if "loss" in line:
                assert line["step"] not in found, f"step {line['step']} is written down twice"
                found[line["step"]] = (line["loss"], line["tokens"])
        return found

    def steps_kept(self) -> int:
        """The newest step that the adapter or a whole checkpoint holds."""
        found, _ = checkpoints.whole(self.output / "checkpoints")
        newest = found[-1].about.step if found else 0
        return max(self.losses(), default=0) if (self.output / "adapter").is_dir() else newest


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    inject: name in benchmarks/inject.py; "" where `strike` does it. harm: done to the folder before the same command
    comes again, mend: what the user would do then. status, says: what the run must end with; kept: the steps that must
    not be lost. again: options of the command that comes after it; None: there is nothing left to do. then: what that
    command must say.
    equal: the losses are those of an undisturbed run, from first_step on; not where steps are split otherwise since.
    """

    name: str
    what: str
    inject: str = ""
    status: int = 0
    says: str = ""
    kept: int = STEPS
    again: tuple[Any, ...] | None = None
    then: str = ""
    equal: bool = True
    first_step: int = 1
    backend: str = "hf"
    options: tuple[Any, ...] = EACH_STEP
    disk_mib: int = 0
    strike: Callable[[FaultSite, "Fault"], measure.Done] | None = None
    harm: Callable[[FaultSite], None] = lambda place: None
    mend: Callable[[FaultSite], None] = lambda place: None


def newest(place: FaultSite) -> Path:
    return max((place.output / "checkpoints").glob("step-*"))


def flip_bytes(place: FaultSite) -> None:
    path = newest(place) / "trained_weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 0xFF
    path.write_bytes(content)


def cut(place: FaultSite) -> None:
    path = newest(place) / "trained_weights.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def take_files(place: FaultSite) -> None:
    for name in ("state.pt", checkpoints.ABOUT):
        (newest(place) / name).unlink()


def break_all(place: FaultSite) -> None:
    for path in (place.output / "checkpoints").glob("step-*"):
        (path / "state.pt").write_bytes(b"broken")


def free_disk(place: FaultSite) -> None:
    (place.output.parent / "ballast").unlink(missing_ok=True)


def give_rights(place: FaultSite) -> None:
    for path in (place.output, *place.output.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def full_cache(place: FaultSite, _: Fault) -> measure.Done:
    """The disk of $KIT_CACHE has room for a part of what is encoded."""
    (place.root / "cache").mkdir(exist_ok=True)
    with mounted(place.root / "cache", "16k"):
        return place.run()


def unwritable_cache(place: FaultSite, _: Fault) -> measure.Done:
    return measure.run("-m", "kit.train", *place.arguments(), env={**place.environment(), "KIT_CACHE": "/proc/none"})


def read_only_start(place: FaultSite, fault: Fault) -> measure.Done:
    place.output.mkdir(parents=True)
    place.output.chmod(0o555)
    return place.run_with(fault.inject)


def beside_another(place: FaultSite, fault: Fault) -> measure.Done:
    """The second process; the first one waits in a step until that has ended, then goes on to its own end."""
    command = [sys.executable, "-m", "benchmarks.inject", fault.inject, *place.arguments()]
    first = subprocess.Popen(command, cwd=measure.ROOT, env={**os.environ, **place.environment()},
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while first.poll() is None and not (place.output.parent / "waiting").exists():
        time.sleep(0.05)
    second = place.run()
    (place.output.parent / "go").touch()
    first.wait()
    return second


MEMORY = "memory ran out"
PASSED, AGAIN = "is not whole and is passed over", "beginning again with step 1"
KILLED = 15 if sys.platform == "win32" else -9  # as psutil ends a process there
FAULTS = (
    Fault("memory: loading", "no room for the model", "oom-load", 1, "out-of-memory-at-load", 0),
    Fault("memory: adapter made", "no room for the adapter", "oom-adapt", 1, "out-of-memory-at-load", 0),
    Fault("memory: trainer made", "no room for the trainer", "oom-trainer", 1, "error: out-of-memory", 0),
    Fault("memory: preflight, once", "half as much at once from then on", "oom-preflight-once", says=MEMORY,
          equal=False),
    Fault("memory: preflight", "at every rung of the ladder", "oom-preflight", 1, "error: out-of-memory", 0),
    Fault("memory: step, once", "half as much at once from then on", "oom-step-once", says=MEMORY, equal=False),
    Fault("memory: step", "at every rung of the ladder", "oom-step", 1, "error: out-of-memory", 2, ()),
    Fault("memory: step, Unsloth", "the same", "oom-step", 1, "error: out-of-memory", 2, (), backend="unsloth"),
    Fault("memory: between steps", "where no ladder stands", "oom-between-steps", 1, "error: out-of-memory", 3, ()),
    Fault("memory: evaluation, once", "half as much at once from then on", "oom-evaluation-once", says=MEMORY,
          equal=False),
    Fault("memory: evaluation", "at every rung of the ladder", "oom-evaluation", 1, "error: out-of-memory", 3, (),
          equal=False),
    Fault("memory: last evaluation", "the same, after the last step", "oom-last-evaluation", 1, "out-of-memory", 6, ()),
    Fault("memory: answers before", "two of three answers are missing", "oom-answers-before", says=MEMORY),
    Fault("memory: answers after", "the last answer is missing", "oom-answers-after", says=MEMORY),
    Fault("memory: checkpoint, once", "the second try succeeds", "oom-checkpoint-once"),
    Fault("memory: checkpoint", "none can be written", "oom-checkpoint", says="no checkpoint at step 1"),
    Fault("memory: saving, once", "the second try succeeds", "oom-adapter-once"),
    Fault("memory: saving", "the adapter cannot be saved", "oom-adapter", 1, "adapter-not-saved", 6, ()),
    Fault("nan: stop", "a row of step 3 gives nan", "nan", 1, "loss-not-finite", 2, ()),
    Fault("nan: retry", "the same with --on-nan retry", "nan", says="loss is nan", equal=False,
          options=(*EACH_STEP, "--on-nan", "retry")),
    Fault("kill -9: no checkpoint yet", "behind step 1", "kill-before-checkpoint", KILLED, "", 0, ()),
    Fault("kill -9", "behind step 3, before its checkpoint", "kill", KILLED, "", 2, ()),
    Fault("kill -9: half a checkpoint", "its files have no name yet", "kill-while-writing", KILLED, "", 2, ()),
    Fault("disk full: start", f"a disk of {SMALL_DISK_MIB} MiB", "", 1, "disk-too-full", 0, disk_mib=SMALL_DISK_MIB),
    Fault("disk full: first checkpoint", "at step 1 and from then on", "disk-first-checkpoint", 1, "kit-adapter-", 0,
          again=(), disk_mib=DISK_MIB, mend=free_disk),
    Fault("disk full: later checkpoint", "at step 3 and from then on", "disk-later-checkpoint", 1, "kit-adapter-", 2,
          again=(), disk_mib=DISK_MIB, mend=free_disk),
    Fault("disk full: small files", "before the first line of metrics.jsonl", "disk-small-files", 1, "metrics.jsonl", 0,
          again=(), disk_mib=DISK_MIB, mend=free_disk, options=()),
    Fault("disk full: adapter", "while it is saved", "disk-adapter", 1, "adapter-not-saved", 6, (),
          disk_mib=DISK_MIB, mend=free_disk),
    Fault("disk full: manifest", "behind the adapter", "disk-manifest", 1, "output-cannot-be-written", 6, (),
          disk_mib=DISK_MIB, mend=free_disk),
    Fault("disk full: cache", "of the encoded data", "", 1, "cache-cannot-be-written", 0, (), strike=full_cache),
    Fault("cache that cannot be made", "KIT_CACHE is nowhere", "", 1, "cache-cannot-be-written", 0,
          strike=unwritable_cache),
    Fault("read-only: start", "as a user who may not write there", "read-only-start", 1, "output-not-writable", 0, (),
          strike=read_only_start, mend=give_rights),
    Fault("read-only: during the run", "from step 3", "read-only", 1, "kit-adapter-", 2, (), mend=give_rights),
    Fault("checkpoint: bytes flipped", "in the newest one", "kill", KILLED, "", 2, (), PASSED, harm=flip_bytes),
    Fault("checkpoint: cut", "the newest one's weights are cut to half", "kill", KILLED, "", 2, (), PASSED, harm=cut),
    Fault("checkpoint: files missing", "of the newest one", "kill", KILLED, "", 2, (), PASSED, harm=take_files),
    Fault("checkpoint: all broken", "every one there is", "kill", KILLED, "", 2, (), AGAIN, harm=break_all),
    Fault("clock: a day back", "in step 3", "clock-back"),
    Fault("clock: a year forward", "in step 3", "clock-forward"),
    Fault("second process", "in the folder of a run in its step 3", "second-process", 1, "output-in-use", again=(),
          strike=beside_another),
    Fault("SIGTERM", "in step 3", "sigterm", 130, "stopped after step 3", 3, ()),
    Fault("Ctrl-C", "in step 3", "ctrl-c", 130, "stopped after step 3", 3, ()),
    Fault("Ctrl-C, Unsloth", "in step 3", "ctrl-c", 130, "stopped after step 3", 3, (), backend="unsloth"),
    Fault("Ctrl-C twice", "the second while the checkpoint is written", "ctrl-c-twice", 130, "interrupted", 2, ()),
    Fault("run folder deleted", "behind step 3", "folder-deleted", says="was deleted: made again", first_step=3),
    Fault("data deleted", "file and cache, in step 3", "data-lost"),
    Fault("data changed", "in step 3", "data-changed"),
)  # fmt: skip


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own at the folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def place_of(fault: Fault) -> Iterator[FaultSite]:
    with tempfile.TemporaryDirectory() as scratch:
        place = FaultSite(Path(scratch), fault.backend, fault.options)
        disk = place.output.parent
        disk.mkdir()
        shutil.copy(DATA, place.data)
        if fault.disk_mib:
            with mounted(disk, f"{fault.disk_mib}m"):
                yield place
        else:
            yield place


def wrong_with(fault: Fault, done: measure.Done) -> list[str]:
    """What the end of the run is not as it must be."""
    said = done.stderr + done.stdout
    wrong = []
    if done.status != fault.status:
        wrong.append(f"exit status {done.status}, expected {fault.status}")
    if "Traceback" in said:
        wrong.append(f"a traceback: {done.stderr.strip().splitlines()[-1]}")
    if fault.says not in said:
        wrong.append(f"{fault.says!r} is not said")
    if done.status == 1 and "  fix: " not in said:
        wrong.append("no fix is named")
    return wrong


def first_line(fault: Fault, done: measure.Done) -> str:
    """Of the error, or of what was told about it."""
    lines = done.stderr.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("error: "):
            return " ".join((line, *lines[number + 1 : number + 3])).replace("   ", ": ").strip()
    return next((line for line in lines if fault.says and fault.says in line), "")


def look_at(fault: Fault, undisturbed: dict[int, tuple[float, int]]) -> dict[str, Any]:
    """One row of the table."""
    with place_of(fault) as place:
        done = fault.strike(place, fault) if fault.strike else (
            place.run_with(fault.inject) if fault.inject else place.run()
        )  # fmt: skip
        wrong, kept = wrong_with(fault, done), place.steps_kept()
        if kept < fault.kept:
            wrong.append(f"{kept} steps are kept, expected {fault.kept}")
        said = first_line(fault, done).replace(str(place.root), "...")
        fault.harm(place)
        if fault.again is not None:
            fault.mend(place)
            after = place.run(*fault.again)
            if after.status or "Traceback" in after.stderr or fault.then not in after.stderr:
                wrong.append(f"the same command afterwards: status {after.status}, {after.stderr[-1000:]}")
        found = place.losses()
        expected = {step: figures for step, figures in undisturbed.items() if step >= fault.first_step}
        finished = set(found) == set(expected) and (place.output / "adapter").is_dir()
        must_finish = fault.status == 0 or fault.again is not None
        if must_finish and (found != expected if fault.equal else not finished):
            wrong.append(f"losses {found} instead of {expected}")
    return {
        "fault": fault.name,
        "done": fault.what,
        "backend": fault.backend,
        "status": done.status,
        "said": said,
        "steps_kept": kept,
        "same_command_finished": finished,
        "losses_equal_to_the_last_bit": finished and found == expected,
        "wrong": wrong,
    }


def losses_of(backend: str) -> dict[int, tuple[float, int]]:
    """Of a run that nothing disturbs."""
    with place_of(Fault("none", "nothing", backend=backend)) as place:
        measure.must(place.run())
        return place.losses()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="parts of names; nothing is written to results/ then")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time")
    args = parser.parse_args()
    wanted = [one for one in FAULTS if not args.only or any(part in one.name for part in args.only)]
    can_mount = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount")
    start_s = time.perf_counter()
    undisturbed = {backend: losses_of(backend) for backend in sorted({one.backend for one in wanted})}

    def row(fault: Fault) -> dict[str, Any]:
        if (fault.disk_mib or fault.strike is full_cache) and not can_mount:
            found = {"fault": fault.name, "done": "not done: mounting a disk needs root", "wrong": ["not done"]}
        else:
            found = look_at(fault, undisturbed[fault.backend])
        print(json.dumps(found, ensure_ascii=False), flush=True)
        return found

    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(row, wanted))
    figures = {
        "command": " ".join(map(str, ("python -m kit.train", *OPTIONS))),
        "wall_s": round(time.perf_counter() - start_s),
        "faults": len(rows),
        "as_they_must_be": sum(not row["wrong"] for row in rows),
        "each": rows,
    }
    if not args.only:
        measure.write("faults", figures)
    sys.exit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
