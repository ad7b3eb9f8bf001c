"""Planned trials -> trained ones, one after the other; the pruner stops losers, what fails is said and passed over."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from envcheck import probe
from envcheck.facts import Facts
from kit.run.folder import cannot_write, lock_folder
from kit.run.reading import RunRecord, read
from kit.support import console
from kit.support.errors import KitError, explain_error, failure
from kit.support.progress import OnProgress
from kit.support.units import clock
from kit.sweep import showing, study
from kit.sweep.collecting import Decisions, collect
from kit.sweep.options import SweepCommand
from kit.sweep.results import Sweep, mean_loss
from kit.sweep.space import SEED
from kit.sweep.trials import PlannedTrial, Plans, check_any_fits, name_of, plans
from kit.train import prepare, train

if TYPE_CHECKING:
    import optuna

    from kit.run.session import OnEvaluation


def sweep(command: SweepCommand) -> Sweep:
    """Train every trial that fits, losers not to their end, and write results.json, results.csv and sweep.html.

    The same command goes on with what is not finished. Raises KitError before the first trial for all that can be
    wrong; KeyboardInterrupt after Ctrl-C, when all that is done is in the files.
    """
    facts = probe.collect()
    planned = plans(command, facts)
    check_any_fits(planned)
    for note in planned.notes:
        console.note(note)
    decisions = Decisions()
    with alone_in(planned.folder):
        try:
            _train_all(planned, command.pruner, facts, decisions)
        except BaseException:
            showing.show(console.stderr, showing.save(collect(planned, decisions)))
            console.note(f"{planned.folder} holds what is done; the same command goes on from there")
            raise
        return showing.save(collect(planned, decisions))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Raises KitError: another process sweeps in the folder, or it cannot be written to."""
    fixes = "wait for it, or stop it with Ctrl-C: it keeps what is done", "--into another/folder"
    what = f"Another process sweeps in {folder}."
    try:
        lock = lock_folder(folder, failure("sweep-in-use", what, "Two would train the same trials.", *fixes))
    except OSError as error:
        raise KitError(cannot_write(folder, error)) from None
    try:
        yield
    finally:
        lock.release()


def _train_all(planned: Plans, pruner: str, facts: Facts, decisions: Decisions) -> None:
    """Raises KitError: the study's record cannot be written."""
    steps_left = {trial.folder: _steps_left(trial) for trials in planned.settings for trial in trials}
    try:
        optuna_study = study.open_study(planned.folder, pruner)
        with console.progress() as on_progress:
            work = Work(planned, optuna_study, facts, on_progress, decisions, steps_left)
            for trials in planned.settings:
                work.train_setting(trials)
    except OSError as error:  # of the journal: a trial's own errors are on its record
        raise KitError(cannot_write(planned.folder / study.JOURNAL, error)) from error


def _steps_left(trial: PlannedTrial) -> int:
    record = read(trial.folder)
    return 0 if record.status == "finished" else max(0, (trial.steps or 0) - record.last_step)


def train_trial(trial: PlannedTrial, facts: Facts, on_evaluation: "OnEvaluation", on_progress: OnProgress) -> None:
    """One trial by kit.train's own path."""
    train(prepare(trial.command, facts), lambda: nullcontext(on_progress), on_evaluation=on_evaluation)


