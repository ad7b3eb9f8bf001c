"""Points -> planned trials: all that can be wrong is found before the first of them starts, with nothing written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from envcheck.facts import Facts, Finding
from kit.memory import Plan
from kit.models import Model
from kit.models.adapters import no_such_layer, read_tensors
from kit.options import LINEAR_LAYERS, Run, TrainCommand
from kit.run import reading
from kit.run.folder import RunFolder
from kit.run.layout import DATA
from kit.run.prepared import Planned, Prepared
from kit.support.errors import FAILED, USAGE, KitError, failure, stop_on_errors
from kit.support.units import gib
from kit.sweep.options import DEFAULT_OVER, SweepCommand
from kit.sweep.points import Point, identity, points
from kit.sweep.space import SAME_ROWS, SEED, Space, can_vary
from kit.train import plan, prepare

TRIALS = "trials"
WILL_NOT_FIT = "will not fit"
OF_THE_PROCESS = "On a CPU the memory shown is that of the whole process: what earlier trials left counts in."


@dataclass(frozen=True)
class PlannedTrial:
    """One trial, checked. steps: of the whole run, None for a plan without data. plan: None where the planner does not
    know the model."""

    point: Point
    command: TrainCommand
    folder: Path
    steps: int | None
    plan: Plan | None

    @property
    def name(self) -> str:
        return name_of(self.point.values)

    @property
    def fits(self) -> bool:
        return self.plan is None or self.plan.verdict != WILL_NOT_FIT


@dataclass(frozen=True)
class Plans:
    """All trials of a command, in the order of their values. others: folders of trials that an earlier command left in
    the sweep's folder."""

    folder: Path
    space: Space
    trials: tuple[PlannedTrial, ...]
    others: tuple[Path, ...]
    notes: tuple[str, ...]

    @property
    def settings(self) -> list[list[PlannedTrial]]:
        """The trials that fit, those of a setting together, in the order of training."""
        groups: dict[str, list[PlannedTrial]] = {}
        for trial in sorted(self.trials, key=lambda trial: trial.point.turn):
            if trial.fits:
                groups.setdefault(trial.point.setting, []).append(trial)
        return list(groups.values())


def name_of(values: Mapping[str, str]) -> str:
    """A trial or a setting in words."""
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "the run as it is"


def plans(command: SweepCommand, facts: Facts) -> Plans:
    """Raises KitError with all that is wrong: options, values, data, model, what the folder holds."""
    varied, found = points(command.run, command.over or DEFAULT_OVER, command.trials)
    wrong: dict[Finding, None] = {}
    status = FAILED
    trials: list[PlannedTrial] = []
    existing: dict[str, Path] = {}
    folder = command.into
    for point in found:
        try:
            planned = (plan if command.plan else prepare)(_command(command, point), facts)
            stop_on_errors((*planned.findings, *_wrong_layers(planned)))
            if folder is None:
                folder = Path("sweeps") / planned.default_output.name
            existing = existing or _existing(folder)
            trials.append(_trial(command, point, planned, folder, existing))
        except KitError as error:
            wrong |= dict.fromkeys(error.findings)
            status = max(status, error.status)
    if wrong or folder is None:
        raise KitError(*wrong, status=status)
    mine = {trial.folder for trial in trials}
    others = tuple(sorted(path for path in existing.values() if path not in mine))
    return Plans(folder, varied, tuple(trials), others, tuple(_notes(command, trials, planned.run.device)))


def _command(command: SweepCommand, point: Point) -> TrainCommand:
    origins = command.origins | dict.fromkeys(point.values, "sweep")
    return TrainCommand(run=point.run, plan=command.plan, vram_gib=command.vram_gib, origins=origins)


def _trial(
    command: SweepCommand, point: Point, planned: Planned, folder: Path, existing: dict[str, Path]
) -> PlannedTrial:
    """Raises KitError: nothing to measure on, or a folder that holds another run."""
    name = ",".join(f"{name}={value}" for name, value in point.values.items()) or "as-it-is"
    path = existing.get(identity(point.run)) or folder / TRIALS / name
    rows = planned.data if isinstance(planned, Prepared) else None
    run = point.run.model_copy(update={"output": path})
    made = _command(command, point).model_copy(update={"run": run})
    if rows is not None and not len(rows.held_out):
        raise _nothing_held_out()
    if rows is not None and not command.plan:
        _check_folder(folder, path, made, rows.report.sha256)
        _check_comparable(folder, run, rows.report.sha256)
    steps = planned.run.steps(len(rows.train)) if rows is not None else None
    return PlannedTrial(point, made, path, steps, planned.plan)


