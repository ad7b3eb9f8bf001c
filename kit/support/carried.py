"""Folders of the repository that an installed kit carries along."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def carried_folder(installed: Path, in_clone: str) -> Path:
    """The copy that an installed kit carries, or in a clone the folder itself."""
    return installed if installed.is_dir() else ROOT / in_clone
