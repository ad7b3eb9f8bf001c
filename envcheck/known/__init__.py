"""Dated tables of facts about wheels, drivers, cards and packages, and the few questions that are asked of them.

Each .json file opens with "about": the date on which its rows were checked and what each source key means; every row
names its source. A missing row means unknown: these functions then return None and never guess.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from envcheck import versions

Capability = Tuple[int, int]


@functools.lru_cache(maxsize=None)
def table(name: str) -> Dict[str, Any]:
    """One of "torch", "drivers", "gpus", "packages"."""
    return json.loads(Path(__file__).with_name(name + ".json").read_text(encoding="utf-8"))


def parse_capability(text: Optional[str]) -> Optional[Capability]:
    """ "12.0", "sm_120", "sm_90a" or "compute_86" -> (12, 0); None where the text is none of these."""
    if not isinstance(text, str):
        return None
    dotted = re.match(r"^\s*(\d{1,2})\.(\d)\s*$", text)
    if dotted:
        return int(dotted.group(1)), int(dotted.group(2))
    joined = re.match(r"^\s*(?:sm|compute)_(\d{1,2})(\d)[af]?\s*$", text)
    return (int(joined.group(1)), int(joined.group(2))) if joined else None


def capability(name: Optional[str], compute_capability: Optional[str]) -> Optional[Capability]:
    """What the driver says, else what the table of cards says for this name."""
    said = parse_capability(compute_capability)
    if said or not name:
        return said
    row = card(name)
    return parse_capability(row["compute_capability"]) if row else None


def card(name: str) -> Optional[Dict[str, Any]]:
    """The row of a card by the name the driver reports."""
    numbers = set(re.findall(r"\d+", name[:200]))
    likely = (
        row for row in table("gpus")["gpus"] if not numbers.isdisjoint(re.findall(r"\d+", row["name"])) or not numbers
    )
    return next((row for row in likely if re.search(row["pattern"], name[:200], re.IGNORECASE)), None)


def torch_release(version: Optional[str]) -> Optional[Dict[str, Any]]:
    """The row of a torch release; of its newest patch release where only the minor one is known."""
    wanted = versions.parse(version)
    if wanted is None:
        return None
    rows = table("torch")["releases"]
    parsed = [(row, versions.parse(row["torch"])) for row in rows]
    exact = [row for row, found in parsed if found and found.key == wanted.key and len(wanted.release) > 2]
    same = [row for row in rows if versions.minor_of(row["torch"]) == wanted.minor]
    return (exact or same[-1:] or [None])[0]


def variant_of(cuda: Optional[str]) -> Optional[str]:
    """ "12.8" -> "cu128"."""
    found = re.match(r"^(\d+)\.(\d)", cuda or "")
    return "cu" + found.group(1) + found.group(2) if found else None


def cuda_of(variant: str) -> str:
    """ "cu128" -> "12.8"."""
    return variant[2:-1] + "." + variant[-1]


def architectures(torch: Optional[str], variant: Optional[str], platform: str) -> Optional[List[str]]:
    """What a wheel was compiled for, such as ["sm_75", "sm_120"]. `platform`: linux_x86_64, windows_amd64,
    linux_aarch64.
    """
    minor = versions.minor_of(torch)
    rows = (row for row in table("torch")["architectures"] if row["torch"] == minor and row["variant"] == variant)
    row = next(rows, None)
    return row.get(platform) if row else None


def serves(compiled_for: List[str], card_capability: Capability) -> bool:
    """Does code compiled for these run on the card? Binary code: same major, minor at most the card's; PTX: anything
    not newer.
    """
    for entry in compiled_for:
        built = parse_capability(entry)
        if built is None:
            continue
        if entry.startswith("compute_"):
            if built <= card_capability:
                return True
        elif re.search(r"[af]$", entry):
            if built == card_capability:
                return True
        elif built[0] == card_capability[0] and built[1] <= card_capability[1]:
            return True
    return False


def floor_of_cuda(cuda: str, windows: bool) -> Optional[str]:
    """Least driver for a wheel of this CUDA version (minor version compatibility)."""
    major = cuda.split(".")[0]
    row = next((row for row in table("drivers")["floors"] if row["cuda_major"] == major), None)
    return row["windows" if windows else "linux"] if row else None


def first_driver_of_card(card_capability: Capability, windows: bool) -> Optional[str]:
    """First driver branch that knows the architecture, such as "570" for (12, 0)."""
    name = "sm_%d%d" % card_capability
    row = next((row for row in table("drivers")["cards"] if row["sm"] == name), None)
    found = re.match(r"[\d.]+", (row["first_windows" if windows else "first_linux"] or "") if row else "")
    return found.group(0) if found else None


def package_rows(name: str) -> List[Dict[str, Any]]:
    """Rows of one package in packages.json, oldest first."""
    return list(table("packages").get(name.replace("-", "_"), []))


def row_for(name: str, version: Optional[str]) -> Optional[Dict[str, Any]]:
    """The row of this version, else of the newest one before it: bounds change only from time to time."""
    rows = [row for row in package_rows(name) if versions.at_least(version, row["version"])]
    return rows[-1] if rows else None


def pair_of_torch(torch: Optional[str]) -> Optional[Dict[str, Any]]:
    """triton, xformers and torchao that belong to a torch release."""
    release = torch_release(torch)
    rows = (row for row in table("packages")["per_torch"] if release and row["torch"] == release["torch"])
    return next(rows, None)
