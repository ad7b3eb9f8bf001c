"""What config.json says of weights that are not stored in 16 bit: NF4 is loaded, every other way is refused. No torch.

Its `quantization_config` is what transformers goes by when it loads: it decides which layers are in 4 bit, so the plan
needs no headers of the weights.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit.models.known import known_by_last_part, nf4_of
from kit.options import HEAD
from kit.support.errors import failure, problem
from kit.support.user_shell import quoted

KEYS = ("quantization_config", "compression_config", "quantization")  # the second by compressed-tensors, then MLX
BITSANDBYTES = "bitsandbytes"
HUB_NAME = re.compile(r"(?!\.)[\w.-]+/[\w.-]+")
# What publishers add to the name of the model that they quantised: Qwen3-8B-AWQ, -GPTQ-Int4, -unsloth-bnb-4bit.
_ENDING = re.compile(
    r"(?:[-_.](?:unsloth|bnb|[348]bit|int[48]|w\d+a\d+|gptq|awq|fp8|fp4|nf4|nvfp4|mxfp4|dynamic|block|quantized|mlx"
    r"|dwq|hqq|aqlm|exl[23]))+$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class StoredNF4:
    """Linear layers that lie in the model's files in NF4, as bitsandbytes writes them.

    skipped: the names of those that stay in 16 bit, or of what they are parts of. is_double: the scales are quantised
    too.
    """

    skipped: tuple[str, ...]
    is_double: bool

    def keeps(self, layer: str) -> bool:
        """Whether the linear layer of that name stays in 16 bit, by the rule of transformers
        (quantizers_utils.should_convert_module): a pattern at its start, or its end as it is."""
        return any(layer.endswith(name) or re.match(name, layer) for name in self.skipped)


def stored_nf4(config: Mapping[str, Any]) -> StoredNF4 | None:
    """None for a model that is not stored in NF4: in 16 bit, or as `refusal` says."""
    stored = _settings(config)
    if stored is None or _kind(stored) != "NF4":
        return None
    return StoredNF4(tuple(_skipped(stored)), bool(stored.get("bnb_4bit_use_double_quant")))


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = next((config[key] for key in KEYS if config.get(key)), None)
    return found if isinstance(found, Mapping) or found is None else {}


def _kind(stored: Mapping[str, Any]) -> str:
    """NF4, or in words another way."""
    in_bits = [bits for bits in (4, 8) if stored.get(f"load_in_{bits}bit")]
    method = stored.get("quant_method") or (BITSANDBYTES if in_bits else "MLX" if "group_size" in stored else "unnamed")
    if method != BITSANDBYTES:
        return str(method).upper()
    if in_bits != [4]:
        return f"{BITSANDBYTES} 8 bit"
    if not all(map(_is_pattern, _skipped(stored))):
        return f"{BITSANDBYTES} 4 bit with a list of layers that cannot be read"
    return str(stored.get("bnb_4bit_quant_type", "fp4")).upper()  # where none is said, bitsandbytes takes FP4


def _skipped(stored: Mapping[str, Any]) -> list[Any]:
    """The layers that stay in 16 bit; where nothing is said, transformers leaves the head alone."""
    skipped = stored.get("llm_int8_skip_modules")
    return [HEAD] if skipped is None else skipped if isinstance(skipped, list) else [skipped]


def _is_pattern(name: Any) -> bool:
    """A layer's name, with a few stars at most: transformers matches any pattern, also one that takes for ever."""
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+(?:\*[\w.-]*){0,3}", name) is not None


def refusal(name: str, config: Mapping[str, Any], option: str) -> Finding | None:
    """Of a model whose weights are stored in a way that the kit does not load; None for 16 bit and NF4.

    option: with which the command at hand names a model.
    """
    stored = _settings(config)
    if stored is None or _kind(stored) == "NF4":
        return None
    original = original_of(name, config)
    known = known_by_last_part(original)
    whole = f"{option} {quoted(original) if original else 'OWNER/NAME'}"
    nf4 = nf4_of(known) if known else ""
    return problem(
        "model-quantised-otherwise",
        f"The weights of {name} are stored as {_kind(stored)}, which the kit does not load.",
        "It loads weights in 16 bit, which become NF4 on the way, and those that bitsandbytes has stored as NF4.",
        f"{whole}        (in 16 bit{'' if known else ': the model that it was made from, as its page says'})",
        *([f"{option} {nf4}        (in NF4)"] if nf4 else []),
    )


def original_of(name: str, config: Mapping[str, Any] | None = None) -> str:
    """The 16-bit model that a quantised one was made from: as its config.json names it, else by its own name without
    the ending that says how it was quantised; "" where neither tells."""
    named = str((config or {}).get("_name_or_path") or "")
    is_model = HUB_NAME.fullmatch(named) or Path(named).is_dir()  # and no path on its maker's machine
    if named and is_model and named != name and not _ENDING.search(named):
        return named
    plain = _ENDING.sub("", name.rstrip("\\/"))
    if plain == name.rstrip("\\/"):
        return ""
    if Path(plain).expanduser().is_dir():
        return plain
    on_hub = plain if not Path(name).expanduser().is_dir() and HUB_NAME.fullmatch(plain) else ""
    return on_hub if on_hub.startswith("unsloth/") else known_by_last_part(plain) or on_hub


def says_nf4(name: str) -> bool:
    """Whether a model's name says that it is in 4 bit, as bitsandbytes stores it."""
    return re.search(r"[-_]bnb[-_]4bit$", name, re.IGNORECASE) is not None


def check_asked(name: str, config: Mapping[str, Any], load_in_4bit: bool, option: str, *in_4bit: str) -> None:
    """Raises KitError: it is to be loaded in 16 bit, and lies there in 4 bit. option: as in `refusal`. in_4bit: what to
    type for the weights as they are."""
    if load_in_4bit or stored_nf4(config) is None:
        return
    original = original_of(name, config)
    raise failure(
        "model-stored-in-4-bit",
        f"{name} is to be loaded in 16 bit, and its weights are stored in 4 bit (NF4).",
        "What was rounded away is not in its files: another model has the 16-bit weights.",
        f"{option} {quoted(original) if original else 'OWNER/NAME'}        (the 16-bit model that it was made from)",
        *in_4bit,
    )
