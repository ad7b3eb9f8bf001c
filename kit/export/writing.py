"""Merged weights -> files: each tensor is made once and handed to every file that wants it."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

from kit.backend import card_errors_explained, merging
from kit.backend.merging import Piece
from kit.models.change import Combination, Weight
from kit.support.errors import failure
from kit.support.progress import OnProgress


class Sink(Protocol):
    """Takes every weight, in the order of the base, in blocks of rows of float32."""

    def write(self, weight: Weight, piece: Piece) -> None: ...

    def end(self, weight: Weight) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


@card_errors_explained()
def write(weights: Sequence[Weight], combination: Combination, sinks: Sequence[Sink], on_progress: OnProgress) -> None:
    """Peak memory: the largest tensor and its update. Raises KitError: a weight with NaN or infinity in it; OSError."""
    with ExitStack() as opened:
        for sink in sinks:
            opened.callback(sink.abort)  # closing twice does no harm
        for number, weight in enumerate(weights, 1):
            for piece in merging.pieces(weight, combination):
                _check_finite(weight, piece)
                for sink in sinks:
                    sink.write(weight, piece)
            for sink in sinks:
                sink.end(weight)
            on_progress("merge", number, len(weights), weight.name)
        for sink in sinks:
            sink.close()


def _check_finite(weight: Weight, piece: Piece) -> None:
    if not merging.is_finite(piece):
        raise failure(
            "merge-not-a-number",
            f"{weight.name} holds NaN or infinity after the merge.",
            "The adapter or the base holds it already.",
            "train again with a lower --learning-rate; an earlier checkpoint of the run may be sound",
        )
