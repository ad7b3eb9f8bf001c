"""Trial folders -> one record of the sweep, and its files. What a trial did is read from its own folder alone."""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kit.options import Run
from kit.run import reading
from kit.run.fit import PAUSED
from kit.run.folder import FREE
from kit.run.layout import MANIFEST, OPTIONS
from kit.run.reading import RunRecord, read
from kit.support.files import write_whole
from kit.support.untrusted import finite_number
from kit.sweep import grid
from kit.sweep.halving import mean_loss
from kit.sweep.planning import Planned, Plans

if TYPE_CHECKING:
    import pandas

JSON, CSV = "results.json", "results.csv"
SEED = "seed"
Status = Literal["finished", "stopped", "failed", "left out", "unfinished", "waiting"]


@dataclass(frozen=True)
class Trial:
    """One run of the sweep.

    values: what sets it apart. loss: of the held-out rows after `step`, in nats a trained token; only of a finished
    trial that is the end of the run. status stopped: another setting was better at that step. seconds: of training.
    peak_memory_bytes: the most that was taken at the end of a step. words: why it failed or was left out.
    """

    values: dict[str, str]
    setting: str
    folder: Path
    status: Status
    trained_params: int | None
    loss: float | None
    step: int
    steps: int | None
    seconds: float | None
    peak_memory_bytes: int | None
    words: str = ""

    @property
    def seed(self) -> str:
        return self.values.get(SEED, "")


@dataclass(frozen=True)
class Setting:
    """The trials that differ in their seed only. loss: their mean; spread: its standard deviation over the seeds."""

    values: dict[str, str]
    trials: tuple[Trial, ...]

    @property
    def status(self) -> Status:
        order: tuple[Status, ...] = ("failed", "left out", "unfinished", "waiting", "stopped", "finished")
        return min((trial.status for trial in self.trials), key=order.index)

    @property
    def loss(self) -> float | None:
        """None too where the seeds are at different points of their runs."""
        if self.status != "finished" and len({(trial.status, trial.step) for trial in self.trials}) > 1:
            return None
        return mean_loss(trial.loss for trial in self.trials)

    @property
    def seeds(self) -> set[str]:
        return {trial.seed for trial in self.trials}

    def loss_of(self, seeds: set[str]) -> float | None:
        """The mean over these seeds alone."""
        return mean_loss(trial.loss for trial in self.trials if trial.seed in seeds)

    @property
    def spread(self) -> float | None:
        if self.loss is None or len(self.trials) < 2:
            return None
        return statistics.stdev(trial.loss for trial in self.trials)

    @property
    def name(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items()) or "the run as it is"

    def above(self, other: "Setting") -> list[float]:
        """How much higher its loss is, for each seed in common: a seed also chooses the rows that are measured on."""
        theirs = {trial.seed: trial.loss for trial in other.trials}
        return [trial.loss - theirs[trial.seed] for trial in self.trials
                 if trial.loss is not None and theirs.get(trial.seed) is not None]  # fmt: skip

    def is_within_spread_of(self, other: "Setting") -> bool:
        """The mean difference is no larger than its standard deviation over the seeds: it may be chance."""
        apart = self.above(other)
        return len(apart) > 1 and abs(statistics.mean(apart)) <= statistics.stdev(apart)


