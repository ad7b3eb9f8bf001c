"""What an adapter holds for each layer of its base, by the names under which PEFT saves it.

What has another name PEFT leaves out, with a warning at most.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kit.models.adapters.on_disk import CONFIG
from kit.models.headers import Tensor

LORA_TENSOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>A|B|magnitude_vector)(?P<weight>\.weight)?")
ROWS_TENSOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.token_adapter\.trainable_tokens_delta")
PROMPT_TENSOR = "prompt_embeddings"


class LayerChange(Protocol):
    """What is held for one layer."""

    def contradiction(self, config: Mapping[str, Any], layer: str) -> str:
        """What does not agree with the adapter's own config, in words; "" where all does."""

    def mismatch(self, weight_shape: tuple[int, ...]) -> str:
        """Why it does not fit a weight of that shape (out, in), in words; "" where it does."""

    @property
    def tensors(self) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Pair:
    """The two matrices of one layer's update B A: a is (rank, in), b is (out, rank).

    magnitude: with DoRA, the length of each row of the tuned weight (out).
    """

    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.a, self.b, *([self.magnitude] if self.magnitude else []))

    def contradiction(self, config: Mapping[str, Any], layer: str) -> str:
        try:
            rank = _of_layer(config, "rank_pattern", layer, config.get("r"))
        except ValueError as error:
            return str(error)
        shapes = self.a.shape, self.b.shape
        is_whole = type(rank) is int and rank > 0 and min(map(len, shapes)) > 1
        if not is_whole or not shapes[0][0] == rank == shapes[1][1]:
            sides = f"A is {dimensions(shapes[0])} and B {dimensions(shapes[1])}"
            return f"{layer}: {sides}, and {CONFIG} says rank {rank!r}"
        if self.magnitude and self.magnitude.shape != shapes[1][:1]:
            return f"{layer}: {dimensions(self.magnitude.shape)} lengths (DoRA) for {shapes[1][0]} rows"
        return ""

    def mismatch(self, weight_shape: tuple[int, ...]) -> str:
        sides = {len(self.a.shape), len(self.b.shape)}
        if sides != {len(weight_shape)}:
            return f"A is {dimensions(self.a.shape)}, and the model's weight {dimensions(weight_shape)}"
        added = (self.b.shape[0], self.a.shape[1])
        if sides != {2} or added == weight_shape:
            return ""
        return f"{dimensions(added)} in the adapter, {dimensions(weight_shape)} in the model"


@dataclass(frozen=True)
class Factors:
    """IA3: a factor for each number that comes out of a layer (out, 1), or goes into it (1, in)."""

    vector: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.vector,)

    @property
    def is_inward(self) -> bool:
        return self.vector.shape[0] == 1

    def contradiction(self, config: Mapping[str, Any], layer: str) -> str:
        shape, named = self.vector.shape, config.get("feedforward_modules") or []
        try:  # a pattern, or ends of names, as PEFT matches them
            inward = bool(re.fullmatch(named, layer)) if isinstance(named, str) else layer.endswith(tuple(named))
        except (re.error, TypeError):
            return f"{CONFIG} holds no names of layers in feedforward_modules"
        if len(shape) != 2 or shape[0 if inward else 1] != 1:
            way = "goes in" if inward else "comes out"
            return f"{layer}: {dimensions(shape)} factors, and {CONFIG} says that they are of what {way}"
        return ""

    def mismatch(self, weight_shape: tuple[int, ...]) -> str:
        wanted = (1, weight_shape[1]) if self.is_inward and len(weight_shape) == 2 else (weight_shape[0], 1)
        if len(weight_shape) == 2 and self.vector.shape == wanted:
            return ""
        return f"{dimensions(self.vector.shape)} factors in the adapter, {dimensions(weight_shape)} in the model"


@dataclass(frozen=True)
class BlockSum:
    """MiSS: (r, out) numbers; row number k is added to every column of the weight whose number leaves k by r."""

    block: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.block,)

    def contradiction(self, config: Mapping[str, Any], layer: str) -> str:
        shape, rank = self.block.shape, config.get("r")
        if config.get("init_weights") in ("bat", "mini"):  # other arithmetic, other shapes
            return ""
        if type(rank) is not int or len(shape) != 2 or shape[0] != rank:
            return f"{layer}: the block is {dimensions(shape)}, and {CONFIG} says r {rank!r}"
        return ""

    def mismatch(self, weight_shape: tuple[int, ...]) -> str:
        if len(weight_shape) == 2 and (len(self.block.shape) != 2 or self.block.shape[1] == weight_shape[0]):
            return ""
        return f"a block of {dimensions(self.block.shape)} in the adapter, {dimensions(weight_shape)} in the model"


