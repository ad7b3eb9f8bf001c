"""What a merge changes of each weight of a base model. No torch."""

from dataclasses import dataclass
from pathlib import Path

from kit.models.adapters.parts import BlockSum, Factors, TokenRows

QUANTISED = ".quant_state.bitsandbytes__nf4"  # beside the weight in a file that was saved in 4 bit
STATES = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4")


@dataclass(frozen=True)
class Update:
    """What LoRA adds to one layer: scale * B A; a and b are their names in the file, shape that of the weight.

    magnitude: with DoRA, the name of the lengths that the rows of the sum get: m (W + scale B A) / |W + scale B A|.
    """

    file: Path
    a: str
    b: str
    scale: float
    shape: tuple[int, int]
    rank: int
    magnitude: str = ""


Change = Update | Factors | BlockSum | TokenRows


@dataclass(frozen=True)
class Weight:
    """One weight of the base and what changes it: each update with the weight it counts with, or one other change.

    four_bit: quantised to NF4 and back first, as the loader of training does; loaded_as: bf16, fp16 or fp32.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    changes: tuple[tuple[Change, float], ...] = ()
    four_bit: bool = False
    saved_in_four_bit: bool = False
    loaded_as: str = "bf16"


@dataclass(frozen=True)
class Combination:
    """How several updates become one: their weighted sum (linear), or TIES or DARE as PEFT computes them.

    density: the share of each update that TIES and DARE keep.
    """

    way: str = "linear"
    density: float = 0.5
    seed: int = 0


LINEAR = Combination()
