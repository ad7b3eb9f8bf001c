"""What a name means where it may be a run: its adapter, the whole model that it made, or neither yet."""

from dataclasses import replace
from pathlib import Path

from envcheck.facts import Finding
from kit.models import adapters
from kit.models.adapters import CONFIG, Adapter
from kit.run import reading
from kit.run.layout import ADAPTER, MADE, MODEL, OPTIONS, made_by
from kit.support.errors import KitError, problem
from kit.support.user_shell import quoted


def run_folder(path: Path) -> Path | None:
    """The run that a path means: the run's own folder, or that of its adapter or model."""
    if (path / OPTIONS).is_file():
        return path
    return path.parent if path.name in MADE and (path.parent / OPTIONS).is_file() else None


def whole_model(name: str | Path) -> Path | None:
    """The folder of the model that a run of `full` made, where a name means one and it is finished."""
    run = run_folder(Path(name).expanduser())
    if run is None or (run / ADAPTER / CONFIG).is_file():
        return None
    return run / MODEL if (run / MODEL / "config.json").is_file() else None


def find_adapter(name: str | Path, called: str = "") -> Adapter:
    """The adapter of a run, or in a folder of its own; `called`: its name, by default the folder's.

    Raises KitError: no adapter, a whole model instead, and whatever kit.models.adapters.find raises.
    """
    path = Path(name).expanduser()
    run = run_folder(path)
    folder = run / ADAPTER if run else path
    if not (folder / CONFIG).is_file():
        raise KitError(_whole_model(run) if run and whole_model(path) else _unfinished(run) if run else _none(path))
    adapter = adapters.find(folder, called or (run or folder).resolve().name)
    return replace(adapter, run_folder=run)


def _whole_model(run: Path) -> Finding:
    return problem(
        "run-is-a-whole-model",
        f"The run {run} trained every weight: it has a model in {run / MODEL}, and no adapter.",
        "An adapter is only the change to a model, and can lie over it beside others; a whole model stands alone.",
        f"python -m kit.chat {quoted(run)}        (--compare: beside the model that it was trained from)",
        f"python -m kit.merge {quoted(run)} -o FOLDER --to gguf",
    )


def _unfinished(run: Path) -> Finding:
    made = made_by(reading.method(run))
    return problem(
        "run-without-adapter",
        f"The run {run} has no {made} yet.",
        f"It is not finished: the {made} is saved at its end, and checkpoints hold it until then.",
        f"python -m kit.train --config {quoted(run / OPTIONS)} --output {quoted(run)}     (goes on where it stopped)",
    )


def _none(path: Path) -> Finding:
    if (path / "config.json").is_file():
        return problem(
            "not-an-adapter",
            f"{path} is a whole model, not an adapter.",
            "An adapter is only the change to a model.",
            f"give a run folder, or a folder with {CONFIG}",
        )
    run = next((parent for parent in path.absolute().parents[:2] if (parent / OPTIONS).is_file()), None)
    return problem(
        "no-adapter",
        f"{path} is no run and no adapter.",
        f"A run folder holds {OPTIONS}, an adapter's folder {CONFIG}, a model's folder config.json.",
        *([f"give {run}        (the run that it is a part of)"] if run and path.exists() else []),
        "give runs/NAME          (a folder that kit.train made), or an adapter's folder",
        details={"found": adapters.content_of(path)},
    )
