"""A writer of safetensors files that takes the weights piece by piece. No torch.

The table of a file comes first (kit.models.headers), so sizes must be known before the first weight is.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.models.headers import LENGTH_BYTES, METADATA, WIDTH_BYTES

WORDS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # in config.json
ALIGNMENT_BYTES = 8  # of the first weight


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that will be written: dtype as safetensors writes it (BF16, F32, U8, ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return WIDTH_BYTES[self.dtype] * math.prod(self.shape)


class TensorWriter:
    """A file of tensors whose bytes are handed over in the order of the table, in pieces of any size."""

    def __init__(self, path: Path, tensors: Iterable[PlannedTensor]):
        table: dict[str, dict[str, Any]] = {METADATA: {"format": "pt"}}
        end = 0
        for tensor in tensors:
            start, end = end, end + tensor.nbytes
            table[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT_BYTES)
        self.end = LENGTH_BYTES + len(text) + end
        self.file = path.open("wb")
        self.file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)

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
        """Leave it as it is."""
        self.file.close()
