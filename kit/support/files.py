"""Writing files so that nobody ever finds half of one."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def nearest_existing(path: Path) -> Path:
    """The path itself or, where it is not there yet, the folder above it that is."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def write_whole(path: Path, texts: Iterable[str]) -> None:
    """Written beside, then renamed: the file is whole or absent. After an error nothing is left beside it."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.writelines(texts)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def append_whole(path: Path, text: str) -> None:
    """All of the text at the end of the file or, where that raises OSError, none of it."""
    left = memoryview(text.encode())
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise


def free_name(path: Path) -> Path:
    """The first of NAME-2, NAME-3, ... beside it that is not taken."""
    if not path.name:  # the root of a disk
        return path / "NAME"
    return next(name for number in range(2, 1000) if not (name := path.with_name(f"{path.name}-{number}")).exists())
