"""Trial folders -> the record of the sweep. What a trial did is read from its own folder alone."""

from dataclasses import dataclass, field
from pathlib import Path

from kit.options import Run
from kit.run import reading
from kit.run.folder import FREE
from kit.support.untrusted import finite_number
from kit.sweep.results import Status, Sweep, Trial, in_order
from kit.sweep.space import SAME_ROWS, value_text
from kit.sweep.trials import PlannedTrial, Plans


@dataclass
class Decisions:
    """What a command decided, which the folders do not say. ended: folder of a trial -> stopped, failed or left out,
    and why in words; notes: who was stopped, in sentences."""

    ended: dict[Path, tuple[Status, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def collect(plans: Plans, decisions: Decisions) -> Sweep:
    """The record of all folders: of this command's trials and of those that earlier ones left. What varies is what the
    command names, and whatever else differs between them."""
    planned = {trial.folder: trial for trial in plans.trials}
    runs = {folder: trial.command.run for folder, trial in planned.items()} | plans.others
    differ = [name for name in Run.model_fields if name not in FREE | SAME_ROWS
              and len({value_text(name, getattr(run, name)) for run in runs.values()}) > 1]  # fmt: skip
    varied = dict.fromkeys([*plans.space, *differ])
    trials = [
        _trial(folder, {name: value_text(name, getattr(run, name)) for name in varied}, decisions, planned.get(folder))
        for folder, run in runs.items()
    ]
    return Sweep(plans.folder, in_order(trials), (*plans.notes, *decisions.notes))


def _trial(folder: Path, values: dict[str, str], decisions: Decisions, planned: PlannedTrial | None) -> Trial:
    """planned: None for one of an earlier command; if it was interrupted where its loss was measured, it was stopped
    there."""
    record = reading.read(folder)
    step, loss = record.losses[-1] if record.losses and record.losses[-1][0] else (record.last_step, None)
    status, words = decisions.ended.get(folder, ("unfinished", ""))
    if planned and not planned.fits:
        status, words = "left out", "the plan says that it will not fit"
    elif record.status == "finished" and status != "failed":
        status, words = "finished", ""
    elif record.status == "failed" and status == "unfinished":
        status, words = "failed", record.failure
    elif record.status == "unknown" and status == "unfinished":
        status = "waiting"
    elif planned is None and loss is not None and step == record.last_step:
        status = "stopped"
    params = finite_number(record.plan.get("trained_params"))
    if planned:
        params = planned.plan.trained_params if planned.plan else None
    elapsed_s = record.steps[-1].get("elapsed_s") if record.steps else None
    return Trial(
        values,
        folder,
        status,
        trained_params=None if params is None else int(params),
        loss=None if status in ("failed", "left out") else loss,
        step=record.last_step if status == "failed" else step,
        steps=planned.steps if planned else record.planned_steps,
        seconds=finite_number(record.result.get("train_s")) or elapsed_s,
        peak_memory_bytes=int(max((line.get("memory_bytes", 0) for line in record.steps), default=0)) or None,
        words=words,
    )
