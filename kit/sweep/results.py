"""The record of a sweep: its trials, the settings compared seed by seed, and the outcome in words, rows and files."""

import csv
import io
import json
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

from kit.run.layout import OPTIONS
from kit.support.files import write_whole
from kit.support.html_table import html_table
from kit.support.units import gib
from kit.support.user_shell import quoted
from kit.support.version import stamp
from kit.sweep.space import SEED
from kit.sweep.trials import name_of

JSON, CSV = "results.json", "results.csv"
COLUMNS = ("trained_params", "loss", "step", "steps", "status", "seconds", "peak_memory_bytes", "folder", "words")
Status = Literal["failed", "unfinished", "waiting", "stopped", "finished", "left out"]


@dataclass(frozen=True)
class Trial:
    """One run of the sweep.

    values: what sets it apart. loss: of the held-out rows after `step`, in nats a trained token; only of a finished
    trial that is the end of the run. status stopped: other settings were better at that step; left out: it does not
    fit, or its setting was given up with another seed. seconds: of training. peak_memory_bytes: the most that was taken
    at the end of a step. words: why it failed or was left out.
    """

    values: dict[str, str]
    folder: Path
    status: Status
    trained_params: int | None = None
    loss: float | None = None
    step: int = 0
    steps: int | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    words: str = ""


@dataclass(frozen=True)
class Setting:
    """The trials that differ in their seed only. values: without the seed."""

    values: dict[str, str]
    trials: tuple[Trial, ...]

    @property
    def status(self) -> Status:
        return min((trial.status for trial in self.trials), key=get_args(Status).index)

    @property
    def counted(self) -> list[Trial]:
        """Trials that were left out count for nothing."""
        return [trial for trial in self.trials if trial.status != "left out"]

    @property
    def losses(self) -> dict[str, float]:
        """Seed -> loss, where it is known; the seed "" where none varies."""
        return {trial.values.get(SEED, ""): trial.loss for trial in self.counted if trial.loss is not None}

    @property
    def seeds(self) -> set[str]:
        return set(self.losses)

    @property
    def loss(self) -> float | None:
        """The mean; None too where the seeds are at different points of their runs."""
        points = {(trial.status, trial.step) for trial in self.counted}
        is_one = self.status == "finished" or len(points) == 1
        return mean_loss(trial.loss for trial in self.counted) if is_one else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds."""
        return None if self.loss is None else _deviation(self.losses.values())

    def loss_of(self, seeds: set[str]) -> float:
        """The mean over these seeds alone."""
        return statistics.fmean(self.losses[seed] for seed in seeds)

    def above(self, other: "Setting") -> list[float]:
        """How much higher its loss is, for each seed in common: a seed also chooses the rows that are measured on."""
        return [loss - other.losses[seed] for seed, loss in self.losses.items() if seed in other.losses]

    def is_within_spread_of(self, other: "Setting") -> bool:
        """The mean difference is no larger than its standard deviation over the seeds: it may be chance."""
        apart = self.above(other)
        return len(apart) > 1 and abs(statistics.mean(apart)) <= statistics.stdev(apart)

    def figures(self, best: "Setting | None") -> list[str]:
        """As text: of one trial what is equal for all, the earliest step, the mean time, the most memory."""
        trials = self.counted or list(self.trials)
        params, steps = trials[0].trained_params, trials[0].steps
        peak_bytes = max(trial.peak_memory_bytes or 0 for trial in trials)
        seconds = [trial.seconds for trial in trials if trial.seconds is not None]
        seeds = f", {len(self.trials)} seeds" if len(self.trials) > 1 else ""
        words = dict.fromkeys(trial.words for trial in self.trials if trial.words)
        status = f"{self.status}{', best' if self is best else ''}{seeds}"
        return [
            "–" if params is None else f"{params:,}",
            "–" if self.loss is None else f"{self.loss:.3f}{_plus_minus(self.spread)}",
            "" if best is None or self is best else self._difference(best),
            f"{min(trial.step for trial in trials)}{f'/{steps}' if steps else ''}",
            f"{statistics.mean(seconds):,.1f}" if seconds else "–",
            gib(peak_bytes) if peak_bytes else "–",
            f"{status}: {'; '.join(words)}" if words else status,
        ]

    def _difference(self, best: "Setting") -> str:
        """Only of trials at the same point of their runs: at the end."""
        if self.status != "finished" or self.loss is None:
            return ""
        if not (apart := self.above(best)):
            return "other seeds"
        within = " (within the spread)" if self.is_within_spread_of(best) else ""
        return f"{statistics.mean(apart):+.3f}{_plus_minus(_deviation(apart))}{within}"


@dataclass(frozen=True)
class Sweep:
    """Every trial in the sweep's folder, those of earlier commands too. notes: what was decided, in words."""

    folder: Path
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()

    @property
    def varied(self) -> tuple[str, ...]:
        return tuple(self.trials[0].values)

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(name_of(trial.values, SEED), []).append(trial)
        return tuple(
            Setting({name: value for name, value in trials[0].values.items() if name != SEED}, tuple(trials))
            for trials in groups.values()
        )

    @property
    def finished(self) -> list[Setting]:
        return [setting for setting in self.settings if setting.status == "finished" and setting.loss is not None]

    @property
    def common_seeds(self) -> set[str]:
        return set.intersection(*(setting.seeds for setting in self.finished)) if self.finished else set()

    @property
    def best(self) -> Setting | None:
        """The lowest loss among the settings that were trained to their end, over the seeds that all of them have."""
        common = self.common_seeds
        return min(self.finished, key=lambda setting: setting.loss_of(common or setting.seeds), default=None)

    @property
    def best_command(self) -> str | None:
        """Trains the best setting once more; the trial's own folder is that run already."""
        best = self.best
        if best is None:
            return None
        return f"python -m kit.train --config {quoted(Path(best.trials[0].folder) / OPTIONS)} --output runs/best"

    def plotted(self, setting: Setting) -> tuple[float, float]:
        """(mean, bar) of a setting with a loss beside the others: over the seeds that all have, where there are any.

        bar: the standard deviation over the seeds of how far it is from the mean of all finished settings under that
        seed, as each seed has rows of its own (Cousineau 2005, doi:10.20982/tqmp.01.1.p042); 0 for a single seed.
        """
        common = setting.seeds & self.common_seeds
        middles = {seed: statistics.fmean(other.losses[seed] for other in self.finished) for seed in common}
        apart = [setting.losses[seed] - middle for seed, middle in middles.items() if setting.status == "finished"]
        return setting.loss_of(common or setting.seeds), _deviation(apart) or 0.0

    def outcome(self) -> list[str]:
        """The outcome in sentences."""
        best, common = self.best, self.common_seeds
        if best is None:
            return ["No trial has finished."]
        others = [setting for setting in self.finished if setting is not best]
        close = [name_of(setting.values) for setting in others if setting.is_within_spread_of(best)]
        over = f"{_plus_minus(best.spread)} over {len(best.trials)} seeds" if best.spread is not None else ""
        sentences = [
            f"Best: {name_of(best.values)}: held-out loss {best.loss:.3f}{over}.",
            f"It is trained in full: {best.trials[0].folder} is that run. Once more: {self.best_command}",
        ]
        if not common:
            sentences.append("No seed is common to all settings; each holds out other rows: losses hardly compare.")
        elif any(setting.seeds != common for setting in self.finished):
            sentences.append(f"Compared by what all settings have: seed {', '.join(sorted(common))}.")
        if close:
            sentences.append(f"Within the spread of the seeds, so not told apart from it: {'; '.join(close)}.")
        elif others and best.spread is None:
            sentences.append("One seed each: how much is chance is not known; --over seed=1,2,3 shows it.")
        if any(setting.status == "stopped" for setting in self.settings):
            sentences.append("The loss of a stopped trial is that of the step where it stopped, not of its run's end.")
        return sentences

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """(names of the columns, a row for each setting), as text."""
        figures = ("trained weights", "held-out loss", "vs best", "step", "seconds", "GiB", "status")
        rows = [[*setting.values.values(), *setting.figures(self.best)] for setting in self.settings]
        return [*(name for name in self.varied if name != SEED), *figures], rows

    def html_table(self) -> str:
        """The cells as HTML, the best setting marked."""
        return html_table(*self.cells(), {index for index, one in enumerate(self.settings) if one is self.best})

    _repr_html_ = html_table

    def to_json(self) -> dict[str, Any]:
        best = self.best
        settings = [
            {name: getattr(setting, name) for name in ("values", "status", "loss", "spread")}
            | {"seeds": len(setting.trials)}
            | {"is_within_spread_of_best": best not in (None, setting) and setting.is_within_spread_of(best)}
            for setting in self.settings
        ]
        return stamp() | {
            "folder": self.folder,
            "varied": self.varied,
            "best": {"values": best.values, "loss": best.loss, "folder": best.trials[0].folder} if best else None,
            "best_command": self.best_command,
            "outcome": self.outcome(),
            "notes": self.notes,
            "settings": settings,
            "trials": [asdict(trial) for trial in self.trials],
        }

    def save(self) -> None:
        """results.json, and results.csv with a line for each trial. Raises OSError: the disk does not take them."""
        head = [*self.varied, *("held_out_loss" if name == "loss" else name for name in COLUMNS)]
        rows = [[*trial.values.values(), *(getattr(trial, name) for name in COLUMNS)] for trial in self.trials]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([head, *rows])
        write_whole(self.folder / CSV, [text.getvalue()])
        write_whole(self.folder / JSON, [json.dumps(self.to_json(), indent=1, ensure_ascii=False, default=str) + "\n"])


