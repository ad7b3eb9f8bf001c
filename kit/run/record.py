"""What is remembered of a run: what was asked, on which machine, with which data, and what came out."""

import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from kit.models import Model
from kit.options import Run, TrainCommand

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
    command: TrainCommand,
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
