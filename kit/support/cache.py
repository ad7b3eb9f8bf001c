"""Where the kit keeps what it can make again."""

import os
import sys
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """$KIT_CACHE, or the user's cache folder; in it the folder of that kind: data, models or unsloth."""
    if given := os.environ.get("KIT_CACHE"):
        return Path(given) / kind
    base = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "finetune-kit" / kind
