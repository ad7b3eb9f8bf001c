"""Writing files so that nobody ever finds half of one."""

import os
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, texts: Iterable[str]) -> None:
    """Written beside, then renamed: the file is whole or absent."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(texts)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
