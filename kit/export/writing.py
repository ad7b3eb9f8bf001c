"""Merged weights -> files: each tensor is made once and handed to every file that wants it."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from kit.backend import merging
from kit.models.change import Combination, Weight
from kit.support.errors import KitError, problem
from kit.support.progress import OnProgress


class Sink(Protocol):
    """Takes every weight, in the order of the base, in blocks of rows of float32."""

    def begin(self, weight: Weight) -> None: ...

    def write(self, piece: Any) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


def write(weights: Sequence[Weight], combination: Combination, sinks: Iterable[Sink], show: OnProgress) -> None:
    """Peak memory: the largest tensor and its update. Raises KitError: a weight that is no number; OSError."""
    with ExitStack() as opened:
        for sink in sinks:
            opened.callback(sink.abort)  # closing twice does no harm
        for number, weight in enumerate(weights, 1):
            for sink in sinks:
                sink.begin(weight)
            for piece in merging.pieces(weight, combination):
                _check_finite(weight, piece)
                for sink in sinks:
                    sink.write(piece)
            for sink in sinks:
                sink.end()
            show("merge", number, len(weights), weight.name)
        for sink in sinks:
            sink.close()


def _check_finite(weight: Weight, piece: Any) -> None:
    if not merging.is_finite(piece):
        raise KitError(
            problem(
                "merge-not-a-number",
                f"{weight.name} is no number after the merge.",
                "The adapter or the base holds nan or infinity.",
                "train again with a lower --learning-rate; an earlier checkpoint of the run may be sound",
            )
        )
