"""Trial folders -> the record of the sweep. What a trial did is read from its own folder alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kit.options import Run
from kit.run import reading
from kit.run.folder import FREE
from kit.run.reading import RunRecord, read
from kit.support.untrusted import finite_number
from kit.sweep.planning import PlannedTrial, Plans
from kit.sweep.points import identity
from kit.sweep.results import Status, Sweep, Trial, in_order
from kit.sweep.space import SAME_ROWS, SEED, value_text


@dataclass
class Decisions:
    """What a command found and decided, which the folders do not say. failed, left_out: folder of a trial -> why, in
    words; stopped: those that the pruner gave up; notes: all of it in sentences."""

    failed: dict[Path, str] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)
    stopped: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def collect(plans: Plans, decisions: Decisions) -> Sweep:
    """The record of all folders: of this command's trials and of those that earlier ones left."""
    others = [(path, run) for path in plans.others if (run := reading.options(path))]
    trials = [_of_plan(trial, decisions) for trial in plans.trials]
    trials += [_of_other(read(path), path, identity(run, SEED)) for path, run in others]
    runs = [trial.command.run for trial in plans.trials] + [run for _, run in others]
    varied = _varied(plans.trials[0].values, runs)
    named = [
        replace(trial, values={name: value_text(name, getattr(run, name)) for name in varied})
        for trial, run in zip(trials, runs, strict=True)
    ]
    return Sweep(plans.folder, varied, tuple(in_order(named, varied)), (*plans.notes, *decisions.notes))


def _varied(of_plan: Iterable[str], runs: Sequence[Run]) -> tuple[str, ...]:
    """What the command names, and whatever else differs between the trials in the folder."""
    others = [name for name in Run.model_fields if name not in FREE | SAME_ROWS
              and len({value_text(name, getattr(run, name)) for run in runs}) > 1]  # fmt: skip
    return tuple(dict.fromkeys([*of_plan, *others]))


def _of_plan(planned: PlannedTrial, decisions: Decisions) -> Trial:
    path, params = planned.folder, planned.plan.trained_params if planned.plan else None
    blank = Trial(planned.values, planned.setting, path, "waiting", params, steps=planned.steps)
    if not planned.fits:
        return replace(blank, status="left out", words="the plan says that it will not fit")
    record = read(path)
    if why := decisions.failed.get(path):
        made = _of_record(record, path, planned.setting)
        return replace(made, status="failed", trained_params=params, steps=planned.steps, loss=None, words=why)
    if (why := decisions.left_out.get(path)) and record.status != "finished":
        return replace(blank, status="left out", words=why)
    if record.status == "unknown":
        return blank
    made = _of_record(record, path, planned.setting, "stopped" if path in decisions.stopped else "unfinished")
    return replace(made, steps=planned.steps, trained_params=params or made.trained_params)


def _of_other(record: RunRecord, folder: Path, setting: str) -> Trial:
    """Of an earlier command. One that was interrupted where its loss was measured was given up there."""
    measured = bool(record.losses) and 0 < record.last_step == record.losses[-1][0]
    return _of_record(record, folder, setting, "stopped" if measured else "unfinished")


def _of_record(record: RunRecord, folder: Path, setting: str, if_not_over: Status = "unfinished") -> Trial:
    step, loss = record.losses[-1] if record.losses and record.losses[-1][0] else (record.last_step, None)
    status, words = if_not_over, ""
    if record.status == "finished":
        status, loss, step = "finished", record.loss_after, record.last_step
    elif record.status == "failed":
        texts = [str(event.get("text", "")) for event in record.events if event.get("kind") == "failed"]
        status, loss, step, words = "failed", None, record.last_step, texts[-1] if texts else ""
    last = record.steps[-1] if record.steps else {}
    params = finite_number(record.plan.get("trained_params"))
    return Trial(
        values={},
        setting=setting,
        folder=folder,
        status=status,
        trained_params=None if params is None else int(params),
        loss=loss,
        step=int(step),
        steps=record.planned_steps,
        seconds=finite_number(record.result.get("train_s")) or last.get("elapsed_s"),
        peak_memory_bytes=int(max((line.get("memory_bytes", 0) for line in record.steps), default=0)) or None,
        words=words,
    )
