"""A LoRA adapter's folder, checked before anything is loaded: whose it is, whole, of the right shapes. No torch."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit.errors import KitError, problem
from kit.models import Model, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LONGEST_HEADER_BYTES = 100 << 20  # the format's own limit
LORA_TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Adapter:
    """A folder with a LoRA adapter; `base` is the name or folder of the model that it was trained on, "" if unsaid."""

    name: str
    path: Path
    config: dict[str, Any]

    @property
    def base(self) -> str:
        return self.config.get("base_model_name_or_path") or ""


def is_adapter(path: Path) -> bool:
    return (path / CONFIG).is_file()


def read(name: str, path: Path) -> Adapter:
    """Raises KitError: no adapter, weights missing or in a pickle, a kind that the kit does not use."""
    if not is_adapter(path):
        raise KitError(_not_there(path))
    config = read_json(path / CONFIG)
    wrong = _weights_missing(path) or _leaves_folder(path) or _other_kind(path, config)
    if wrong:
        raise KitError(wrong)
    return Adapter(name, path, config)


def check(adapter: Adapter, model: Model) -> None:
    """Each tensor of the adapter against the layer of the model that it changes, by the files' headers alone.

    A model whose weights are not in a local folder, or are stored in 4 bit, is compared when it is loaded instead.
    Raises KitError: tensors that do not belong to this model, or are missing.
    """
    tensors = tensor_shapes(adapter.path / WEIGHTS)
    base = _base_shapes(model)
    wrong = [*_wrong_rank(adapter, tensors), *(_wrong_shapes(tensors, base) if base else ())]
    if wrong:
        raise KitError(_does_not_fit(adapter, model, wrong))
    missing = [*_without_partner(tensors), *(_missing(adapter, tensors, base) if base else ())]
    if missing:
        raise KitError(_incomplete(adapter, missing))


def tensor_shapes(path: Path) -> Shapes:
    """Name -> shape of each tensor in a safetensors file, from its header. Raises KitError: it is none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LONGEST_HEADER_BYTES, path.stat().st_size - 8):
                raise ValueError("it does not begin as a safetensors file does, or is cut short")
            header = json.loads(file.read(length))
        end = max((item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"), default=0)
        if 8 + length + end != path.stat().st_size:
            raise ValueError(f"{path.stat().st_size:,} bytes, and its header tells of {8 + length + end:,}")
        return {name: tuple(item["shape"]) for name, item in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise KitError(
            problem(
                "weights-unreadable",
                f"{path} cannot be read.",
                str(error) or type(error).__name__,
                "copy or download the file again",
            )
        ) from None


def _not_there(path: Path) -> Finding:
    return problem(
        "no-adapter",
        f"{path} holds no adapter.",
        f"An adapter's folder has {CONFIG} and {WEIGHTS}.",
        "python -m kit.train ...               (a finished run has one in its folder adapter/)",
        details={"found": _found(path)},
    )


def _found(path: Path) -> str:
    if not path.exists():
        return "no such folder"
    return ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing" if path.is_dir() else "a file"


def _weights_missing(path: Path) -> Finding | None:
    if (path / WEIGHTS).exists():
        return None
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        return problem(
            "adapter-is-pickle",
            f"The adapter in {path} is a pickle file, which is not read.",
            "A pickle file can run any program when it is opened; safetensors cannot.",
            "save it again with PEFT where it was made: model.save_pretrained(folder, safe_serialization=True)",
            details={"found": ", ".join(pickles[:4])},
        )
    return problem(
        "adapter-incomplete",
        f"{path} lacks {WEIGHTS}.",
        "It was not copied or downloaded to its end, or the training never saved it.",
        "copy or download the folder again",
        details={"found": _found(path)},
    )


def _leaves_folder(path: Path) -> Finding | None:
    """A link is followed within the folder, and within the hub's cache, which is made of links."""
    real, home = (path / WEIGHTS).resolve(), path.resolve()
    of_cache = home.parents[1] / "blobs" if len(home.parents) > 1 and home.parent.name == "snapshots" else home
    if real.is_relative_to(home) or real.is_relative_to(of_cache):
        return None
    return problem(
        "adapter-leaves-its-folder",
        f"{path / WEIGHTS} is a link to a file outside of its folder.",
        "A folder from elsewhere could make the kit read, and ship, a file that is no part of it.",
        f"cp --remove-destination {real} {path / WEIGHTS}        (if it is meant)",
        details={"links to": real},
    )


def _other_kind(path: Path, config: Mapping[str, Any]) -> Finding | None:
    if config.get("peft_type") == "LORA" and not config.get("megatron_config"):
        return None
    return problem(
        "adapter-kind-unknown",
        f"{path} is no plain LoRA adapter.",
        "Other kinds are not tested here, and a Megatron one names a program to be run.",
        "peft.PeftModel.from_pretrained(base, folder)        (what PEFT itself offers)",
        details={"peft_type": config.get("peft_type"), "megatron_config": bool(config.get("megatron_config"))},
    )


def _base_shapes(model: Model) -> Shapes:
    """Of a 16-bit model in a local folder; {} where the headers cannot tell."""
    if not model.is_local or model.config.get("quantization_config"):
        return {}
    files = sorted(Path(model.location).glob("*.safetensors"))
    return {name: shape for file in files for name, shape in tensor_shapes(file).items()}


def _layers(tensors: Shapes) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(layer, A or B, shape) of each LoRA matrix."""
    for name, shape in tensors.items():
        if match := LORA_TENSOR.fullmatch(name):
            yield match["layer"], match["side"], shape


def _wrong_rank(adapter: Adapter, tensors: Shapes) -> list[str]:
    rank = adapter.config.get("r")
    if adapter.config.get("rank_pattern"):
        return []
    return [
        f"{layer}: rank {shape[0 if side == 'A' else 1]}, and {CONFIG} says {rank}"
        for layer, side, shape in _layers(tensors)
        if len(shape) == 2 and shape[0 if side == "A" else 1] != rank
    ]


def _wrong_shapes(tensors: Shapes, base: Shapes) -> list[str]:
    found = []
    for layer, side, shape in _layers(tensors):
        there = base.get(f"{layer}.weight")
        if there is None:
            found.append(f"{layer}: the model has no such layer")
        elif len(there) == len(shape) == 2 and shape[side == "A"] != there[side == "A"]:  # A: (r, in); B: (out, r)
            way = "in" if side == "A" else "out"
            found.append(f"{layer}: {shape[side == 'A']} {way}, and the model's layer has {there[side == 'A']}")
    return list(dict.fromkeys(found))


def _without_partner(tensors: Shapes) -> list[str]:
    sides: dict[str, set[str]] = {}
    for layer, side, _ in _layers(tensors):
        sides.setdefault(layer, set()).add(side)
    alone = [f"{layer}: lora_{'AB'[side == {'A'}]}" for layer, side in sides.items() if len(side) == 1]
    return alone if sides else ["every LoRA matrix"]


def _missing(adapter: Adapter, tensors: Shapes, base: Shapes) -> list[str]:
    """Layers that the config names and the weights lack: PEFT leaves those untuned, with a warning at most."""
    targets = adapter.config.get("target_modules")
    limited = ("layers_to_transform", "layers_pattern", "exclude_modules")
    if not isinstance(targets, list) or any(adapter.config.get(name) for name in limited):
        return []
    there = {layer for layer, _, _ in _layers(tensors)}
    wanted = (name.removesuffix(".weight") for name, shape in base.items() if len(shape) == 2)
    return [name for name in wanted if name.rsplit(".", 1)[-1] in targets and name not in there]


def _does_not_fit(adapter: Adapter, model: Model, wrong: list[str]) -> Finding:
    return problem(
        "adapter-does-not-fit",
        f"The adapter {adapter.path} does not fit {model.name}.",
        "It was trained on another model, or its files are of two different trainings.",
        f"--base {adapter.base}" if adapter.base and adapter.base != model.name else "--base OWNER/NAME",
        details={
            "trained on": adapter.base or "unsaid",
            "wrong": f"{len(wrong)} of its matrices",
            "first": wrong[0],
        },
    )


def _incomplete(adapter: Adapter, missing: list[str]) -> Finding:
    return problem(
        "adapter-incomplete",
        f"The adapter {adapter.path} lacks matrices of {len(missing)} layers.",
        "These layers would answer as the untuned model does, without a word.",
        "copy or download the folder again",
        details={"first": missing[0]},
    )