@dataclass
class Work:
    """One command at work. steps_left: folder of a trial -> steps still to do there; losses: of a finished trial ->
    its held-out loss."""

    plans: Plans
    optuna_study: "optuna.Study"
    facts: Facts
    on_progress: OnProgress
    decisions: Decisions
    steps_left: dict[Path, int]
    steps_done: int = 0
    losses: dict[Path, float] = field(default_factory=dict)

    def train_setting(self, trials: Sequence[PlannedTrial]) -> None:
        """Its seeds one after the other. The first is judged at its evaluations against the same seed of the settings
        before it; where it is stopped, or one of them fails, the rest are left out."""
        first, status = trials[0], None
        evaluations = first.command.run.evaluations
        entry = study.enter(self.optuna_study, self.plans.space, first.point.drawn, first.steps or 1, evaluations)
        for trial in trials:
            if status:
                self.decisions.ended[trial.folder] = ("left out", f"its setting {status} with another seed")
            else:
                self._train(trial, entry if trial is first else None)
                status = self.decisions.ended.get(trial.folder, (None, ""))[0]
            if self.steps_left.pop(trial.folder) and self.steps_done:
                self._show_progress(trial.name)
        entry.end(status, mean_loss(self.losses.get(trial.folder) for trial in trials))

    def _train(self, trial: PlannedTrial, entry: study.Entry | None) -> None:
        """From where it is; not at all where it is finished, or was to stop where it is."""
        record = read(trial.folder)
        if entry:
            self._repeat(record, trial, entry)
        if record.status != "finished" and trial.folder not in self.decisions.ended:
            start_s = time.monotonic()
            self._train_on(trial, entry)
            record = read(trial.folder)
            self._say_how_it_ended(trial, record, time.monotonic() - start_s)
        if record.status == "finished" and record.loss_after is not None:
            self.losses[trial.folder] = record.loss_after

    def _repeat(self, record: RunRecord, trial: PlannedTrial, entry: study.Entry) -> None:
        """The study hears what an earlier command measured. A run that went on after it was to stop may go on."""
        for step, loss in record.losses:
            is_last = step >= record.last_step and record.status != "finished"
            if step > 0 and entry.should_stop(step, loss) and is_last:
                self._stop(trial, entry, step, loss)

    def _train_on(self, trial: PlannedTrial, entry: study.Entry | None) -> None:
        """One trial's error is no reason to end the others."""
        from kit import backend

        def on_evaluation(step: int, loss: float) -> bool:
            if entry is None or not entry.should_stop(step, loss):
                return False
            self._stop(trial, entry, step, loss)
            return True

        try:
            with console.saying_to(console.QUIET):  # all of them would say the same; their records have it
                train_trial(trial, self.facts, on_evaluation, partial(self._on_trial_progress, trial))
        except backend.CardFailed:  # in this process every other trial would fail too
            raise
        except Exception as error:
            self.decisions.ended[trial.folder] = ("failed", explain_error(error))
        backend.free_memory()  # outside of `except`: the error holds on to the trial's tensors

    def _on_trial_progress(self, trial: PlannedTrial, stage: str, step: int, steps: int, detail: str) -> None:
        """One bar over the steps of all trials."""
        if stage == "training":
            self.steps_done += 1
            self.steps_left[trial.folder] = steps - step
            self._show_progress(trial.name)

    def _show_progress(self, detail: str) -> None:
        self.on_progress("sweep", self.steps_done, self.steps_done + sum(self.steps_left.values()), detail)

    def _stop(self, trial: PlannedTrial, entry: study.Entry, step: int, loss: float) -> None:
        losses = entry.losses_there(step)
        setting = name_of(trial.point.values, SEED)
        text = f"{setting}: stopped at step {step} of {trial.steps} with a held-out loss of {loss:.3f}"
        self.decisions.ended[trial.folder] = ("stopped", "")
        self.decisions.notes.append(f"{text}; the best of {len(losses)} settings there has {min(losses):.3f}")

    def _say_how_it_ended(self, trial: PlannedTrial, record: RunRecord, seconds: float) -> None:
        status, why = self.decisions.ended.get(trial.folder, ("finished", ""))
        if status == "failed":
            console.say(f"{trial.name}: failed: {why}", style="red")
        elif record.losses:
            step, loss = record.losses[-1]
            best = f"; best before it {min(self.losses.values()):.3f}" if self.losses else ""
            text = f"{trial.name}: {status} at step {step} of {trial.steps}, held-out loss {loss:.3f}{best}"
            console.say(f"{text}  ({clock(seconds)})")
