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
    folder_for,
    near_on_hub,
    read_json,
    small_files,
)

__all__ = [
    "HUB_TIMEOUT_S",
    "INDEX",
    "KNOWN_ON_HUB",
    "NEEDED",
    "SINGLE",
    "SMALL_FILES",
    "TINY",
    "Model",
    "ModelNotHere",
    "end_ids",
    "find",
    "find_for",
    "find_here",
    "folder_for",
    "near_on_hub",
    "read_json",
    "small_files",
]
