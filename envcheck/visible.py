"""Which NVIDIA cards a process sees: what CUDA_VISIBLE_DEVICES says of the list that nvidia-smi gives. Pure; imports
facts, wheels.

>>> two = (Gpu(name="NVIDIA GeForce RTX 3060", index=0), Gpu(name="NVIDIA GeForce RTX 5080", index=1))
>>> [gpu.index for gpu in cards(Facts(gpu=two, env={"CUDA_VISIBLE_DEVICES": "1"}), BY_BUS)]
[1]
"""

import re
from typing import List, Optional, Tuple

from envcheck import wheels
from envcheck.facts import Facts, Gpu

VARIABLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"  # of ORDER: as nvidia-smi counts; without it CUDA counts the fastest card first

NUMBER = re.compile(r"^[0-9]{1,6}$")


def entries(chosen: str) -> List[str]:
    """Of CUDA_VISIBLE_DEVICES."""
    return [entry.strip().strip("\"'") for entry in chosen.split(",")]


def cards(facts: Facts, order: str = "") -> Tuple[Gpu, ...]:
    """The cards that are left, in the order of the variable; CUDA stops reading it at the first entry that names none.

    order: what CUDA_DEVICE_ORDER will be where the environment has none. Where it cannot be told which are meant
    (a number of unlike cards in CUDA's own order, a UUID of a card that has none in the facts) all of them.
    """
    every, env = wheels.nvidia_cards(facts), facts.env or {}
    chosen = env.get(VARIABLE)
    if chosen is None or not every:
        return every
    if not _can_be_told(chosen, every, env.get(ORDER, order)):
        return every
    seen: List[Gpu] = []
    for entry in entries(chosen):
        gpu = _named(entry, every)
        if gpu is None:
            break
        seen.append(gpu)
    return tuple(seen)


def _can_be_told(chosen: str, every: Tuple[Gpu, ...], order: str) -> bool:
    named = entries(chosen)
    counted = order == BY_BUS or len({gpu.name for gpu in every}) == 1
    known = all(gpu.uuid for gpu in every)
    return all(known if entry.startswith("GPU-") else counted or not NUMBER.match(entry) for entry in named)


def _named(entry: str, every: Tuple[Gpu, ...]) -> Optional[Gpu]:
    """By nvidia-smi's number, by the beginning of a UUID, or a slice of a card (MIG), whose memory nobody knows."""
    if entry.startswith("MIG-"):
        same = every[0].compute_capability if len({gpu.name for gpu in every}) == 1 else None
        return Gpu(name="NVIDIA MIG instance", compute_capability=same, uuid=entry)
    if NUMBER.match(entry):
        numbered = {number if gpu.index is None else gpu.index: gpu for number, gpu in enumerate(every)}
        return numbered.get(int(entry))
    found = [gpu for gpu in every if entry.startswith("GPU-") and (gpu.uuid or "").lower().startswith(entry.lower())]
    return found[0] if len(found) == 1 else None
