"""The environment in which Python finds paper cards, nvidia-smi, and what is installed beside a card."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

from tests.support.paper_card import cards, triton_names

ROOT = Path(__file__).parents[3]
SITE = Path(__file__).parent / "site"
# What would start kernels in Triton, or compile: see the head of the package.
PLAIN = {
    "TORCHDYNAMO_DISABLE": "1",
    "UNSLOTH_BNB_TRITON": "0",
    "UNSLOTH_DECODE_FUSED_ROPE": "0",
    "UNSLOTH_FUSED_ADD_RMSNORM": "0",
    "UNSLOTH_FUSED_LINEAR": "0",
    "UNSLOTH_FUSED_QKNORM_ROPE": "0",
    "UNSLOTH_TRITON_FAST_LAUNCH": "0",
}


def environment(folder: Path, kinds: str) -> dict[str, str]:
    """Of a machine with these cards (cards.KINDS, separated by blanks); `folder` takes what is installed in it."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.support.paper_card.nvidia_smi "$@"\n')
    program.chmod(0o755)
    torch = f"{version('torch').partition('+')[0]}+cu{cards.CUDA.replace('.', '')}"
    for name, found in (("torch", torch), ("triton", triton_names.VERSION)):
        metadata = folder / "installed" / f"{name}-{found}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True, exist_ok=True)
        metadata.write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {found}\n")
    build = folder / "installed" / "torch" / "version.py"  # read by envcheck; the real torch is what is imported
    build.parent.mkdir(exist_ok=True)
    build.write_text(f"cuda = {cards.CUDA!r}\n")
    return {
        **PLAIN,
        cards.CARDS: kinds,
        "HF_HUB_OFFLINE": "1",
        "PATH": os.pathsep.join([str(program.parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(map(str, (SITE, folder / "installed", ROOT))),
    }
