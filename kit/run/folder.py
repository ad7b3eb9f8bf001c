"""The folder of a run: claimed for one process, one set of options and one data; a file in it is whole or absent."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envcheck.facts import Finding
from kit.options import Run, TrainCommand, resolve
from kit.options.run import RecordOptions
from kit.run import reading
from kit.run.layout import ANSWERS, CHECKPOINTS, DATA, LOCK, MARKS, METRICS, OPTIONS
from kit.run.record import Result
from kit.support.errors import KitError, describe_error, failure, problem
from kit.support.file_names import check_names
from kit.support.files import (
    append_whole,
    delete_together,
    free_name,
    nearest_existing,
    new_part,
    replace_folder,
    restore_folders,
    write_whole,
)
from kit.support.user_shell import quoted, shell
from kit.support.version import stamp

if TYPE_CHECKING:
    from filelock import FileLock

# Options that change neither what is learnt nor in which order: a run may go on with others.
FREE = {"micro_batch_size", "gradient_checkpointing", "pin_memory", "vram_limit_gib"} | (
    RecordOptions.model_fields.keys() - {"evaluations"}
)
MOST_DIFFERENCES = 6  # that are shown
PROBE_BYTES = 1 << 16  # more than the small files of a run take
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass
class Hold:
    """What a process keeps of the folder it is in.

    lock, lock_file (device and number of the file on disk): while they fit together the folder is this process's.
    texts: the small files as they were written last. waiting: lines that could not be written yet, for each file.
    """

    lock: "FileLock | None" = None
    lock_file: tuple[int, int] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    earlier: the result that an equal, finished run left there. different: options or data that are others than those of
    the unfinished run there, which the user wants to go on all the same.
    """

    path: Path
    earlier: Result | None = None
    different: dict[str, str] | None = None
    hold: Hold = field(default_factory=Hold, compare=False, repr=False)

    @classmethod
    def claim(cls, path: Path, command: TrainCommand, data_sha256: str) -> "RunFolder":
        """Check that the folder is free, or holds this very run. Writes nothing of the run.

        Raises KitError: a folder that holds another run or something else, or that cannot be written to.
        """
        check_names(path, "--output")
        _check_writable(path)
        if command.fresh or not path.is_dir() or not any(path.iterdir()):
            _check_is_run(path, if_any=True)
            return cls(path)
        _check_is_run(path)
        different = dict(list(differences(path, command.run, data_sha256).items())[:MOST_DIFFERENCES])
        if different and not command.resume_anyway:
            raise failure(
                "output-holds-another-run",
                f"{path} holds a run with other options or data.",
                "Its results would be overwritten, or it would go on as another run than it began.",
                f"--output {quoted(free_name(path))}",
                "--fresh                (deletes that run and begins anew)",
                "--resume-anyway        (goes on from its checkpoint; this is written down)",
                details=different,
            )
        return cls(path, None if different else reading.finished_result(path), different or None)

    @contextmanager
    def open(self, command: TrainCommand) -> Iterator[None]:
        """This process's alone while inside. Raises KitError: another process is in it, or it cannot be written to."""
        self._lock()
        try:
            for folder in (self.path, self.checkpoints):
                restore_folders(folder)
            if command.fresh:
                self._empty()
            self.write_text(OPTIONS, resolve.to_toml(command.run, command.origins))
            yield
        finally:
            self._release()

    def _lock(self) -> None:
        in_use = failure(
            "output-in-use",
            f"Another process is training in {self.path}.",
            "Two would overwrite each other's checkpoints.",
            "wait for it, or stop it with Ctrl-C: it keeps a checkpoint",
            f"--output {quoted(free_name(self.path))}",
        )
        with self._writing(LOCK):
            self.hold.lock = lock_folder(self.path, in_use)
            self.hold.lock_file = self._lock_file()

    def _release(self) -> None:
        if self.hold.lock:
            self.hold.lock.release()

    def _lock_file(self) -> tuple[int, int] | None:
        """None if it is not there."""
        try:
            status = (self.path / LOCK).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @property
    def is_ours(self) -> bool:
        """Not once something deleted the folder during the run, whoever made it again."""
        return self.hold.lock is None or self._lock_file() == self.hold.lock_file

    def restore(self) -> bool:
        """Whether something deleted the folder during the run: then it is made again with the small files in it.

        What grew with the run and the checkpoints are lost. Raises KitError: another run was begun there since.
        """
        if self.is_ours:
            return False
        self._release()
        self._lock()
        if (self.path / OPTIONS).exists():
            self._release()
            self.hold.lock_file = None
            raise failure(
                "output-taken",
                f"{self.path} was deleted during this run, and another run was begun there.",
                "This run would overwrite the other one.",
                f"--output {quoted(free_name(self.path))}       (begins this run anew)",
            )
        for name, text in self.hold.texts.items():
            self.write_text(name, text)
        return True

    def _empty(self) -> None:
        """Raises KitError: something in it is in use (Windows); nothing is deleted then."""
        with self._writing(""):
            items = [item for item in self.path.iterdir() if item.name != LOCK]
            delete_together(sorted(items, key=lambda item: item.name in MARKS))  # until the last it is a run

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """An OSError inside is raised as a KitError that says what to do."""
        try:
            yield
        except OSError as error:
            raise KitError(cannot_write(self.path / name, error)) from error

    def write_text(self, name: str, text: str) -> None:
        """Raises KitError: the disk takes it not; an earlier file of the name is left."""
        with self._writing(name):
            write_whole(self.path / name, [text])
        self.hold.texts[name] = text

    def write_lines(self, name: str, items: Iterable[Any]) -> None:
        """A .jsonl file of the items. Raises KitError as write_text."""
        with self._writing(name):
            write_whole(self.path / name, (json.dumps(item, ensure_ascii=False) + "\n" for item in items))

    def write_json(self, name: str, record: Mapping[str, Any] | None) -> None:
        """With the kit's version and the schema at its head. Raises KitError as write_text."""
        stamped = None if record is None else {**stamp(), **record}
        self.write_text(name, json.dumps(stamped, indent=1, ensure_ascii=False, default=str) + "\n")

    def read_json(self, name: str) -> Any | None:
        """None if it is not there or broken."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def add_line(self, name: str, line: dict[str, Any]) -> OSError | None:
        """To a .jsonl file that grows with the run. Returns why it cannot be written, if so.

        A line is no reason to end a run that goes well: lines that cannot be written wait in memory and are written, in
        their order, with the next one that can. The caller tells the user, once.
        """
        waiting = self.hold.waiting.setdefault(name, [])
        waiting.append(json.dumps(line, ensure_ascii=False) + "\n")
        try:
            append_whole(self.path / name, "".join(waiting))
        except OSError as error:
            return error
        waiting.clear()
        return None

    def back_to(self, step: int) -> list[dict[str, Any]]:
        """The metrics until that step; what was written of later steps, which are done again, is taken out."""
        names = [name for name in (METRICS, ANSWERS) if (self.path / name).exists()]
        kept = {name: _until(self.path / name, step) for name in names}
        for name, lines in kept.items():
            self.write_lines(name, lines)
        return kept.get(METRICS, [])

    @contextmanager
    def new_folder(self, name: str) -> Iterator[Path]:
        """A folder to write into that takes its name only when all is written, in place of an earlier one.

        An error, also of the disk, leaves the earlier one and no trace.
        """
        part = new_part(self.path / name)
        try:
            yield part
            replace_folder(part, self.path / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def lock_folder(folder: Path, in_use: KitError) -> "FileLock":
    """The folder, made where it is missing, is this process's until the lock is released.

    Raises in_use: it is another's; OSError: it cannot be written to.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise in_use from None
    return lock