@dataclass(frozen=True)
class Sweep:
    """Every trial in the sweep's folder, those of earlier grids too. notes: what was decided, in words."""

    folder: Path
    varied: tuple[str, ...]
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(trial.setting, []).append(trial)
        return tuple(
            Setting({name: value for name, value in found[0].values.items() if name != SEED}, tuple(found))
            for found in groups.values()
        )

    @property
    def best(self) -> Setting | None:
        """The lowest loss among the settings that were trained to their end, over the seeds that all of them have."""
        common = self.common_seeds
        return min(self.finished, key=lambda one: one.loss_of(common or one.seeds), default=None)

    @property
    def finished(self) -> list[Setting]:
        return [one for one in self.settings if one.status == "finished" and one.loss is not None]

    @property
    def common_seeds(self) -> set[str]:
        return set.intersection(*(one.seeds for one in self.finished)) if self.finished else set()

    def plotted(self, one: Setting) -> tuple[float | None, float]:
        """(mean, bar) of a setting beside the others: over the seeds that all have, where there are any.

        bar: the standard deviation over the seeds of how far it is from the mean of all finished settings under that
        seed, as each seed has rows of its own (Cousineau 2005, doi:10.20982/tqmp.01.1.p042); 0 for a single seed.
        """
        seeds = one.seeds & self.common_seeds or one.seeds
        middle = {seed: mean_loss(other.loss_of({seed}) for other in self.finished) for seed in seeds}
        apart = [
            one.loss_of({seed}) - middle[seed]
            for seed in seeds
            if one.status == "finished" and middle[seed] is not None
        ]
        return one.loss_of(seeds), statistics.stdev(apart) if len(apart) > 1 else 0.0

    @property
    def best_command(self) -> str | None:
        """Trains the best setting once more; the trial's own folder is that run already."""
        if self.best is None:
            return None
        return f"python -m kit.train --config {self.best.trials[0].folder / OPTIONS} --output runs/best"

    def told(self) -> list[str]:
        """The outcome in sentences."""
        best = self.best
        if best is None:
            return ["No trial has finished."]
        spread = f" (± {best.spread:.3f} over {len(best.trials)} seeds)" if best.spread is not None else ""
        said = [f"Best: {best.name}: held-out loss {best.loss:.3f}{spread}."]
        said.append(f"It is trained in full: {best.trials[0].folder} is that run. Once more: {self.best_command}")
        others = [one for one in self.finished if one is not best]
        if not self.common_seeds:
            said.append(
                "No seed is common to all settings, and each holds out other rows: losses are hardly comparable."
            )
        elif any(one.seeds != self.common_seeds for one in self.finished):
            said.append(f"Compared by what all settings have: seed {', '.join(sorted(self.common_seeds))}.")
        close = [one.name for one in others if one.is_within_spread_of(best)]
        if close:
            said.append(f"Within the spread of the seeds, so not told apart from it: {'; '.join(close)}.")
        elif others and best.spread is None:
            said.append("One seed each: how much of a difference is chance is not known; --over seed=1,2,3 shows it.")
        if any(one.status == "stopped" for one in self.settings):
            said.append("The loss of a stopped trial is that of the step where it stopped, not of the end of its run.")
        return said

    def table(self) -> "pandas.DataFrame":
        """A row for each trial; numbers as numbers."""
        import pandas

        frame = pandas.DataFrame([row(trial, self.varied) for trial in self.trials])
        for name in self.varied:
            numbers = pandas.to_numeric(frame[name], errors="coerce")
            frame[name] = frame[name] if numbers.isna().any() else numbers
        return frame

    def _repr_html_(self) -> str:
        from kit.sweep.showing import html_table  # here, not above: that file shows what is recorded here

        return html_table(self)

    def to_json(self) -> dict[str, Any]:
        best = self.best
        settings = [
            {
                "values": one.values,
                "status": one.status,
                "loss": one.loss,
                "spread": one.spread,
                "seeds": len(one.trials),
                "is_within_spread_of_best": best not in (None, one) and one.is_within_spread_of(best),
            }
            for one in self.settings
        ]
        trials = [{name: value for name, value in asdict(trial).items() if name != "setting"} for trial in self.trials]
        return {
            "folder": self.folder,
            "varied": self.varied,
            "best": {"values": best.values, "loss": best.loss, "folder": best.trials[0].folder} if best else None,
            "best_command": self.best_command,
            "told": self.told(),
            "notes": self.notes,
            "settings": settings,
            "trials": trials,
        }

    def save(self) -> None:
        """results.json and results.csv in the sweep's folder."""
        text = io.StringIO()
        rows = [row(trial, self.varied) for trial in self.trials]
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.folder / CSV, [text.getvalue()])
        write_whole(self.folder / JSON, [json.dumps(self.to_json(), indent=1, ensure_ascii=False, default=str) + "\n"])


def row(trial: Trial, varied: Sequence[str]) -> dict[str, Any]:
    return {name: trial.values[name] for name in varied} | {
        "trained_params": trial.trained_params,
        "held_out_loss": trial.loss,
        "step": trial.step,
        "steps": trial.steps,
        "status": trial.status,
        "seconds": trial.seconds,
        "peak_memory_bytes": trial.peak_memory_bytes,
        "folder": str(trial.folder),
        "words": trial.words,
    }


def recorded(trials: Sequence[Mapping[str, Any]]) -> Sweep:
    """The sweep whose results.json had these trials, or only their values and losses at the end of their runs."""
    blank = {"folder": "", "status": "finished", "trained_params": None, "step": 0, "steps": None, "seconds": None,
             "peak_memory_bytes": None}  # fmt: skip
    found = []
    for trial in trials:
        setting = ", ".join(f"{name} {value}" for name, value in trial["values"].items() if name != SEED)
        fields = blank | dict(trial) | {"setting": setting}
        found.append(Trial(**fields | {"folder": Path(fields["folder"])}))
    varied = tuple(found[0].values)
    return Sweep(Path(), varied, tuple(_in_order(found, varied)))


