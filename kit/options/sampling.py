"""How an answer is drawn."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0: always the likeliest one; top_k 0: among all."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
