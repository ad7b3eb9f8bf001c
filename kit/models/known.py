"""Names of models that exist, for advice: tutorials invent others (Qwen3-1.7B-Instruct gives 401)."""

import re

from kit.support.errors import did_you_mean

KNOWN_ON_HUB = (
    *(f"Qwen/Qwen3-{size}" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B", "30B-A3B")),
    *(f"Qwen/Qwen3-{size}-Base" for size in ("0.6B", "1.7B", "4B", "8B", "14B")),
    "Qwen/Qwen3-4B-Instruct-2507",
    "Qwen/Qwen3-4B-Thinking-2507",
    "Qwen/Qwen3-30B-A3B-Instruct-2507",
)
WITHOUT_NF4 = {"Qwen/Qwen3-30B-A3B-Instruct-2507"}


def near_on_hub(name: str) -> str:
    """'Did you mean X?' for a hub name, "" where none is near. What answers has no suffix at Qwen3: one that was added
    goes off first, so that the size stays."""
    plain = re.sub(r"(-\d+(?:\.\d+)?B)-\w+$", r"\1", name)
    return did_you_mean(plain if plain in KNOWN_ON_HUB else name, KNOWN_ON_HUB)


def known_by_last_part(name: str) -> str:
    """The known model that a name or a folder is called after, whoever owns it; "" where there is none."""
    last = re.split(r"[\\/]", name.rstrip("\\/"))[-1].lower()
    return next((known for known in KNOWN_ON_HUB if known.split("/")[1].lower() == last), "")


def nf4_of(known: str) -> str:
    """The known model as Unsloth publishes it in NF4, with some layers in 16 bit; "" where it does not."""
    return "" if known in WITHOUT_NF4 else f"unsloth/{known.split('/')[1]}-unsloth-bnb-4bit"
