"""Where else the figures of a run go: only with --report-to, through the callbacks of transformers."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from kit.support.errors import failure

NONE = "none"
# Name of --report-to, which is also the package's -> where the figures go.
PLACES: Mapping[str, str] = {
    "tensorboard": "to {folder}/tensorboard on this machine; see them with: tensorboard --logdir {folder}/tensorboard",
    "wandb": "to the servers of Weights & Biases, with the options and a description of this machine "
    "(WANDB_MODE=offline keeps them in {folder}/wandb)",
    "swanlab": "to the servers of SwanLab, with the options and a description of this machine "
    "(SWANLAB_MODE=local keeps them here)",
    "trackio": "to a database on this machine; see them with: trackio show",
    "mlflow": "to the server that MLFLOW_TRACKING_URI names, without it to a database in this folder",
}


def check(name: str, is_installed: Callable[[str], bool] | None = None) -> None:
    """Before anything is loaded. Raises KitError: the tracker's package is not installed."""
    is_installed = is_installed or (lambda package: importlib.util.find_spec(package) is not None)
    if name == NONE or is_installed(name):
        return
    raise failure(
        "tracker-missing",
        f"--report-to {name} needs the package {name}, which is not installed.",
        "A run that was to be watched from elsewhere would be seen by nobody.",
        f"python -m pip install {name}",
        "--report-to none        (metrics.jsonl in the run folder has every step all the same)",
    )


def note(name: str, folder: Path) -> str:
    """Where the figures go, for the user to know before the run."""
    return f"--report-to {name}: every step's figures go {PLACES[name].format(folder=folder)}"


def use_folder(name: str, folder: Path) -> None:
    """Where the user has not said where the tracker's files go, they go into the run folder."""
    for variable, value in environment(name, folder).items():
        os.environ.setdefault(variable, value)


def environment(name: str, folder: Path) -> dict[str, str]:
    """The variables by which the tracker takes a folder, and values that put its files into the run folder."""
    return {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard")},
        "wandb": {"WANDB_DIR": str(folder), "WANDB_PROJECT": "kit"},
        "swanlab": {"SWANLAB_LOG_DIR": str(folder / "swanlab"), "SWANLAB_PROJECT": "kit"},
    }.get(name, {})
