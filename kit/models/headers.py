"""What a safetensors file holds, by its header alone. Only the standard library.

The format: eight bytes that give the length of a JSON table, the table (name -> dtype, shape, first and last byte), and
the bytes of all tensors one behind the other, without gaps; huggingface.co/docs/safetensors.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

LENGTH_BYTES = 8
LONGEST_HEADER_BYTES = 100 << 20  # the format's own limit
METADATA = "__metadata__"
MOST = 1 << 63  # the counts of the format are of 64 bit
WIDTH_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class Unreadable(ValueError):
    """The file cannot be read, or is no whole safetensors file; the text says why."""


@dataclass(frozen=True)
class Tensor:
    """One tensor and where it lies: dtype as safetensors writes it (BF16, F32, U8, ...); start_bytes of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start_bytes: int
    nbytes: int

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


def headers(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, in the order of their names. Raises Unreadable: it is no whole safetensors file."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 2 <= length <= min(LONGEST_HEADER_BYTES, size_bytes - LENGTH_BYTES):
                raise Unreadable(f"{path.name} is no whole safetensors file: its header is missing or cut short")
            table = _table(path, file.read(length))
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be opened: {error.strerror or error}") from error
    tensors = [_tensor(path, name, entry, LENGTH_BYTES + length) for name, entry in table.items() if name != METADATA]
    end_bytes = _end_bytes(path, tensors, LENGTH_BYTES + length)
    if end_bytes != size_bytes:
        raise Unreadable(f"{path.name} has {size_bytes:,} bytes, and its header tells of {end_bytes:,}")
    return {tensor.name: tensor for tensor in sorted(tensors, key=lambda tensor: tensor.name)}


def _table(path: Path, text: bytes) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path.name} is no safetensors file: its header is no JSON") from error
    if not isinstance(table, dict):
        raise Unreadable(f"{path.name} is no safetensors file: its header is no table")
    return table


def _tensor(path: Path, name: str, entry: Any, data_bytes: int) -> Tensor:
    fields = entry if isinstance(entry, Mapping) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not (isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise Unreadable(f"the header of {path.name} is broken at {name}")
    start, end = offsets
    if start > end or (dtype in WIDTH_BYTES and WIDTH_BYTES[dtype] * math.prod(shape) != end - start):
        raise Unreadable(f"{name} in {path.name} has another size than its shape says")
    return Tensor(name, dtype, tuple(shape), path, data_bytes + start, end - start)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < MOST for value in values)


def _end_bytes(path: Path, tensors: list[Tensor], data_bytes: int) -> int:
    """Of the last tensor. Raises Unreadable: two overlap, or bytes between them are nobody's."""
    end = data_bytes
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start_bytes, tensor.nbytes)):
        if tensor.start_bytes != end:
            raise Unreadable(f"{tensor.name} in {path.name} does not begin where the tensor before it ends")
        end += tensor.nbytes
    return end