def _deviation(numbers: Collection[float]) -> float | None:
    """The standard deviation; None of fewer than two."""
    return statistics.stdev(numbers) if len(numbers) > 1 else None


def _plus_minus(spread: float | None) -> str:
    return "" if spread is None else f" ± {spread:.3f}"


def mean_loss(losses: Iterable[float | None]) -> float | None:
    """None where one of them is, or there is none at all."""
    known = list(losses)
    return None if not known or None in known else statistics.fmean(loss for loss in known if loss is not None)


def recorded(trials: Sequence[Mapping[str, Any]]) -> Sweep:
    """The sweep whose results.json had these trials, or only their values and losses at the end of their runs."""
    whole = [{"folder": "", "status": "finished", **trial} for trial in trials]
    return Sweep(Path(), in_order(TypeAdapter(list[Trial]).validate_python(whole)))


def in_order(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """By the values, one option after the other: numbers by size, words as they came first."""
    places = {name: places_of(trial.values[name] for trial in trials) for name in trials[0].values}
    return tuple(sorted(trials, key=lambda trial: [places[name][value] for name, value in trial.values.items()]))


def places_of(values: Iterable[str]) -> dict[str, float]:
    """Value -> where it stands on an axis: the number itself or, where not all are numbers, its turn."""
    different = list(dict.fromkeys(values))
    turns = enumerate(different)
    return {value: float(value) if are_numbers(different) else float(turn) for turn, value in turns}


def are_numbers(values: Iterable[str]) -> bool:
    try:
        return bool([float(value) for value in values])
    except ValueError:
        return False
