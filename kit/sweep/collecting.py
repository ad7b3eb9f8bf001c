"""Trial folders -> the record of the sweep. What a trial did is read from its own folder alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kit.options import Run
from kit.run import reading
from kit.run.folder import FREE
from kit.run.reading import RunRecord, read
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
    """The record of all folders: of this command's trials and of those that earlier ones left."""
    runs = {trial.folder: trial.command.run for trial in plans.trials}
    others = {path: run for path in plans.others if (run := reading.options(path))}
    varied = _varied(plans.trials[0].point.values, [*runs.values(), *others.values()])
    trials = [_of_plan(trial, decisions) for trial in plans.trials] + [_of_other(path) for path in others]
    named = [
        replace(trial, values={name: value_text(name, getattr(run, name)) for name in varied})
        for trial, run in zip(trials, [*runs.values(), *others.values()], strict=True)
    ]
    return Sweep(plans.folder, varied, tuple(in_order(named, varied)), (*plans.notes, *decisions.notes))


def _varied(of_plan: Iterable[str], runs: Sequence[Run]) -> tuple[str, ...]:
    """What the command names, and whatever else differs between the trials in the folder."""
    others = [name for name in Run.model_fields if name not in FREE | SAME_ROWS
              and len({value_text(name, getattr(run, name)) for run in runs}) > 1]  # fmt: skip
    return tuple(dict.fromkeys([*of_plan, *others]))


def _of_plan(planned: PlannedTrial, decisions: Decisions) -> Trial:
    params = planned.plan.trained_params if planned.plan else None
    status, words = decisions.ended.get(planned.folder, ("unfinished", ""))
    trial = Trial({}, planned.folder, status, params, steps=planned.steps, words=words)
    if not planned.fits:
        return replace(trial, status="left out", words="the plan says that it will not fit")
    record = read(planned.folder)
    if status == "left out" and record.status != "finished":
        return trial
    if status == "unfinished" and record.status == "unknown":
        return replace(trial, status="waiting")
    return _of_record(record, trial)


def _of_other(path: Path) -> Trial:
    """Of an earlier command. One that was interrupted where its loss was measured was stopped there."""
    record = read(path)
    params = finite_number(record.plan.get("trained_params"))
    measured = bool(record.losses) and 0 < record.last_step == record.losses[-1][0]
    trial = Trial({}, path, "stopped" if measured else "unfinished", None if params is None else int(params))
    return replace(_of_record(record, trial), steps=record.planned_steps)


def _of_record(record: RunRecord, trial: Trial) -> Trial:
    """The trial with what its folder says of it; its own status is that of a run that neither finished nor failed."""
    status = trial.status
    if record.status == "failed":
        status = "failed"
    elif record.status == "finished" and status != "failed":
        status = "finished"
    step, loss = record.losses[-1] if record.losses and record.losses[-1][0] else (record.last_step, None)
    last = record.steps[-1] if record.steps else {}
    return replace(
        trial,
        status=status,
        loss=None if status == "failed" else loss,
        step=record.last_step if status == "failed" else step,
        seconds=finite_number(record.result.get("train_s")) or last.get("elapsed_s"),
        peak_memory_bytes=int(max((line.get("memory_bytes", 0) for line in record.steps), default=0)) or None,
        words=(trial.words or record.failure) if status == "failed" else "",
    )
