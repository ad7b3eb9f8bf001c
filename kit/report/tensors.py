"""Weights out of a safetensors file as numpy arrays, without torch.

The file: 8 bytes with the length of the header, the header as JSON (name -> dtype, shape, data_offsets), the bytes of
the tensors (https://huggingface.co/docs/safetensors). The library's own numpy reader knows no bfloat16.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100 << 20  # the format's own limit
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
PIECE = 1 << 16  # values at once: small enough that a sum of float32 stays exact to five digits


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in its file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start_bytes: int


def stored(file: Path) -> dict[str, Stored]:
    """The tensors of a file by name. Raises ValueError: it is no whole safetensors file; OSError: it cannot be read."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(MOST_HEADER_BYTES, size - LENGTH_BYTES):
            raise ValueError(f"{file.name} is no whole safetensors file")
        header = json.loads(opened.read(length))
    try:
        found = {
            name: _checked(name, about, file, LENGTH_BYTES + length, size)
            for name, about in header.items()
            if name != "__metadata__"
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the header of {file.name} is broken") from error
    return found


def _checked(name: str, about: dict, file: Path, data_bytes: int, size: int) -> Stored:
    start, end = map(int, about["data_offsets"])
    shape = tuple(map(int, about["shape"]))
    dtype = about["dtype"]
    if not 0 <= start <= end <= size - data_bytes or min(shape, default=0) < 0:
        raise ValueError(f"{file.name} ends before its tensor {name}")
    if dtype in DTYPES and math.prod(shape) * numpy.dtype(DTYPES[dtype]).itemsize != end - start:
        raise ValueError(f"{name} in {file.name} has another size than its shape says")
    return Stored(file, dtype, shape, data_bytes + start)


def is_readable(tensor: Stored) -> bool:
    """Whether it holds plain numbers; weights in 4 bit do not."""
    return tensor.dtype in DTYPES


def values(tensor: Stored) -> numpy.ndarray:
    """All of it, in float64."""
    with numpy.errstate(invalid="ignore"):  # numpy warns of some NaNs; who asks for values looks for them
        return numpy.concatenate([piece.astype(numpy.float64) for piece in _pieces(tensor)]).reshape(tensor.shape)


def norm(tensor: Stored) -> float:
    """Frobenius norm, in memory for PIECE values only."""
    return math.sqrt(math.fsum(float(piece @ piece) for piece in _pieces(tensor)))


def _pieces(tensor: Stored) -> Iterator[numpy.ndarray]:
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
