"""What a run or an adapter's folder holds, checked before anything is loaded: whole, of a known kind, of the right
shapes. No torch.

folder (is it an adapter) -> parts (what it changes in each layer) -> checking (does that fit the base).
"""

from kit.models.adapters.checking import broken_adapter, check, check_fit, no_such_layer, read_parts, read_tensors
from kit.models.adapters.on_disk import (
    CONFIG,
    WEIGHTS,
    Adapter,
    content_of,
    find,
)
from kit.models.adapters.parts import BlockSum, Factors, LayerChange, Pair, TokenRows, pairs_in, scale

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Adapter",
    "BlockSum",
    "Factors",
    "LayerChange",
    "Pair",
    "TokenRows",
    "broken_adapter",
    "check",
    "check_fit",
    "content_of",
    "find",
    "no_such_layer",
    "pairs_in",
    "read_parts",
    "read_tensors",
    "scale",
]
