"""Whether an adapter is whole and fits its base, by the headers of their files alone."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit.models import Model, headers
from kit.models.adapters.on_disk import CONFIG, WEIGHTS, Adapter
from kit.models.adapters.parts import (
    LORA_TENSOR,
    PROMPT_TENSOR,
    LayerChange,
    Pair,
    TokenRows,
    dimensions,
    parts_in,
    token_ids,
)
from kit.models.families import head_dim, key_value_heads
from kit.models.headers import Tensor
from kit.support.errors import KitError, did_you_mean, problem

Shapes = Mapping[str, tuple[int, ...]]


def check(adapter: Adapter, model: Model) -> None:
    """What the adapter holds against what of the model it changes.

    A model whose weights are not in a local folder, or are stored in 4 bit, is compared when it is loaded instead.
    Raises KitError: tensors that do not belong to this model or to each other, or are missing.
    """
    if adapter.method.learns_virtual_tokens:
        _check_virtual_tokens(adapter, model)
        return
    parts, _ = read_parts(adapter)
    if base := _base_shapes(model):
        check_fit(adapter, parts, model.name, base)


def check_fit(adapter: Adapter, parts: Mapping[str, LayerChange], model: str, base: Shapes) -> None:
    """The same against the shapes of the model's weights.

    Raises KitError: tensors that do not belong to this model, or are missing.
    """
    wrong = [
        f"{layer}: {text}" for layer, part in parts.items() if (text := _mismatch(part, base.get(f"{layer}.weight")))
    ]
    if wrong:
        raise KitError(_does_not_fit(adapter, model, wrong))
    missing = _missing(adapter, parts, base)
    if missing:
        raise KitError(_incomplete(adapter, missing))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises KitError: it is none, or not whole."""
    try:
        return headers.headers(path)
    except headers.Unreadable as error:
        raise KitError(
            problem("weights-unreadable", f"{path} cannot be read.", f"{error}.", "copy or download the file again")
        ) from None


def read_parts(adapter: Adapter) -> tuple[dict[str, LayerChange], list[str]]:
    """What the adapter's file holds for each layer, and the names of what is of none; nothing is known of its base
    here.

    Raises KitError: weights that cannot be read, that do not agree with the config, half of an update, none at all.
    """
    parts, others = parts_in(adapter.kind, read_tensors(adapter.path / WEIGHTS), adapter.config)
    wrong = next((text for layer, part in parts.items() if (text := part.contradiction(adapter.config, layer))), "")
    if wrong:
        raise KitError(broken_adapter(adapter.path, wrong))
    missing = _halves(others) if adapter.kind == "LORA" else []
    pairs = {layer: part for layer, part in parts.items() if isinstance(part, Pair)}
    if adapter.method.has_lengths:
        missing += [f"{layer}: lora_magnitude_vector" for layer, pair in pairs.items() if not pair.magnitude]
    else:  # lengths that PEFT would not read
        others += [pair.magnitude.name for pair in pairs.values() if pair.magnitude]
        parts |= {layer: replace(pair, magnitude=None) for layer, pair in pairs.items()}
    if token_ids(adapter.config) and not any(isinstance(part, TokenRows) for part in parts.values()):
        missing.append("the rows of its trained tokens")
    if missing or not parts:
        raise KitError(_incomplete(adapter, missing or ["every matrix"]))
    return parts, others


def _halves(others: list[str]) -> list[str]:
    """What is missing beside one matrix of an update."""
    alone = [match for name in others if (match := LORA_TENSOR.fullmatch(name))]
    return [f"{match['layer']}: lora_{'B' if match['side'] == 'A' else 'A'}" for match in alone]


def broken_adapter(path: Path, why: str) -> Finding:
    return problem(
        "adapter-broken",
        f"The adapter in {path} does not fit together.",
        f"{why[0].upper()}{why[1:]}.",
        "train it again, or copy the whole folder again",
    )


def _check_virtual_tokens(adapter: Adapter, model: Model) -> None:
    """One tensor: for each virtual token an embedding, or keys and values for every layer."""
    stored, count = read_tensors(adapter.path / WEIGHTS).get(PROMPT_TENSOR), adapter.config.get("num_virtual_tokens")
    if stored is None:
        raise KitError(_incomplete(adapter, [PROMPT_TENSOR]))
    if type(count) is not int or len(stored.shape) != 2 or stored.shape[0] != count:
        why = f"{PROMPT_TENSOR} is {dimensions(stored.shape)}, and {CONFIG} says {count!r} virtual tokens"
        raise KitError(broken_adapter(adapter.path, why))
    wide = width(adapter.kind, model.config)
    if wide is not None and stored.shape[1] != wide:
        text = f"{stored.shape[1]:,} numbers for each virtual token in the adapter, {wide:,} in the model"
        raise KitError(_does_not_fit(adapter, model.name, [text]))


def width(kind: str, config: Mapping[str, Any]) -> int | None:
    """Numbers for each virtual token over a model of that config; None where the config does not say."""
    try:
        if kind == "PROMPT_TUNING":
            return int(config["hidden_size"])
        return 2 * int(config["num_hidden_layers"]) * head_dim(config) * key_value_heads(config)
    except KeyError:
        return None


def _base_shapes(model: Model) -> Shapes:
    """Of a 16-bit model in a local folder; {} where the headers cannot tell."""
    if not model.is_local or model.config.get("quantization_config"):
        return {}
    files = sorted(Path(model.location).glob("*.safetensors"))
    return {name: tensor.shape for file in files for name, tensor in read_tensors(file).items()}


def _mismatch(part: LayerChange, weight_shape: tuple[int, ...] | None) -> str:
    return "the model has no such layer" if weight_shape is None else part.mismatch(weight_shape)


def _missing(adapter: Adapter, parts: Mapping[str, LayerChange], base: Shapes) -> list[str]:
    """Layers that the config names and the weights lack: PEFT leaves those untuned, with a warning at most."""
    targets = adapter.config.get("target_modules")
    limited = ("layers_to_transform", "layers_pattern", "exclude_modules")
    if not isinstance(targets, list) or any(adapter.config.get(name) for name in limited):
        return []
    wanted = (name.removesuffix(".weight") for name, shape in base.items() if len(shape) == 2)
    return [name for name in wanted if name.rsplit(".", 1)[-1] in targets and name not in parts]


def _does_not_fit(adapter: Adapter, model: str, wrong: list[str]) -> Finding:
    return problem(
        "adapter-does-not-fit",
        f"The adapter {adapter.path} does not fit {model}.",
        "It was trained on another model, or its files are of two different trainings.",
        f"--base {adapter.base}" if adapter.base and adapter.base != model else "--base OWNER/NAME",
        details={
            "trained on": adapter.base or "unsaid",
            "wrong": f"{len(wrong)} of its {'tensors' if adapter.method.learns_virtual_tokens else 'layers'}",
            "first": "; ".join(wrong[:3]),
        },
    )


def _incomplete(adapter: Adapter, missing: list[str]) -> Finding:
    return problem(
        "adapter-incomplete",
        f"The adapter {adapter.path} lacks {len(missing)} of its tensors.",
        "What they change would answer as the untuned model does, without a word.",
        "copy or download the folder again",
        details={"first": missing[0]},
    )


def no_such_layer(name: str, present: Iterable[str], fix: str) -> Finding:
    """A target module that is none of the model's linear layers."""
    return problem(
        "lora-target-missing",
        f"The model has no linear layer {name}. {did_you_mean(name, present)}".rstrip(),
        "An adapter on nothing would train nothing.",
        fix,
    )
