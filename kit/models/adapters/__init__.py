"""What a run or an adapter's folder holds, checked before anything is loaded: whole, of a known kind, of the right
shapes. No torch.

folder (which one a name means) -> parts (what it changes in each layer) -> checking (does that fit the base).
"""

from kit.models.adapters.checking import broken, check, check_fit, no_such_layer, read_parts, stored
from kit.models.adapters.folder import (
    ADAPTER,
    CONFIG,
    MODEL,
    RUN,
    WEIGHTS,
    Adapter,
    find,
    run_folder,
    run_method,
    whole_model,
)
from kit.models.adapters.parts import BlockSum, Factors, LayerChange, Pair, pairs_in, scale

__all__ = [
    "ADAPTER",
    "CONFIG",
    "MODEL",
    "RUN",
    "WEIGHTS",
    "Adapter",
    "BlockSum",
    "Factors",
    "LayerChange",
    "Pair",
    "broken",
    "check",
    "check_fit",
    "find",
    "no_such_layer",
    "pairs_in",
    "read_parts",
    "run_folder",
    "run_method",
    "scale",
    "stored",
    "whole_model",
]