def collect(plans: Plans, failed: dict[Path, str], notes: Sequence[str], is_over: bool) -> Sweep:
    """The record of all folders. failed: of trials that may have left no word. is_over: every trial had its turn, so
    one that waits at a rung was stopped there."""
    found = [_of_plan(trial, failed.get(trial.folder, ""), is_over) for trial in plans.trials]
    others = [(path, run) for path in plans.others if (run := reading.options(path))]
    found += [_of_record(read(path), path, grid.identity(run, SEED), True) for path, run in others]
    runs = [trial.command.run for trial in plans.trials] + [run for _, run in others]
    varied = _varied(plans.trials[0].values, runs)
    named = [
        replace(trial, values={name: grid.word(name, getattr(run, name)) for name in varied})
        for trial, run in zip(found, runs, strict=True)
    ]
    return Sweep(plans.folder, varied, tuple(_in_order(named, varied)), tuple(notes))


def reached(record: RunRecord, step: int) -> float | None:
    """The held-out loss at a rung that ends there: where the run paused, or where it ended before."""
    for event in reversed(record.events):
        if event.get("kind") == PAUSED and event.get("step") == step:
            return finite_number(event.get("held_out_loss"))
    return record.loss_after if record.status == "finished" and record.last_step <= step else None


def _varied(of_grid: Iterable[str], runs: Sequence[Run]) -> tuple[str, ...]:
    """What the grid names, and whatever else differs between the trials in the folder."""
    others = [name for name in Run.model_fields if name not in FREE | grid.SAME_ROWS
              and len({grid.word(name, getattr(run, name)) for run in runs}) > 1]  # fmt: skip
    return tuple(dict.fromkeys([*of_grid, *others]))


def _of_plan(planned: Planned, why_failed: str, is_over: bool) -> Trial:
    plan = planned.plan
    steps, params = planned.steps, plan.trained_params if plan else None
    blank = Trial(planned.values, planned.setting, planned.folder, "waiting", params, None, 0, steps, None, None)
    if not planned.fits:
        return replace(blank, status="left out", words="the plan says that it will not fit")
    if not (planned.folder / MANIFEST).is_file():
        return replace(blank, status="failed", words=why_failed) if why_failed else blank
    made = _of_record(read(planned.folder), planned.folder, planned.setting, is_over)
    made = replace(made, steps=steps, trained_params=params if plan else made.trained_params)
    if why_failed:
        return replace(made, status="failed", loss=None, words=why_failed)
    return made


def _of_record(record: RunRecord, folder: Path, setting: str, is_over: bool) -> Trial:
    step, loss = record.losses[-1] if record.losses and record.losses[-1][0] else (record.last_step, None)
    paused = record.status == "interrupted" and finite_number(record.result.get("loss_after")) is not None
    status: Status = "stopped" if paused and is_over else "unfinished"
    words = ""
    if record.status == "finished":
        status, loss, step = "finished", record.loss_after, record.last_step
    elif record.status == "failed":
        told = [str(event.get("text", "")) for event in record.events if event.get("kind") == "failed"]
        status, loss, step, words = "failed", None, record.last_step, told[-1] if told else ""
    last = record.steps[-1] if record.steps else {}
    params = finite_number(record.plan.get("trained_params"))
    return Trial(
        values={},
        setting=setting,
        folder=folder,
        status=status,
        trained_params=int(params) if params is not None else None,
        loss=loss,
        step=int(step),
        steps=record.planned_steps,
        seconds=finite_number(record.result.get("train_s")) or last.get("elapsed_s"),
        peak_memory_bytes=int(max((line.get("memory_bytes", 0) for line in record.steps), default=0)) or None,
        words=words,
    )


def _in_order(trials: Sequence[Trial], varied: Sequence[str]) -> list[Trial]:
    """By the values, one option after the other: numbers by size, words as they came first."""
    places = {name: _places([trial.values[name] for trial in trials]) for name in varied}
    return sorted(trials, key=lambda trial: [places[name][trial.values[name]] for name in varied])


def _places(values: Sequence[str]) -> dict[str, int]:
    seen = list(dict.fromkeys(values))
    numbers = {value: as_number(value) for value in seen}
    if None not in numbers.values():
        seen.sort(key=lambda value: numbers[value])
    return {value: place for place, value in enumerate(seen)}


def as_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
