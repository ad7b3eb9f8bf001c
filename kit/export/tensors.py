"""Safetensors files: what they hold, and a writer that takes the weights piece by piece. No torch.

The format: eight bytes that give the length of a JSON table, the table (name -> dtype, shape, first and last byte), and
the bytes of all tensors one behind the other; huggingface.co/docs/safetensors. The table comes first, so sizes must be
known before the first weight is.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kit.errors import KitError, problem

WIDTH_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
ALIGNMENT_BYTES = 8  # of the first weight


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: dtype as safetensors writes it (BF16, F32, U8, ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return WIDTH_BYTES[self.dtype] * math.prod(self.shape)


def headers(path: Path) -> dict[str, Tensor]:
    """What a file holds, in the order of its names. Raises KitError: cut short, or no safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {name: Tensor(name, one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except (OSError, SafetensorError) as error:
        raise KitError(
            problem(
                "weights-unreadable",
                f"{path} is no whole safetensors file.",
                f"{type(error).__name__}: {error}".splitlines()[0],
                "copy or download it again: a part of it is missing or another file has its name",
            )
        ) from None


class Writer:
    """A file of tensors whose bytes are handed over in the order of the table, in pieces of any size."""

    def __init__(self, path: Path, tensors: Iterable[Tensor]):
        table, end = {"__metadata__": {"format": "pt"}}, 0
        for tensor in tensors:
            start, end = end, end + tensor.nbytes
            table[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT_BYTES)
        self.end = 8 + len(text) + end
        self.file = path.open("wb")
        self.file.write(len(text).to_bytes(8, "little") + text)

    def write(self, piece: memoryview) -> None:
        self.file.write(piece)

    def close(self) -> None:
        """To the disk itself. Raises ValueError: bytes of a tensor are missing."""
        with self.file:
            self.file.flush()
            if self.file.tell() != self.end:
                raise ValueError(f"{self.file.name}: {self.file.tell()} bytes where {self.end} were announced")
            os.fsync(self.file.fileno())

    def abort(self) -> None:
        self.file.close()
