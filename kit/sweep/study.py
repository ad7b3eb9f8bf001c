"""What Optuna does for a sweep: it draws the settings, keeps their record, and says which of them to stop early.

The record, study.jsonl in the sweep's folder, is made anew from the folders of the trials by each command. So nothing
that a kill leaves half written in it can matter, and a sweep that goes on decides as one without a break. Nothing of
Optuna reaches a network or the terminal.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.support.files import delete
from kit.support.version import stamp

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

JOURNAL = "study.jsonl"
JOURNAL_LOCK = "study.jsonl.lock"  # as Optuna calls it
DRAWS = 10  # settings, where a range has no end of them
DIGITS = 3  # of a number that is drawn: it is the name of a folder too
Space = dict[str, "BaseDistribution"]  # option -> its values as they were typed, or its range; in the order of --over
Params = dict[str, str | float]


def draw(space: Space, seed: int, count: int | None) -> list[Params]:
    """The settings in the order of training: lists alone combined (`count` of the combinations, or all), with a range
    drawn at random. In no order of the values, as a setting is judged by those before it; the same for the same seed.
    """
    import optuna

    if not space:
        return [{}]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kind = optuna.distributions.CategoricalDistribution
    lists = {name: choices.choices for name, choices in space.items() if isinstance(choices, kind)}
    combinations = math.prod(map(len, lists.values()))
    sampler: optuna.samplers.BaseSampler
    if len(lists) < len(space):
        sampler, count = optuna.samplers.RandomSampler(seed), count or DRAWS
    else:
        sampler, count = optuna.samplers.GridSampler(lists, seed), min(count or combinations, combinations)
    study = optuna.create_study(sampler=sampler)
    drawn = [study.ask(space).params for _ in range(count)]
    return [{name: _short(space[name], value) for name, value in params.items()} for params in drawn]


def _short(choices: "BaseDistribution", value: Any) -> str | float:
    """A number of few digits that is in its range still; a value of a list as it is."""
    from optuna.distributions import FloatDistribution

    if not isinstance(choices, FloatDistribution):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), choices.low), choices.high)


def open_study(folder: Path, pruner: str) -> "optuna.Study":
    """A new study with its record in the folder. Raises OSError: it cannot be written there."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / JOURNAL
    for old in (path, path.with_name(JOURNAL_LOCK)):  # a killed process leaves its lock, and the next would wait
        delete(old)
    lock = JournalFileOpenLock(str(path))  # the other kind needs symbolic links, which Windows may refuse
    storage = JournalStorage(JournalFileBackend(str(path), lock))
    study = optuna.create_study(storage=storage, study_name=folder.absolute().name, pruner=_pruner(pruner))
    for name, value in stamp().items():
        study.set_user_attr(name, value)
    return study


def _pruner(name: str) -> "optuna.pruners.BasePruner":
    from optuna import pruners

    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return pruners.MedianPruner(n_startup_trials=1) if name == "median" else pruners.NopPruner()


@dataclass
class Entry:
    """A setting in the study, judged at each evaluation by its held-out loss against the settings before it.

    steps, evaluations: of its run. Evaluations are counted, not steps, as runs of other lengths are compared too.
    """

    study: "optuna.Study"
    trial: "optuna.Trial"
    steps: int
    evaluations: int
    judged: set[int] = field(default_factory=set)

    def should_stop(self, step: int, loss: float) -> bool:
        """Whether the pruner gives it up there. Never at the end, nor at an evaluation that was judged before."""
        evaluation = self._evaluation(step)
        if evaluation in self.judged or step >= self.steps:
            return False
        self.judged.add(evaluation)
        self.trial.report(loss, evaluation)
        return self.trial.should_prune()

    def losses_there(self, step: int) -> list[float]:
        """Of all settings that came to this evaluation, in nats a token."""
        evaluation = self._evaluation(step)
        reported = [trial.intermediate_values for trial in self.study.trials]
        return [losses[evaluation] for losses in reported if evaluation in losses]

    def end(self, why: str | None, loss: float | None) -> None:
        """why: stopped, or failed; None: it is trained in full, with its loss there."""
        from optuna.trial import TrialState

        if why or loss is None:
            self.study.tell(self.trial, state=TrialState.PRUNED if why == "stopped" else TrialState.FAIL)
        else:
            self.study.tell(self.trial, loss)

    def _evaluation(self, step: int) -> int:
        return round(step * (self.evaluations + 1) / self.steps)


def enter(study: "optuna.Study", space: Space, drawn: Params, steps: int, evaluations: int) -> Entry:
    """The next setting, with the values that were drawn for it."""
    study.enqueue_trial(drawn)
    return Entry(study, study.ask({name: space[name] for name in drawn}), steps, evaluations)
