"""Planned trials -> trained ones: rung by rung, each from where it paused; what fails is told and passed over."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from envcheck import probe
from envcheck.facts import Facts
from kit import train
from kit.run.layout import LOCK
from kit.run.reading import RunRecord, read
from kit.run.record import Result
from kit.support import console
from kit.support.errors import KitError, problem
from kit.support.progress import OnProgress
from kit.support.units import clock
from kit.sweep import halving, showing
from kit.sweep.options import SweepCommand
from kit.sweep.planning import Planned, Plans, check_any_fits, plans
from kit.sweep.results import Sweep, collect, reached

TrainOne = Callable[[Planned, int | None, OnProgress], Result]


def sweep(command: SweepCommand) -> Sweep:
    """Train every trial that fits, losers not to their end, and write results.json, results.csv, plot.svg, sweep.html.

    The same command goes on with what is not finished. Raises KitError before the first trial for all that can be
    wrong; KeyboardInterrupt after Ctrl-C, when all that is done is in the files.
    """
    facts = probe.collect()
    found = plans(command, facts)
    check_any_fits(found)
    for note in found.notes:
        console.note(note)
    with _alone_in(found.folder):
        running = Running(found, command, _trainer(facts))
        try:
            running.run()
        finally:
            done = collect(found, running.failed, [*found.notes, *running.notes], running.is_over)
            showing.save(done)
            if not running.is_over:
                showing.show(console.stderr, done)
                console.note(f"{found.folder} holds what is done; the same command goes on from there")
    return done


def _trainer(facts: Facts) -> TrainOne:
    """One trial by kit.train's own path."""

    def train_one(trial: Planned, pause_step: int | None, shown: OnProgress) -> Result:
        prepared = train.prepare(trial.command, facts)
        return train.train(prepared, lambda: nullcontext(shown), pause_step)

    return train_one


@dataclass
class Running:
    """One command at work. failed: folder of a trial -> why, in words; notes: what was decided."""

    plans: Plans
    command: SweepCommand
    train_one: TrainOne
    failed: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_over: bool = False

    def run(self) -> None:
        settings: dict[str, list[Planned]] = {}
        for trial in self.plans.trials:
            if trial.fits:
                settings.setdefault(trial.setting, []).append(trial)
        rungs = self.command.rungs if len(settings) > 1 else 1
        with Progress(self._steps_to_do(list(settings.values()), rungs)) as progress:
            for trial in self.plans.trials:
                progress.compare(read(trial.folder))
            for rung in range(rungs):
                for trial in [trial for group in settings.values() for trial in group]:
                    self._to_rung(trial, self._ends(trial, rungs)[rung], progress)
                if rung < rungs - 1:
                    settings = self._decide(settings, rung, rungs)
        self.is_over = True

    def _ends(self, trial: Planned, rungs: int) -> tuple[int, ...]:
        return halving.rung_steps(trial.steps, rungs, self.command.keep)

    def _steps_to_do(self, settings: Sequence[Sequence[Planned]], rungs: int) -> int:
        """Without what earlier commands did."""
        ends = [[sum(each) for each in zip(*(self._ends(trial, rungs) for trial in group), strict=True)]
                for group in settings]  # fmt: skip
        done = sum(read(trial.folder).last_step for group in settings for trial in group)
        return max(1, halving.steps_to_do(ends, self.command.keep) - done)

    def _to_rung(self, trial: Planned, end: int, progress: "Progress") -> None:
        """Train until that step, where the trial is not there yet."""
        record = read(trial.folder)
        if trial.folder in self.failed or _is_there(record, end):
            return
        progress.begins(trial, record.last_step)
        with console.saying_to(console.QUIET):
            error = self._error_of(trial, end if end < trial.steps else None, progress.show)
        if error:
            self.failed[trial.folder] = error
            console.say(f"{trial.name}: failed: {error}", style="red")
        else:
            progress.ended(trial, read(trial.folder))

    def _error_of(self, trial: Planned, pause_step: int | None, shown: OnProgress) -> str:
        """Why it failed, in words; "" if it did not. One trial's error is no reason to end the others."""
        from kit import backend

        try:
            self.train_one(trial, pause_step, shown)
            told = ""
        except Exception as error:
            told = train.why(error)
        backend.free_memory()  # outside of `except`: the error holds on to the trial's tensors
        return told

    def _decide(self, settings: Mapping[str, list[Planned]], rung: int, rungs: int) -> dict[str, list[Planned]]:
        """The settings that go on. One that an earlier command took further than this rung goes on unasked."""
        losses, ahead = {}, set()
        for key, group in settings.items():
            ends = {trial.folder: self._ends(trial, rungs)[rung] for trial in group}
            records = {trial.folder: read(trial.folder) for trial in group}
            found = [None if path in self.failed else reached(records[path], end) for path, end in ends.items()]
            if not self.failed.keys() & ends.keys() and None in found:
                ahead.add(key)
            else:
                losses[key] = halving.mean_loss(found)
        stay = halving.survivors(losses, self.command.keep) | ahead
        self._tell(settings, losses, stay, rung, rungs)
        return {key: group for key, group in settings.items() if key in stay}

    def _tell(
        self, settings: Mapping[str, list[Planned]], losses: Mapping[str, float | None], stay: set[str], rung: int,
        rungs: int,
    ) -> None:  # fmt: skip
        gone = [
            f"{_setting_name(group)} at step {self._ends(group[0], rungs)[rung]} "
            + (f"({losses[key]:.3f})" if losses[key] is not None else "(a trial of it failed)")
            for key, group in settings.items()
            if key not in stay
        ]
        text = f"rung {rung + 1} of {rungs}: {len(stay)} of {len(settings)} settings go on"
        self.notes.append(f"{text}; stopped: {'; '.join(gone)}" if gone else text)
        console.note(self.notes[-1])


