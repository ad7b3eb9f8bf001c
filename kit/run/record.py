"""What comes out of a run."""

from dataclasses import dataclass
from typing import Any


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
