"""Writing files and folders so that nobody ever finds half of one."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

# Pauses before another try, two seconds in all: so long does a virus scanner or an indexer hold what is new.
PAUSES_S = (0.01, 0.02, 0.04, 0.08, 0.15, 0.2, 0.3, 0.4, 0.4, 0.4)
EARLIER, DELETED = "earlier", "deleted"  # endings of a folder that steps aside: it is still wanted, or not any more
PART = "part"


def nearest_existing(path: Path) -> Path:
    """The path itself or, where it is not there yet, the folder above it that is."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


def write_whole(path: Path, texts: Iterable[str]) -> None:
    """Written beside, then renamed: the file is whole or absent, and its bytes are the same on every system. After an
    error nothing is left beside it."""
    beside = _beside(path, PART)
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(texts)
            file.flush()
            os.fsync(file.fileno())
        replace(beside, path)
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


def replace(source: Path, target: Path) -> None:
    """source takes the name of target, a file's in place of an earlier one. Raises OSError."""
    _patiently(lambda: source.replace(target))


def delete(path: Path) -> None:
    """A file, if it is there. Raises OSError."""
    _patiently(lambda: path.unlink(missing_ok=True))


def _patiently(call: Callable[[], object]) -> None:
    """Windows refuses what a program has open, for a moment most often: there it is tried again."""
    for pause_s in PAUSES_S if sys.platform == "win32" else ():
        try:
            call()
            return
        except PermissionError:
            time.sleep(pause_s)
    call()


def new_part(path: Path) -> Path:
    """An empty folder beside, to be filled and then put in the place of `path`. Raises OSError."""
    part = _beside(path, PART)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def replace_folder(new: Path, target: Path) -> None:
    """The folder `new` takes the name of `target`; an earlier folder there steps aside first and is deleted last.

    Raises OSError, on Windows also while a program has the earlier one open: it is whole under its name then, and so is
    the new one under its own.
    """
    restore_folder(target)
    earlier = _beside(target, EARLIER)
    if target.exists():
        replace(target, earlier)
    try:
        replace(new, target)
    except BaseException:
        if earlier.exists():
            replace(earlier, target)
        raise
    if earlier.exists():
        with contextlib.suppress(OSError):  # the next command deletes it
            delete_folder(earlier)


def delete_folder(path: Path) -> None:
    """All of it or, where it is in use and OSError is raised, nothing; it has no name while it is half gone."""
    deleted = _beside(path, DELETED)
    shutil.rmtree(deleted, ignore_errors=True)
    replace(path, deleted)
    shutil.rmtree(deleted, ignore_errors=True)


def delete_together(paths: Sequence[Path]) -> None:
    """Files and folders of one folder, in this order: all of them or, where OSError is raised (one is in use), none."""
    if not paths:
        return
    deleted = _beside(paths[0], DELETED)
    shutil.rmtree(deleted, ignore_errors=True)
    deleted.mkdir()
    moved: list[Path] = []
    try:
        for path in paths:
            replace(path, deleted / path.name)
            moved.append(path)
    except BaseException:
        for path in moved:
            replace(deleted / path.name, path)
        raise
    finally:
        shutil.rmtree(deleted, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """What a kill in the middle of `replace_folder` left: the earlier folder gets its name back where that is free, and
    is deleted where the new one has it. Raises OSError."""
    earlier = _beside(path, EARLIER)
    if not earlier.exists():
        return
    if path.exists():
        delete_folder(earlier)
    else:
        replace(earlier, path)


def restore_folders(parent: Path) -> None:
    """The same for all that is in a folder; what a kill left half written or half deleted goes. Nobody else may be at
    work there. What cannot be done is left to the next command."""
    for path in parent.glob(f".*.{EARLIER}"):
        with contextlib.suppress(OSError):
            restore_folder(parent / path.name.removeprefix(".").removesuffix(f".{EARLIER}"))
    for ending in (PART, DELETED):
        for path in parent.glob(f".*.{ending}"):
            with contextlib.suppress(OSError):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def free_name(path: Path) -> Path:
    """The first of NAME-2, NAME-3, ... beside it that is not taken."""
    if not path.name:  # the root of a disk
        return path / "NAME"
    return next(name for number in range(2, 1000) if not (name := path.with_name(f"{path.name}-{number}")).exists())
