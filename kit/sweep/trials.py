"""Points -> planned trials: all that can be wrong is found before the first of them starts, with nothing written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from envcheck.facts import Facts, Finding
from kit import models
from kit.memory import WILL_NOT_FIT, Plan
from kit.models.adapters import no_such_layer, read_tensors
from kit.options import LINEAR_LAYERS, Run, TrainCommand
from kit.run import reading
from kit.run.folder import RunFolder, differences
from kit.run.layout import DATA
from kit.run.prepared import Planned, Prepared, default_name
from kit.support.errors import USAGE, KitError, failure, for_each, stop_on_errors
from kit.support.file_names import file_name
from kit.support.units import gib
from kit.sweep.options import DEFAULT_OVER, SweepCommand
from kit.sweep.space import SAME_ROWS, SEED, Point, can_vary, identity, points
from kit.sweep.study import Space
from kit.train import plan, prepare

TRIALS = "trials"


@dataclass(frozen=True)
class PlannedTrial:
    """One trial, checked. device: that it is trained on. steps: of the whole run; they and data_sha256 are None for a
    plan without data. plan: None where the planner does not know the model."""

    point: Point
    command: TrainCommand
    folder: Path
    device: str
    plan: Plan | None
    steps: int | None = None
    data_sha256: str | None = None

    @property
    def name(self) -> str:
        return name_of(self.point.values)

    @property
    def fits(self) -> bool:
        return self.plan is None or self.plan.verdict != WILL_NOT_FIT


@dataclass(frozen=True)
class Plans:
    """All trials of a command, in the order of their values. others: trials that an earlier command left in the
    sweep's folder."""

    folder: Path
    space: Space
    trials: tuple[PlannedTrial, ...]
    others: dict[Path, Run]
    notes: tuple[str, ...]

    @property
    def settings(self) -> list[list[PlannedTrial]]:
        """The trials that fit, those of a setting together, in the order of training."""
        groups: dict[int, list[PlannedTrial]] = {}
        for trial in self.trials:
            if trial.fits:
                groups.setdefault(trial.point.turn, []).append(trial)
        return [groups[turn] for turn in sorted(groups)]


def name_of(values: Mapping[str, str], *left_out: str) -> str:
    """A trial in words; without its seed: a setting."""
    words = [f"{name} {value}" for name, value in values.items() if name not in left_out]
    return ", ".join(words) or "the run as it is"


def plans(command: SweepCommand, facts: Facts) -> Plans:
    """Raises KitError with all that is wrong: options, values, data, model, what the folder holds."""
    space, found = points(command.run, command.over or DEFAULT_OVER, command.trials)
    folder = command.into or Path("sweeps") / default_name(command.run, models.find(command.run.model))
    there = {path: run for path in sorted((folder / TRIALS).glob("*/")) if (run := reading.options(path))}
    paths = {identity(run): path for path, run in there.items()}

    def planned(point: Point) -> PlannedTrial:
        name = ",".join(f"{name}={value}" for name, value in point.values.items()) or "as-it-is"
        return _trial(command, point, paths.get(identity(point.run), folder / TRIALS / file_name(name)), facts)

    trials = for_each(planned, found)
    if not command.plan:
        _check_comparable(folder, there, trials[0])
    others = {path: run for path, run in there.items() if path not in {trial.folder for trial in trials}}
    return Plans(folder, space, tuple(trials), others, tuple(_notes(command, trials)))


def _trial(command: SweepCommand, point: Point, path: Path, facts: Facts) -> PlannedTrial:
    """Raises KitError: a run that cannot be trained, nothing to measure on, or a folder that holds another run."""
    origins = command.origins | dict.fromkeys(point.values, "sweep")
    run = point.run.model_copy(update={"output": path})
    own = TrainCommand(run=run, plan=command.plan, vram_gib=command.vram_gib, origins=origins)
    planned = (plan if command.plan else prepare)(own, facts)
    stop_on_errors((*planned.findings, *_wrong_layers(planned)))
    trial = PlannedTrial(point, own, path, planned.run.device, planned.plan)
    if not isinstance(planned, Prepared):
        return trial
    rows = planned.data
    if not len(rows.held_out):
        what = "No rows are held out, so there is nothing to compare the trials by."
        why = "A trial's loss on the rows it was trained on falls with every weight it may change."
        raise failure("sweep-without-held-out-rows", what, why, "--held-out-rows 64", "--eval-data FILE")
    if not command.plan:
        _check_folder(path, own, rows.report.sha256)
    return replace(trial, steps=planned.run.steps(len(rows.train)), data_sha256=rows.report.sha256)