def _existing(folder: Path) -> dict[str, Path]:
    """What a trial learns -> its folder."""
    found = {path: reading.options(path) for path in sorted((folder / TRIALS).glob("*/"))}
    return {identity(run): path for path, run in found.items() if run}


def not_writable(folder: Path, why: str) -> KitError:
    return failure("output-not-writable", f"Nothing can be written to {folder}.", why, "--into a/folder/of/yours")


def _check_folder(folder: Path, path: Path, command: TrainCommand, data_sha256: str) -> None:
    """The trial's own folder is free, or holds this very trial."""
    try:
        RunFolder.claim(path, command, data_sha256)
    except KitError as error:
        (first, *_) = error.findings
        if first.id == "output-not-writable":
            raise not_writable(folder, first.why) from None
        if first.id != "output-holds-another-run":
            raise
        details = dict(first.details)
        vary = [f"--over {name}={getattr(command.run, name)}        (adds trials of that value to the table)"
                for name in details if name in Run.model_fields and can_vary(name)]  # fmt: skip
        raise failure(
            "sweep-holds-another-run",
            f"{path} holds a trial with other options or data.",
            "Its folder is named by what varies; the rest was different when it began.",
            "--into another/folder",
            *vary[:2],
            details=details,
        ) from None


def _check_comparable(folder: Path, run: Run, data_sha256: str) -> None:
    """The other trials of the sweep were measured on the same rows, in the same tokens."""
    for path in sorted((folder / TRIALS).glob("*/")):
        there = reading.options(path)
        if there is None or not (path / DATA).is_file():
            continue
        names = sorted(name for name in SAME_ROWS if name != "data" and getattr(there, name) != getattr(run, name))
        details = {name: f"{getattr(there, name)} there, {getattr(run, name)} now" for name in names}
        if reading.data_sha256(path) != data_sha256:
            details["content of the data"] = "changed since"
        if details:
            raise failure(
                "sweep-of-other-rows",
                f"{folder} holds trials that were measured on other rows.",
                "Their losses say nothing about these.",
                "--into another/folder",
                details=details,
            )


def _nothing_held_out() -> KitError:
    return failure(
        "sweep-without-held-out-rows",
        "No rows are held out, so there is nothing to compare the trials by.",
        "A trial's loss on the rows it was trained on falls with every weight it may change.",
        "--held-out-rows 64",
        "--eval-data FILE",
    )


def _wrong_layers(planned: Planned) -> Iterable[Finding]:
    """Layers that the model does not have, as far as its files tell before it is loaded."""
    known = _layers(planned.model)
    for name in planned.run.target_modules:
        if known and name not in known:
            fix = f"--over target_modules={'+'.join(sorted(set(LINEAR_LAYERS) & known))}"
            yield no_such_layer(name, known, fix)


def _layers(model: Model) -> set[str]:
    """Names of the model's layers with a matrix; empty where no weights are on this machine."""
    if not model.is_local:
        return set()
    files = sorted(Path(model.location).glob("*.safetensors"))
    names = {
        name.split(".")[-2] for file in files for name, tensor in read_tensors(file).items() if len(tensor.shape) > 1
    }
    return names | {"lm_head"} if names else set()


def _notes(command: SweepCommand, trials: list[PlannedTrial], device: str) -> Iterable[str]:
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
    if device == "cpu":
        yield OF_THE_PROCESS


def check_any_fits(found: Plans) -> None:
    """Raises KitError: no trial does."""
    if not any(trial.fits for trial in found.trials):
        low_bytes, name = min((trial.plan.low_bytes, trial.name) for trial in found.trials if trial.plan)
        raise failure(
            "sweep-nothing-fits",
            "No trial fits into memory.",
            f"The smallest, {name}, needs {gib(low_bytes)} GiB at least.",
            "--max-length-tokens 512",
            "--model with a smaller size",
            status=USAGE,
        )
