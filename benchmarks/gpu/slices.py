"""Jobs in processes of their own, one after the other, until the time is over; the next call goes on.

A record is a file of its own, written whole as soon as its job has ended, however it ended: what runs out of memory,
crashes or hangs is a result too. No torch here.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.gpu import shapes, utilisation
from benchmarks.gpu.catalogue import CardJob
from benchmarks.measure import ROOT
from envcheck.explain import explain
from envcheck.facts import Facts
from kit.backend.device_errors import MEMORY_RAN_OUT
from kit.support.files import write_whole
from kit.support.units import GIB, clock

LIMIT_FACTOR, LEAST_LIMIT_S = 4, 180  # of the seconds that a job is expected to take
SPARE_GIB = 3  # of disk, beside a model
MODEL_S, MODEL_S_PER_GIB = 8, 1  # to write one
MOST_SCALE = 4  # as many times slower than expected a machine is taken to be
QUIET = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "PYTHONUTF8": "1"}
FINDING = re.compile(r"^error: ([\w-]+)\s+(.+)", re.MULTILINE)  # as the kit and envcheck print one
WHY = re.compile(r"^ +why: (.+)", re.MULTILINE)
RAISED = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")  # the last line of a traceback
Record = dict[str, Any]


class Watched(NamedTuple):
    """The card of all jobs. index: as nvidia-smi counts, None for none. env: so that torch sees it as the first one."""

    index: int | None = None
    env: Mapping[str, str] = {}


@dataclass(frozen=True)
class Ended:
    """A process that is over. status: None where it was stopped at its limit."""

    status: int | None
    start_s: float
    wall_s: float
    out: str
    err: str
    samples: list[utilisation.Reading]


def run_process(arguments: Sequence[str], env: dict[str, str], log: Path, limit_s: float, card: Watched) -> Ended:
    """`python ARGUMENTS` from the repository's root, with all it starts ended at the limit or by Ctrl-C."""
    log.parent.mkdir(parents=True, exist_ok=True)
    files = [log.with_suffix(suffix) for suffix in (".out.txt", ".err.txt")]
    start_s = time.time()
    with files[0].open("wb") as out, files[1].open("wb") as err, utilisation.Watcher(card.index) as watcher:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **QUIET, **card.env, **env},
        )
        try:
            status: int | None = child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_all(child)
    out_text, err_text = (file.read_text("utf-8", "replace") for file in files)
    return Ended(status, start_s, round(time.time() - start_s, 1), out_text, err_text, watcher.samples)


def end_all(child: "subprocess.Popen[bytes]") -> None:
    """The process and what it started, if it still runs."""
    if child.poll() is not None:
        return
    process = psutil.Process(child.pid)
    for one in (*process.children(recursive=True), process):
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    child.wait()


def judge(ended: Ended) -> tuple[str, str, Record]:
    """(how it ended, in words why, its figures)."""
    figures = figures_in(ended.out)
    if ended.status == 0:
        return "done", "", figures
    if ended.status is None:
        return "timed out", f"stopped after {ended.wall_s:.0f} s", figures
    words = last_words(ended, figures)
    if "out-of-memory" in words or MEMORY_RAN_OUT.search(words):
        return "out of memory", words, figures
    words += known_cause(ended.err)
    if ended.status < 0:
        return (
            "killed",
            f"ended by signal {-ended.status}, 9 often where main memory runs out. {words}".strip(),
            figures,
        )
    return "failed", words or f"status {ended.status}, without a word", figures


def figures_in(out: str) -> Record:
    """The JSON object that was printed, alone or as the last line; what else was said last."""
    lines = out.strip().splitlines() or [""]
    for text in (out, lines[-1]):
        try:
            if isinstance(found := json.loads(text), dict):
                return found
        except ValueError:
            continue
    return {"said": lines[-1]} if lines[-1] else {}


def last_words(ended: Ended, figures: Record) -> str:
    """What went wrong: findings that were printed, else what was raised, else the last line."""
    if errors := [found["what"] for found in figures.get("findings", ()) if found.get("severity") == "error"]:
        return " ".join(errors)
    if found := list(FINDING.finditer(ended.err)):
        why = WHY.search(ended.err, found[-1].end())
        return " ".join(filter(None, (f"{found[-1][1]}: {found[-1][2]}", why and why[1])))
    lines = [line.strip() for line in ended.err.splitlines() if line.strip()]
    raised = [line for line in lines if RAISED.match(line)]  # a bar of progress may stand behind it
    return (raised or lines)[-1][:400] if lines else figures.get("said", "")


def known_cause(text: str) -> str:
    """What envcheck says of an error text, if it is sure."""
    first = explain(text[-20_000:], Facts())[:1]
    is_sure = first and first[0].id != "text-not-recognised" and not first[0].what.startswith("A guess")
    return f" ({first[0].what})" if is_sure else ""


