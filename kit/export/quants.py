"""Number formats of GGUF files: those that are written here, and those that llama-quantize makes of one of them."""

import importlib.util
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from kit.export.gguf_file import TYPES
from kit.support.errors import USAGE, did_you_mean, failure

QUANTIZE = "llama-quantize"
BY_LLAMA_CPP = (
    "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq3_s", "iq4_nl", "iq4_xs",
)  # fmt: skip
STARTS_FROM = "f16"  # what llama-quantize is given


def written_here(quants: Sequence[str]) -> tuple[str, ...]:
    """Of these formats the ones that need no llama-quantize, and the one that it starts from if it is needed."""
    own = [quant for quant in quants if quant in TYPES]
    return tuple(dict.fromkeys([*own, *([STARTS_FROM] if len(own) < len(quants) else [])]))


def check(quants: Iterable[str]) -> None:
    """Raises KitError: the package gguf is missing, or a format that cannot be written on this machine."""
    if importlib.util.find_spec("gguf") is None:
        raise failure(
            "gguf-not-installed",
            "The package gguf is not installed.",
            "It writes the file, and transformers reads it again with it.",
            "python -m pip install gguf",
        )
    here = ", ".join(TYPES)
    for quant in quants:
        if quant in TYPES or (quant in BY_LLAMA_CPP and shutil.which(QUANTIZE)):
            continue
        is_known = quant in BY_LLAMA_CPP
        nearest = "" if is_known else did_you_mean(quant, (*TYPES, *BY_LLAMA_CPP))
        raise failure(
            "gguf-quant-not-here",
            f"{quant} cannot be written here. {nearest}".rstrip(),
            f"It is made by {QUANTIZE} of llama.cpp, which is not on the path."
            if is_known
            else "It is no number format of GGUF files that the kit knows.",
            f"--quant q8_0             (written here without llama.cpp: {here})",
            *([f"install llama.cpp, so that {QUANTIZE} is on the path"] if is_known else []),
            status=USAGE,
        )


def quantize(source: Path, target: Path, quant: str) -> None:
    """By llama-quantize, of a file in F16. Raises KitError: there is none afterwards."""
    command = [QUANTIZE, str(source), str(target), quant.upper()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode or not target.is_file():
        raise failure(
            "gguf-quantize-failed",
            f"{QUANTIZE} did not make a {quant} file.",
            (done.stderr.strip().splitlines() or ["It said nothing."])[-1],
            "--quant q8_0             (written without it)",
        )
