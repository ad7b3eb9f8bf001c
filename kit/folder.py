"""The folder of a run: claimed for one process, one set of options and one data; a file in it is whole or absent."""

import json
import os
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import config
from kit.errors import KitError, problem
from kit.files import write_whole
from kit.options import Command, Run
from kit.record import Result

# Options that change neither what is learnt nor in which order: a run may go on with others.
FREE = {
    "output",
    "micro_batch_size",
    "gradient_checkpointing",
    "pin_memory",
    "prompts",
    "sample_tokens",
    "checkpoint_minutes",
    "keep_checkpoints",
    "on_nan",
    "vram_limit_gib",
}
LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    earlier: the result that an equal, finished run left there. different: options or data that are others than those of
    the unfinished run there, which the user wants to go on all the same.
    """

    path: Path
    earlier: Result | None = None
    different: dict[str, str] | None = None

    @classmethod
    def claim(cls, path: Path, command: Command, data_sha256: str) -> "RunFolder":
        """Check that the folder is free, or holds this very run. Writes nothing of the run.

        Raises KitError: a folder that holds another run or something else, or that cannot be written to.
        """
        _check_writable(path)
        if command.fresh or not path.is_dir() or not any(path.iterdir()):
            _check_is_run(path, if_any=True)
            return cls(path)
        _check_is_run(path)
        different = _differences(path, command.run, data_sha256)
        if different and not command.resume_anyway:
            raise KitError(
                problem(
                    "output-holds-another-run",
                    f"{path} holds a run with other options or data.",
                    "Its results would be overwritten, or it would go on as another run than it began.",
                    f"--output {_free_name(path)}",
                    "--fresh                (deletes that run and begins anew)",
                    "--resume-anyway        (goes on from its checkpoint; this is written down)",
                    details=different,
                )
            )
        return cls(path, None if different else _finished_result(path), different or None)

    @contextmanager
    def open(self, command: Command) -> Iterator[None]:
        """This process's alone while inside. Raises KitError: another process is in it."""
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise KitError(
                problem(
                    "output-in-use",
                    f"Another process is training in {self.path}.",
                    "Two would overwrite each other's checkpoints.",
                    "wait for it, or stop it with Ctrl-C: it keeps a checkpoint",
                    f"--output {_free_name(self.path)}",
                )
            ) from None
        with lock:
            if command.fresh:
                self._empty()
            self.write_text("run.toml", config.to_toml(command.run, command.origins))
            yield

    def _empty(self) -> None:
        for item in self.path.iterdir():
            if item.is_dir():
                shutil.rmtree(item)
            elif item.name != LOCK:
                item.unlink()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_text(self, name: str, text: str) -> None:
        write_whole(self.path / name, [text])

    def write_lines(self, name: str, items: Iterable[Any]) -> None:
        """A .jsonl file of the items."""
        write_whole(self.path / name, (json.dumps(item, ensure_ascii=False) + "\n" for item in items))

    def write_json(self, name: str, record: Any) -> None:
        self.write_text(name, json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n")

    def read_json(self, name: str) -> Any | None:
        """None if it is not there."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def add_line(self, name: str, line: dict[str, Any]) -> None:
        """To a .jsonl file that grows with the run."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def back_to(self, step: int) -> list[dict[str, Any]]:
        """The metrics until that step; what was written of later steps, which are done again, is taken out."""
        kept = {name: _until(self.path / name, step) for name in ("metrics.jsonl", "samples.jsonl")}
        for name, lines in kept.items():
            self.write_lines(name, lines)
        return kept["metrics.jsonl"]

    @contextmanager
    def new_folder(self, name: str) -> Iterator[Path]:
        """A folder to write into that takes its name only when all is written, in place of an earlier one."""
        beside = self.path / f".{name}.part"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        yield beside
        target = self.path / name
        shutil.rmtree(target, ignore_errors=True)
        beside.replace(target)


def _until(path: Path, step: int) -> list[dict[str, Any]]:
    """Lines of steps up to this one; a last line that a kill left half-written is none."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["step"] <= step:
            lines.append(line)
    return lines


def _check_is_run(path: Path, if_any: bool = False) -> None:
    if (if_any and not (path.is_dir() and any(path.iterdir()))) or (path / "run.toml").is_file():
        return
    raise KitError(
        problem(
            "output-not-a-run",
            f"{path} holds files that are no run of the kit.",
            "A run would mix with them.",
            f"--output {_free_name(path)}",
        )
    )


def _check_writable(path: Path) -> None:
    """The nearest folder that exists must take a new file."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    try:
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is a file")
        probe = existing / f".kit-{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise KitError(
            problem(
                "output-not-writable",
                f"Nothing can be written to {path}.",
                f"{type(error).__name__}: {error}",
                "--output a/folder/of/yours",
                f"ls -ld {existing}       (shows who may write there)",
            )
        ) from None


def _differences(path: Path, run: Run, data_sha256: str) -> dict[str, str]:
    """Option -> "there, now" for each that differs; at most six."""
    try:
        there = Run(**tomllib.loads((path / "run.toml").read_text(encoding="utf-8"))).model_dump(mode="json")
        data_there = json.loads((path / "data.json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        if any((path / "checkpoints").glob("step-*")):
            return {"run.toml, data.json": "cannot be read, so nobody knows which run the checkpoints are of"}
        return {}  # begun and never got to its data: nothing to lose
    now = run.model_dump(mode="json")
    different = {
        name: f"{there[name]} there, {now[name]} now" for name in now if name not in FREE and there[name] != now[name]
    }
    if data_there != data_sha256:
        different["content of the data file"] = "changed since"
    return dict(list(different.items())[:6])


def _finished_result(path: Path) -> Result | None:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        return Result.from_json(manifest["result"]) if manifest["status"] == "finished" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _free_name(path: Path) -> Path:
    return next(name for number in range(2, 1000) if not (name := path.with_name(f"{path.name}-{number}")).exists())