@dataclass(frozen=True)
class TokenRows:
    """Rows of an embedding or head, which stand there instead of the base's: (tokens, hidden). tokens: their ids."""

    rows: Tensor
    tokens: tuple[int, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.rows,)

    def contradiction(self, config: Mapping[str, Any], layer: str) -> str:
        shape = self.rows.shape
        if len(shape) == 2 and shape[0] == len(self.tokens) == len(set(self.tokens)):
            return ""
        return f"{layer}: {dimensions(shape)} for tokens, and {CONFIG} names {len(self.tokens)} of them"

    def mismatch(self, weight_shape: tuple[int, ...]) -> str:
        if len(weight_shape) == 2 and self.rows.shape[1] == weight_shape[1] and max(self.tokens) < weight_shape[0]:
            return ""
        return f"{dimensions(self.rows.shape)} for tokens in the adapter, {dimensions(weight_shape)} in the model"


def token_ids(config: Mapping[str, Any], layer: str = "") -> tuple[int, ...]:
    """Ids of the tokens whose rows an adapter of that config holds, in their order there: of that layer, or of any."""
    named = config.get("trainable_token_indices") or ()
    of_layers = named if isinstance(named, Mapping) else {"": named}
    ids = next((ids for name, ids in of_layers.items() if not layer or layer.endswith(name)), ())
    return tuple(ids) if isinstance(ids, list) and all(type(id) is int and id >= 0 for id in ids) else ()


# Kinds that hold one tensor for each layer, by its name.
ONE_TENSOR: Mapping[str, tuple[Callable[[Tensor], LayerChange], re.Pattern[str]]] = {
    "IA3": (Factors, re.compile(r"base_model\.model\.(?P<layer>.+)\.ia3_l")),
    "MISS": (BlockSum, re.compile(r"base_model\.model\.(?P<layer>.+)\.miss_block")),
}


def parts_in(
    kind: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, LayerChange], list[str]]:
    """What is held for each layer, by the layer's name in the base model, and the names of all other tensors."""
    if kind == "LORA":
        pairs, others = pairs_in(tensors)
        found = {match["layer"]: tensors[name] for name in others if (match := ROWS_TENSOR.fullmatch(name))}
        rows = {layer: TokenRows(tensor, token_ids(config, layer)) for layer, tensor in found.items()}
        return {**pairs, **rows}, [name for name in others if not ROWS_TENSOR.fullmatch(name)]
    make, pattern = ONE_TENSOR[kind]
    matches = {name: pattern.fullmatch(name) for name in tensors}
    parts = {match["layer"]: make(tensors[name]) for name, match in matches.items() if match}
    return parts, [name for name, match in matches.items() if not match]


def pairs_in(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Pair], list[str]]:
    """The same of a LoRA adapter."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = LORA_TENSOR.fullmatch(name)
        if match and bool(match["weight"]) == (match["side"] in "AB"):
            sides.setdefault(match["layer"], {})[match["side"]] = tensor
    pairs = {
        layer: Pair(held["A"], held["B"], held.get("magnitude_vector"))
        for layer, held in sides.items()
        if held.keys() >= {"A", "B"}
    }
    used = {tensor.name for pair in pairs.values() for tensor in pair.tensors}
    return pairs, [name for name in tensors if name not in used]


def scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """What B A is multiplied with: alpha / r, or alpha / sqrt(r) with rsLoRA. Raises ValueError: alpha is no number."""
    alpha = _of_layer(config, "alpha_pattern", layer, config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise ValueError(f"{CONFIG} says {alpha!r} for lora_alpha of {layer}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_layer(config: Mapping[str, Any], name: str, layer: str, default: Any) -> Any:
    """The value of the first pattern that names the layer's end, as PEFT matches them.

    Raises ValueError: no patterns.
    """
    patterns = config.get(name) or {}
    try:
        return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", layer)), default)
    except (AttributeError, re.error):
        raise ValueError(f"{CONFIG} holds no patterns of layers in {name}") from None


def dimensions(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