class Slice:
    """As many of the jobs as the time allows. folder: of the records. code: hash of what is measured."""

    def __init__(self, folder: Path, minutes: float, card: Watched, code: str, say: Callable[[str], None]):
        self.folder, self.card, self.code, self.say = folder, card, code, say
        self.end_s = time.monotonic() + 60 * minutes
        self.has_run = False

    def records(self) -> dict[str, Record]:
        """Of the jobs that have ended, by name."""
        return {path.stem: json.loads(path.read_text("utf-8")) for path in (self.folder / "records").glob("*.json")}

    def forget(self, names: set[str]) -> None:
        for name in names:
            (self.folder / "records" / f"{name}.json").unlink(missing_ok=True)

    def run(self, jobs: list[CardJob]) -> bool:
        """Whether every job has a record now."""
        while True:
            records = self.records()
            todo = [job for job in jobs if job.name not in records]
            self.drop_models({job.model for job in todo})
            scale = how_slow(jobs, records)
            left_s = self.end_s - time.monotonic()
            fitting = [job for job in todo if scale * (job.expected_s + self.making_s({job.model})) <= left_s]
            fitting = fitting or ([] if self.has_run else todo[:1])
            if not fitting:
                return not todo
            work_s = sum(one.expected_s for one in todo) + self.making_s({one.model for one in todo})
            job, work_s = fitting[0], scale * work_s
            self.say(f"[{len(jobs) - len(todo) + 1}/{len(jobs)}] {job.name}: {job.what}")
            self.say(f"    about {clock(work_s)} of work left, {clock(max(0, left_s))} of this call")
            self.run_job(job, scale)
            self.has_run = True

    def run_job(self, job: CardJob, scale: float) -> None:
        """scale: how much slower than expected this machine is."""
        if trouble := self.make_model(job):
            self.keep(job, {"status": "failed", "why": trouble, "wall_s": 0, "figures": {}, "gpu": {}})
            return
        limit_s = max(LEAST_LIMIT_S, LIMIT_FACTOR * scale * job.expected_s)
        left_s = self.end_s - time.monotonic()
        ended = run_process(
            job.arguments, dict(job.env), self.folder / "logs" / job.name, min(limit_s, left_s), self.card
        )
        if ended.status is None and left_s < limit_s and self.has_run:
            self.say("    the time of this call is over: this job begins again in the next one")
            return
        status, why, figures = judge(ended)
        if ended.status is None and left_s < limit_s:
            why += ", the whole of this call: give it more --minutes, and --again its name"
        window = figures.get("window_s") or [ended.start_s, ended.start_s + ended.wall_s]
        gpu = utilisation.summary(ended.samples, *window)
        self.keep(job, {"status": status, "why": why, "wall_s": ended.wall_s, "figures": figures, "gpu": gpu})

    def keep(self, job: CardJob, found: Record) -> None:
        path = self.folder / "records" / f"{job.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "job": job.name,
            "what": job.what,
            "model": job.model,
            "expected_s": job.expected_s,
            "env": dict(job.env),
        }
        ended = {"ended": datetime.now(UTC).isoformat(timespec="seconds"), "code": self.code}
        write_whole(path, [json.dumps({**about, **found, **ended}, indent=1, ensure_ascii=False)])
        self.say(f"    {found['status']} after {clock(found['wall_s'])}{': ' if found['why'] else ''}{found['why']}")

    # models are made when they are needed and removed when no job needs them any more: all together take 60 GB

    def making_s(self, models: set[str]) -> float:
        """Seconds that those of them take that are not there."""
        missing = [model for model in models if model and not (self.folder / "models" / model).is_dir()]
        return sum(MODEL_S + MODEL_S_PER_GIB * shapes.disk_gib(model) for model in missing)

    def make_model(self, job: CardJob) -> str:
        """ "" once the job's model is there, else why it cannot be."""
        model = self.folder / "models" / job.model
        if not job.model or model.is_dir():
            return ""
        model.parent.mkdir(parents=True, exist_ok=True)
        need_gib = shapes.disk_gib(job.model) + SPARE_GIB
        for other in sorted(model.parent.iterdir()):
            if free_gib(model.parent) < need_gib:
                shutil.rmtree(other)
        if free_gib(model.parent) < need_gib:
            return f"the weights of {job.model} need {need_gib:.0f} GiB of disk, {free_gib(model.parent):.0f} are free"
        self.say(f"    writing random weights for the shape {job.model}: {need_gib - SPARE_GIB:.1f} GiB")
        arguments = ["-m", "benchmarks.gpu.shapes", job.model, str(model)]
        ended = run_process(arguments, {}, self.folder / "logs" / f"shape-{job.model}", 600, self.card)
        return "" if ended.status == 0 else f"its model could not be written: {judge(ended)[1]}"

    def drop_models(self, needed: set[str]) -> None:
        for folder in (self.folder / "models").glob("*"):
            if folder.name not in needed:
                shutil.rmtree(folder)


def free_gib(folder: Path) -> float:
    return shutil.disk_usage(folder).free / GIB


def how_slow(jobs: list[CardJob], records: dict[str, Record]) -> float:
    """Seconds that jobs took here over those expected; a machine is not taken to be faster than expected."""
    took = [(record["wall_s"], job.expected_s) for job in jobs
            if (record := records.get(job.name, {})).get("status") == "done"]  # fmt: skip
    return min(MOST_SCALE, max(1.0, sum(t for t, _ in took) / max(1, sum(e for _, e in took)))) if took else 1.0