def cannot_write(path: Path, error: Exception) -> Finding:
    """For a file of a run that is under way."""
    if getattr(error, "errno", None) in FULL or "No space left" in str(error):
        fixes = [f"free some room on the disk of {path.parent}"]
    else:
        fixes = [f"{shell().show_rights(str(path.parent))}       (shows who may write)"]
    if sys.platform == "win32" and isinstance(error, PermissionError):
        fixes = ["close what has it open: kit chat, a spreadsheet, an editor, a window on the folder", *fixes]
    again = "then the same command: it goes on from the newest checkpoint"
    return problem("output-cannot-be-written", f"{path} cannot be written.", describe_error(error), *fixes, again)


def _until(path: Path, step: int) -> list[dict[str, Any]]:
    """Lines of steps up to this one; a last line that a kill left half-written is none."""
    lines = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for one in text.split("\n"):  # splitlines would also part an answer with a line separator in it
        try:
            line = json.loads(one)
            if line["step"] <= step:
                lines.append(line)
        except (ValueError, TypeError, KeyError):
            continue
    return lines


def _check_is_run(path: Path, if_any: bool = False) -> None:
    if (if_any and not (path.is_dir() and any(path.iterdir()))) or (path / OPTIONS).is_file():
        return
    raise failure(
        "output-not-a-run",
        f"{path} holds files that are no run of the kit.",
        "A run would mix with them.",
        f"--output {quoted(free_name(path))}",
    )


def _check_writable(path: Path) -> None:
    """The nearest folder that exists must take a new file with something in it."""
    existing = nearest_existing(path)
    try:
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is a file")
        probe = existing / f".kit-{os.getpid()}.probe"
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise failure(
            "output-not-writable",
            f"Nothing can be written to {path}.",
            f"{type(error).__name__}: {error}",
            "--output a/folder/of/yours",
            f"free some room on the disk of {existing}"
            if error.errno in FULL
            else f"{shell().show_rights(str(existing))}       (shows who may write there)",
        ) from None


def differences(path: Path, run: Run, data_sha256: str | None) -> dict[str, str]:
    """Option -> "there, now" for each in which the run in the folder differs from this one, and so for the data."""
    begun_with, data_there = reading.options(path), reading.data_sha256(path)
    if begun_with is None or data_there is None:
        if any((path / CHECKPOINTS).glob("step-*")):
            return {f"{OPTIONS}, {DATA}": "cannot be read, so nobody knows which run the checkpoints are of"}
        return {}  # begun and never got to its data: nothing to lose
    there = begun_with.model_dump(mode="json")
    now = run.model_dump(mode="json")
    different = {
        name: f"{there[name]} there, {now[name]} now" for name in now if name not in FREE and there[name] != now[name]
    }
    if data_there != data_sha256:
        different["content of the data file"] = "changed since"
    return different
