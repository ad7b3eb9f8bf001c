"""Weights out of a safetensors file as numpy arrays, without torch: the library's own reader knows no bfloat16."""

import math
from collections.abc import Iterator

import numpy

from kit.models.headers import Tensor

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
PIECE = 1 << 16  # values at once: small enough that a sum of float32 stays exact to five digits


def is_readable(tensor: Tensor) -> bool:
    """Whether it holds plain numbers; weights in 4 bit do not."""
    return tensor.dtype in DTYPES


def values(tensor: Tensor) -> numpy.ndarray:
    """All of it, in float64."""
    with numpy.errstate(invalid="ignore"):  # numpy warns of some NaNs; who asks for values looks for them
        return numpy.concatenate([piece.astype(numpy.float64) for piece in _pieces(tensor)]).reshape(tensor.shape)


def norm(tensor: Tensor) -> float:
    """Frobenius norm, in memory for PIECE values only."""
    return math.sqrt(math.fsum(float(piece @ piece) for piece in _pieces(tensor)))


def _pieces(tensor: Tensor) -> Iterator[numpy.ndarray]:
    if not is_readable(tensor):
        raise ValueError(f"{tensor.dtype} is no number format that can be read")
    kind, count = numpy.dtype(DTYPES[tensor.dtype]), math.prod(tensor.shape)
    with tensor.file.open("rb") as opened:
        opened.seek(tensor.start_bytes)
        for begin in range(0, count, PIECE):
            raw = numpy.frombuffer(opened.read(kind.itemsize * min(PIECE, count - begin)), kind)
            if tensor.dtype == "BF16":  # the upper half of a float32
                yield (raw.astype("<u4") << 16).view("<f4")
            else:
                yield raw if tensor.dtype == "F64" else raw.astype(numpy.float32)
        if not count:
            yield numpy.empty(0)
