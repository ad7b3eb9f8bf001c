"""First cell of every notebook, `start.prepare()`: the kit beside this folder, and what it stands on, in this kernel.

What is missing is installed: into the kernel's own environment, or, where that is the system's Python, into .venv of
the project, which then appears in the list of kernels. Standard library only, because nothing else may be there yet.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNEL, KERNEL_NAME = "finetune-kit", "Fine-tuning kit"
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)  # every path in a notebook is as in the README

from envcheck import install  # noqa: E402 - found by the line above


class Stop(Exception):
    """Ends the run of the cells with its text and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def lacking() -> list[str]:
    """Packages of the training stack that this kernel does not have."""
    return install.missing(install.requirements(ROOT / "requirements.txt"), install.installed(Path(sys.prefix)))


def prepare() -> None:
    """Raises Stop: the installation failed, or another kernel has to be taken."""
    if not lacking():
        return
    if sys.prefix != sys.base_prefix or (Path(sys.prefix) / "conda-meta").is_dir():
        _install(Path(sys.prefix))
        importlib.invalidate_caches()
        return
    venv = ROOT / ".venv"
    _install(venv, "--notebooks")
    kernel = ("-m", "ipykernel", "install", "--user", "--name", KERNEL, "--display-name", KERNEL_NAME)
    subprocess.run([str(install.python_of(venv)), *kernel], check=True)
    raise Stop(f"Installed. Now take the kernel `{KERNEL_NAME}` (Kernel > Change kernel) and run this cell again.")


def _install(venv: Path, *options: str) -> None:
    status = install.main(["--venv", str(venv), *options])
    if status:
        raise Stop("The installation did not end well; what is said above has the cause and the command.")
