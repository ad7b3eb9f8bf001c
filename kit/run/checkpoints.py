"""Checkpoints on disk: whole or absent, and proven whole by their checksums before they are used. No torch."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from envcheck.facts import Finding
from kit.support.errors import failure, problem
from kit.support.files import delete_folder, nearest_existing, new_part, replace_folder
from kit.support.units import MIB

SUMS, ABOUT = "checksums.json", "about.json"


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself; loss: on the held-out rows, in nats a token, where it was just measured."""

    step: int
    tokens: int
    elapsed_s: float
    loss: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    about: About

    @property
    def count_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.iterdir())


def write(folder: Path, about: About, fill: Callable[[Path], None]) -> Checkpoint:
    """A new checkpoint whose files `fill` writes: beside, flushed to disk, renamed. Earlier ones are not touched."""
    path = folder / f"step-{about.step:08}"
    part = new_part(path)
    try:
        fill(part)
        (part / ABOUT).write_text(json.dumps(asdict(about)), encoding="utf-8", newline="\n")
        sums = {file.name: _sha256(file) for file in sorted(part.iterdir())}
        (part / SUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8", newline="\n")
        for file in part.iterdir():
            _flush(file)
        replace_folder(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _flush(folder)
    return Checkpoint(path, about)


def _flush(path: Path) -> None:
    """To the disk itself; a folder too, where the system can."""
    if path.is_dir() and sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole(folder: Path) -> tuple[list[Checkpoint], list[Finding]]:
    """The checkpoints that can be used, oldest first, and a warning for each that cannot."""
    usable, broken = [], []
    for path in sorted(folder.glob("step-*")):
        wrong = _what_is_wrong(path)
        if wrong:
            broken.append(_broken(path, wrong))
        else:
            about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
            usable.append(Checkpoint(path, About(**about)))
    return usable, broken


def _what_is_wrong(path: Path) -> str:
    try:
        sums = json.loads((path / SUMS).read_text(encoding="utf-8"))
        bad = [name for name, sum in sums.items() if _sha256(path / name) != sum]
    except (OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(bad)}: other content than was written" if bad or ABOUT not in sums else ""


def _broken(path: Path, wrong: str) -> Finding:
    return problem(
        "checkpoint-broken",
        f"The checkpoint {path} is not whole and is passed over.",
        "A disk error, or something else wrote into it. The run goes on from the newest one before it.",
        f"delete {path}",
        details={"what is wrong": wrong},
        severity="warning",
    )


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` and the one with the lowest held-out loss; one in use (Windows) stays whole."""
    usable, _ = whole(folder)
    kept = best(usable)
    for checkpoint in usable[:-keep]:
        if checkpoint is not kept:
            with contextlib.suppress(OSError):
                delete_folder(checkpoint.path)


def best(usable: list[Checkpoint]) -> Checkpoint | None:
    """That with the lowest held-out loss, None where none was measured."""
    measured = [(checkpoint.about.loss, checkpoint) for checkpoint in usable if checkpoint.about.loss is not None]
    return min(measured, key=lambda pair: pair[0])[1] if measured else None


def free_bytes(folder: Path) -> int:
    """Room on the disk of the folder, which need not be there yet."""
    return shutil.disk_usage(nearest_existing(folder)).free


def check_disk(folder: Path, need_bytes: int, what: str) -> None:
    """Raises KitError where the disk has less room than that."""
    left_bytes = free_bytes(folder)
    if left_bytes < need_bytes:
        raise failure(
            "disk-too-full",
            f"{what} needs {need_bytes / MIB:,.0f} MiB; the disk of {folder} has {left_bytes / MIB:,.0f} MiB left.",
            "A run that cannot save is lost work.",
            "free some room, or --output FOLDER on another disk",
            "--keep-checkpoints 1",
        )
