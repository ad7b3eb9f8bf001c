"""What can be loaded, base or tuned, known by its files alone. No torch.

May import: support, options.
"""

from kit.models.find import (
    HUB_TIMEOUT_S,
    INDEX,
    KNOWN_ON_HUB,
    NEEDED,
    SINGLE,
    SMALL_FILES,
    TINY,
    Model,
    ModelNotHere,
    end_ids,
    find,
    find_for,
    find_here,
    find_to_plan,
    folder_for,
    is_here,
    near_on_hub,
    read_json,
    small_files,
)
from kit.models.packaged import PACKAGED
from kit.models.shipped import ShippedShape, shipped_shapes

__all__ = [
    "HUB_TIMEOUT_S",
    "INDEX",
    "KNOWN_ON_HUB",
    "NEEDED",
    "PACKAGED",
    "SINGLE",
    "SMALL_FILES",
    "TINY",
    "Model",
    "ModelNotHere",
    "ShippedShape",
    "end_ids",
    "find",
    "find_for",
    "find_here",
    "find_to_plan",
    "folder_for",
    "is_here",
    "near_on_hub",
    "read_json",
    "shipped_shapes",
    "small_files",
]