def _check_folder(path: Path, command: TrainCommand, data_sha256: str) -> None:
    """The trial's own folder is free, or holds this very trial."""
    try:
        RunFolder.claim(path, command, data_sha256)
    except KitError as error:
        (finding,) = error.findings  # its advice is of options that a sweep does not have
        if finding.id == "output-not-writable":
            finding = replace(finding, what=f"Nothing can be written to {path.parents[1]}.")  # for all trials at once
        elif finding.id == "output-holds-another-run":
            finding = replace(finding, id="sweep-holds-another-run")
        vary = [f"--over {name}={getattr(command.run, name)}        (adds trials of that value to the table)"
                for name, _ in finding.details if name in Run.model_fields and can_vary(name)]  # fmt: skip
        raise KitError(replace(finding, fix=("--into another/folder", *vary[:2]))) from None


def _check_comparable(folder: Path, there: Iterable[Path], trial: PlannedTrial) -> None:
    """The trials that are there were measured on the same rows, in the same tokens."""
    for path in there:
        different = differences(path, trial.command.run, trial.data_sha256) if (path / DATA).is_file() else {}
        free = Run.model_fields.keys() - SAME_ROWS | {"data"}  # a file may have moved: its content counts
        details = {name: text for name, text in different.items() if name not in free}
        if details:
            what = f"{folder} holds trials that were measured on other rows."
            why = "Their losses say nothing about these."
            raise failure("sweep-of-other-rows", what, why, "--into another/folder", details=details)


def _wrong_layers(planned: Planned) -> Iterable[Finding]:
    """Layers that the model does not have, as far as its files tell before it is loaded."""
    files = sorted(Path(planned.model.location).glob("*.safetensors")) if planned.model.is_local else []
    tensors = [item for file in files for item in read_tensors(file).items()]
    known = {name.split(".")[-2] for name, tensor in tensors if len(tensor.shape) > 1}
    for name in planned.run.target_modules:
        if known and name not in known:
            fix = f"--over target_modules={'+'.join(sorted(known.intersection(LINEAR_LAYERS)))}"
            yield no_such_layer(name, known, fix)


def _notes(command: SweepCommand, trials: list[PlannedTrial]) -> Iterable[str]:
    varied, run = trials[0].point.values, trials[0].command.run
    if "lora_rank" in varied and "lora_alpha" not in varied:
        alpha = run.lora_alpha
        yield f"lora_alpha is {alpha} for every rank, so alpha / rank differs too; --over lora_alpha=1r keeps it equal."
    if SEED in varied and not run.eval_data:
        yield "A seed also chooses the held-out rows, so settings are compared seed by seed; --eval-data fixes them."
    if command.pruner != "none" and not run.evaluations:
        yield "Nothing can be stopped early, as no loss is measured during a run: --evaluations 3 measures it."
    for trial in trials:
        if trial.plan and not trial.fits:
            low = f"{gib(trial.plan.low_bytes)} GiB at least"
            yield f"left out, as the plan says it will not fit ({low}): {trial.name}"
    if trials[0].device == "cpu":
        yield "On a CPU the memory shown is that of the whole process: what earlier trials left counts in."


def check_any_fits(found: Plans) -> None:
    """Raises KitError: no trial does."""
    if not any(trial.fits for trial in found.trials):
        low_bytes, name = min((trial.plan.low_bytes, trial.name) for trial in found.trials if trial.plan)
        why = f"The smallest, {name}, needs {gib(low_bytes)} GiB at least."
        fixes = "--max-length-tokens 512", "--model with a smaller size"
        raise failure("sweep-nothing-fits", "No trial fits into memory.", why, *fixes, status=USAGE)