class Progress:
    """One bar over the steps of all trials, and a line when a trial has come to its rung."""

    def __init__(self, steps: int):
        self.steps = steps
        self.done = self.last_step = 0
        self.name = ""
        self.best: float | None = None
        self.loud = console.stderr
        self.start_s = time.monotonic()

    def __enter__(self) -> "Progress":
        self.bars: AbstractContextManager[OnProgress] = console.progress()
        self.shown = self.bars.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self.done:
            self.shown("sweep", self.steps, self.steps, "")
        self.bars.__exit__(*error)

    def begins(self, trial: Planned, step: int) -> None:
        self.name, self.last_step = trial.name, step
        self.start_s = time.monotonic()

    def show(self, stage: str, done: int, total: int, detail: str) -> None:
        """What a run tells; only its steps count here."""
        if stage != "training":
            return
        for _ in range(max(0, done - self.last_step)):  # one at a time: a bar begins with the first
            if self.done < self.steps - 1:  # how many there are is an estimate; the last is told at the end
                self.done += 1
                with console.saying_to(self.loud):
                    self.shown("sweep", self.done, self.steps, self.name)
        self.last_step = max(done, self.last_step)

    def compare(self, record: RunRecord) -> None:
        loss = record.loss_after
        if record.status == "finished" and loss is not None:
            self.best = loss if self.best is None else min(loss, self.best)

    def ended(self, trial: Planned, record: RunRecord) -> None:
        step, loss = record.losses[-1] if record.losses else (record.last_step, None)
        if loss is None:
            return
        self.compare(record)
        best = "" if self.best is None else f", best of those at their end {self.best:.3f}"
        seconds = clock(time.monotonic() - self.start_s)
        console.say(f"{trial.name}: held-out loss {loss:.3f} at step {step} of {trial.steps}{best}  ({seconds})")


def _is_there(record: RunRecord, end: int) -> bool:
    """The rung's loss is known, or the run is past it already."""
    is_past = record.last_step > end and record.status in ("finished", "interrupted")
    return record.status == "finished" or reached(record, end) is not None or is_past


def _setting_name(group: Sequence[Planned]) -> str:
    values = {name: value for name, value in group[0].values.items() if name != "seed"}
    return ", ".join(f"{name} {value}" for name, value in values.items())


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Raises KitError: another process sweeps in the folder, or it cannot be written to."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise KitError(
            problem(
                "sweep-in-use",
                f"Another process sweeps in {folder}.",
                "Two would train the same trials.",
                "wait for it, or stop it with Ctrl-C: it keeps what is done",
                "--into another/folder",
            )
        ) from None
    except OSError as error:
        raise KitError(
            problem(
                "output-not-writable", f"Nothing can be written to {folder}.", str(error), "--into a/folder/of/yours"
            )
        ) from None
    try:
        yield
    finally:
        lock.release()
