"""Which paper cards are in the machine: names in the environment, in the order of their slots.

Standard library only: nvidia-smi's stand-in reads it too.
"""

import os
from dataclasses import dataclass

CARDS = "PAPER_CARDS"  # the environment variable: "rtx5080", or "rtx3090 rtx5080" for two
CUDA = "13.0"  # the newest that the driver knows, and the one that torch is built for
GIB = 1 << 30


@dataclass(frozen=True)
class Card:
    """As its driver tells it. `speed` orders the cards as CUDA does where nobody asks for another order."""

    name: str
    capability: tuple[int, int]
    total_bytes: int
    speed: int
    index: int = 0

    @property
    def uuid(self) -> str:
        return f"GPU-00000000-0000-0000-0000-{self.index:012}"


KINDS = {
    "rtx5080": Card("NVIDIA GeForce RTX 5080", (12, 0), int(15.92 * GIB), 3),
    "rtx4060": Card("NVIDIA GeForce RTX 4060", (8, 9), int(7.99 * GIB), 2),
    "rtx3090": Card("NVIDIA GeForce RTX 3090", (8, 6), int(24.0 * GIB), 2),
    "t4": Card("Tesla T4", (7, 5), int(14.56 * GIB), 1),
}


def installed() -> list[Card]:
    """In the order of nvidia-smi."""
    return [Card(**{**vars(KINDS[kind]), "index": index}) for index, kind in enumerate(os.environ[CARDS].split())]


def visible() -> list[Card]:
    """In the order of CUDA: by CUDA_DEVICE_ORDER, and only those of CUDA_VISIBLE_DEVICES."""
    cards = installed()
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        cards.sort(key=lambda card: -card.speed)
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return cards
    names = {name: card for number, card in enumerate(cards) for name in (str(number), card.uuid)}
    return [names[name] for name in asked.split(",") if name in names]
