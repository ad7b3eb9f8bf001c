"""A program of the kit where torch is said to be built for ROCm and to see an AMD card, which no tensor can go to.

python tests/kit/on_rocm.py MODULE ARGUMENTS
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import bitsandbytes  # noqa: F401 - before the stand-in: it looks for its own library of that build
import torch


def main() -> int:
    torch.version.hip = "6.4.43482"
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    return int(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
