"""The models that the kit knows by size, and how long a sample of each fits on common cards."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from envcheck import settings
from envcheck.facts import Facts, Gpu
from kit import models
from kit.memory.choosing import fit
from kit.memory.shape import Shape
from kit.options import Run

CARDS_GIB = (8, 12, 16, 24, 32)
RANK = 16
EMBEDDED = "tiny"


@dataclass(frozen=True)
class FittingModel:
    """name: as --model takes it. download_bytes: of its weights in 16 bit, 0 for the one that comes with the kit.
    longest_tokens: memory of a card in GiB -> the longest sample, 0 where none fits."""

    name: str
    licence: str
    parameters: int
    download_bytes: int
    is_here: bool
    longest_tokens: dict[int, int]


def fitting_models() -> Iterator[FittingModel]:
    """Smallest first, the embedded one before all."""
    config = models.find(EMBEDDED).config
    yield FittingModel(EMBEDDED, "Apache-2.0", Shape.of(config).params, 0, True, _on_cards(config))
    by_original = {model.hub_name: model.name for model in models.PACKAGED.values()}
    for shape in sorted(models.shipped_shapes().values(), key=lambda shape: shape.parameters):
        name = by_original.get(shape.name, shape.name)
        download_bytes, on_cards = 2 * shape.parameters, _on_cards(shape.config)
        yield FittingModel(name, shape.licence, shape.parameters, download_bytes, models.is_here(name), on_cards)


def _on_cards(config: dict[str, Any]) -> dict[int, int]:
    return {gib: longest_tokens(config, gib) for gib in CARDS_GIB}


def longest_tokens(config: dict[str, Any], card_gib: float) -> int:
    """Of a sample that a QLoRA of rank RANK trains on, one at a time, on a card of that memory with a desktop on it."""
    card = Gpu(name="NVIDIA card", vram_gib=card_gib, compute_capability="8.0", display=True)
    room_bytes = settings.choose(Facts(gpu=(card,))).memory_bytes.value
    run = Run(device="cuda", precision="bf16", optimizer="adamw_8bit", lora_rank=RANK, lora_alpha=RANK)
    found = fit(config, run, room_bytes, "unsloth", "seq")
    return found["max_length_tokens"] if found else 0
