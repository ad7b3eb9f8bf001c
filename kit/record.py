"""The run folder: what was asked, on which machine, with which data, and what came out. A file is whole or absent."""

import json
import os
import platform
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from kit import config
from kit.errors import KitError, problem
from kit.files import write_whole
from kit.models import Model
from kit.options import Command, Run

STACK = (
    "torch",
    "unsloth",
    "unsloth_zoo",
    "trl",
    "transformers",
    "peft",
    "datasets",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "pydantic",
    "tyro",
    "rich",
)


@dataclass(frozen=True)
class Answer:
    """One question, answered greedily."""

    question: str
    text: str
    tokens: int
    tokens_per_s: float


@dataclass(frozen=True)
class Result:
    """What came out of a run. Losses: of the held-out rows, in nats a trained token; None: no rows were held out."""

    steps: int
    tokens: int
    train_s: float
    tokens_per_s: float
    loss_before: float | None
    loss_after: float | None
    peak_memory_bytes: int
    before: tuple[Answer, ...]
    after: tuple[Answer, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Result":
        answers = {key: tuple(Answer(**item) for item in data[key]) for key in ("before", "after")}
        return cls(**{**data, **answers})


def default_output(run: Run, model: Model) -> Path:
    data = Path(run.data[0]).stem if run.data else "run"
    return Path("runs") / f"{data}-{Path(model.name).name}"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; `earlier` is the result that an equal, finished run left there."""

    path: Path
    earlier: Result | None

    @classmethod
    def claim(cls, path: Path, run: Run, data_sha256: str) -> "RunFolder":
        """Check that the folder is free, or holds this very run. Writes nothing.

        Raises KitError: a folder that holds another run or something else, or that cannot be written to.
        """
        _check_writable(path)
        if not path.is_dir() or not any(path.iterdir()):
            return cls(path, None)
        if not (path / "run.toml").is_file():
            raise KitError(
                problem(
                    "output-not-a-run",
                    f"{path} holds files that are no run of the kit.",
                    "A run would mix with them.",
                    f"--output {_free_name(path)}",
                )
            )
        different = _differences(path, run, data_sha256)
        if different:
            raise KitError(
                problem(
                    "output-holds-another-run",
                    f"{path} holds a run with other options or data.",
                    "Its results would be overwritten.",
                    f"--output {_free_name(path)}",
                    details=different,
                )
            )
        return cls(path, _finished_result(path))

    def open(self, command: Command) -> None:
        """Begin: from here on the folder is this run's."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "metrics.jsonl").unlink(missing_ok=True)
        self.write_text("run.toml", config.to_toml(command.run, command.origins))

    def write_text(self, name: str, text: str) -> None:
        write_whole(self.path / name, [text])

    def write_lines(self, name: str, items: Iterable[Any]) -> None:
        """A .jsonl file of the items."""
        write_whole(self.path / name, (json.dumps(item, ensure_ascii=False) + "\n" for item in items))

    def write_json(self, name: str, record: Any) -> None:
        self.write_text(name, json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n")

    def add_metrics(self, line: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @contextmanager
    def new_folder(self, name: str) -> Iterator[Path]:
        """A folder to write into that takes its name only when all is written, in place of an earlier one."""
        import shutil

        beside = self.path / f".{name}.part"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        yield beside
        target = self.path / name
        shutil.rmtree(target, ignore_errors=True)
        beside.replace(target)


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
        return {}  # begun and never got to its data: nothing to lose
    now = run.model_dump(mode="json")
    different = {
        name: f"{there[name]} there, {now[name]} now" for name in now if name != "output" and there[name] != now[name]
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


def versions() -> dict[str, str | None]:
    """Installed version of each package the run stands on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in STACK:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def manifest(
    command: Command,
    settled: Run,
    reasons: dict[str, str],
    facts: dict[str, Any],
    model: Model,
    data_sha256: str,
    status: str,
    notes: list[str],
    result: Result | None,
) -> dict[str, Any]:
    """Everything needed to know this run again: versions, data, machine, options with their origin."""
    asked = command.run.model_dump(mode="json")
    return {
        "status": status,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "model": {"name": model.name, "architectures": model.config.get("architectures")},
        "data": {"files": asked["data"], "sha256": data_sha256},
        "options": {
            name: {"value": value, "origin": command.origins.get(name, "default")} for name, value in asked.items()
        },
        "chosen": {name: {"value": getattr(settled, name), "reason": reason} for name, reason in reasons.items()},
        "facts": facts,
        "notes": notes,
        "result": asdict(result) if result else None,
    }
