"""A LoRA adapter: which one a name means, checked before anything is loaded: whole, of the right shapes. No torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit import tensors
from kit.errors import KitError, problem
from kit.models import Model, read_json
from kit.tensors import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RUN, IN_RUN = "run.toml", "adapter"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# As PEFT saves them; what has another name it leaves out, with a warning at most.
LORA_TENSOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Adapter:
    """A folder with a LoRA adapter; `run_folder` is that of the kit's run that made it, where it lies in one."""

    name: str
    path: Path
    config: dict[str, Any]
    run_folder: Path | None

    @property
    def base(self) -> str:
        """The name or folder of the model that it was trained on, "" if unsaid."""
        return self.config.get("base_model_name_or_path") or ""


@dataclass(frozen=True)
class Pair:
    """The two matrices of one layer's update B A: a is (rank, in), b is (out, rank)."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]


def run_folder(path: Path) -> Path | None:
    """The run that a path means: the run's own folder, or that of its adapter."""
    if (path / RUN).is_file():
        return path
    return path.parent if path.name == IN_RUN and (path.parent / RUN).is_file() else None


def find(name: str | Path, called: str = "") -> Adapter:
    """The adapter of a run folder, or in a folder of its own; `called`: its name, by default the folder's.

    Raises KitError: no adapter, weights missing or in a pickle, a link out of the folder, a kind that the kit does not
    use.
    """
    given = Path(name).expanduser()
    run = run_folder(given)
    path = run / IN_RUN if run else given
    if not (path / CONFIG).is_file():
        raise KitError(_without_adapter(run) if run else _no_adapter(given))
    wrong = _weights_missing(path) or _leaves_folder(path)
    if wrong:
        raise KitError(wrong)
    config = read_json(path / CONFIG)
    if config.get("peft_type") != "LORA" or config.get("megatron_config"):
        raise KitError(_other_kind(path, config))
    return Adapter(called or (run or path).resolve().name, path, config, run)


def check(adapter: Adapter, model: Model) -> None:
    """Each matrix of the adapter against the layer of the model that it changes, by the files' headers alone.

    A model whose weights are not in a local folder, or are stored in 4 bit, is compared when it is loaded instead.
    Raises KitError: matrices that do not belong to this model or to each other, or are missing.
    """
    pairs, _ = read_pairs(adapter)
    if base := _base_shapes(model):
        check_fit(adapter, pairs, model.name, base)


def check_fit(adapter: Adapter, pairs: Mapping[str, Pair], model: str, base: Shapes, option: str = "--base") -> None:
    """The same against the shapes of the model's weights; `option` of the command names another model.

    Raises KitError: matrices that do not belong to this model, or are missing.
    """
    wrong = _wrong_shapes(pairs, base)
    if wrong:
        raise KitError(_does_not_fit(adapter, model, wrong, option))
    missing = _missing(adapter, pairs, base)
    if missing:
        raise KitError(_incomplete(adapter, missing))


def stored(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises KitError: it is none, or not whole."""
    try:
        return tensors.headers(path)
    except tensors.Unreadable as error:
        raise KitError(
            problem("weights-unreadable", f"{path} cannot be read.", f"{error}.", "copy or download the file again")
        ) from None


def pairs_in(found: Mapping[str, Tensor]) -> tuple[dict[str, Pair], list[str]]:
    """The updates by the layer's name in the base model, and the names of all other tensors."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in found.items():
        if match := LORA_TENSOR.fullmatch(name):
            sides.setdefault(match["layer"], {})[match["side"]] = tensor
    pairs = {layer: Pair(both["A"], both["B"]) for layer, both in sides.items() if len(both) == 2}
    used = {tensor.name for pair in pairs.values() for tensor in (pair.a, pair.b)}
    return pairs, [name for name in found if name not in used]


def read_pairs(adapter: Adapter) -> tuple[dict[str, Pair], list[str]]:
    """The updates in the adapter's file, and the names of what is none; nothing is known of its base here.

    Raises KitError: weights that cannot be read, other ranks than the config says, half of an update, none at all.
    """
    pairs, others = pairs_in(stored(adapter.path / WEIGHTS))
    wrong = _wrong_rank(adapter, pairs)
    if wrong:
        raise KitError(broken(adapter.path, wrong[0]))
    alone = [match for name in others if (match := LORA_TENSOR.fullmatch(name))]
    missing = [f"{match['layer']}: lora_{'AB'[match['side'] == 'A']}" for match in alone]
    if missing or not pairs:
        raise KitError(_incomplete(adapter, missing or ["every LoRA matrix"]))
    return pairs, others


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


def broken(path: Path, why: str) -> Finding:
    return problem(
        "adapter-broken",
        f"The adapter in {path} does not fit together.",
        f"{why[0].upper()}{why[1:]}.",
        "train it again, or copy the whole folder again",
    )


def _without_adapter(run: Path) -> Finding:
    return problem(
        "run-without-adapter",
        f"The run {run} has no adapter yet.",
        "It is not finished: the adapter is saved at its end, and checkpoints hold it until then.",
        f"python -m kit.train --config {run / RUN} --output {run}        (goes on where it stopped)",
    )


def _no_adapter(path: Path) -> Finding:
    if (path / "config.json").is_file():
        return problem(
            "not-an-adapter",
            f"{path} is a whole model, not an adapter.",
            "An adapter is only the change to a model.",
            f"give a run folder, or a folder with {CONFIG}",
        )
    run = next((parent for parent in path.absolute().parents[:2] if (parent / RUN).is_file()), None)
    return problem(
        "no-adapter",
        f"{path} is no run and no adapter.",
        f"A run folder holds {RUN}, an adapter's folder {CONFIG}, a model's folder config.json.",
        *([f"give {run}        (the run that it is a part of)"] if run and path.exists() else []),
        "give runs/NAME          (a folder that kit.train made), or an adapter's folder",
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


def _other_kind(path: Path, config: Mapping[str, Any]) -> Finding:
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
    return {name: tensor.shape for file in files for name, tensor in stored(file).items()}


def _wrong_rank(adapter: Adapter, pairs: Mapping[str, Pair]) -> list[str]:
    found = []
    for layer, pair in pairs.items():
        try:
            rank = _of_layer(adapter.config, "rank_pattern", layer, adapter.config.get("r"))
        except ValueError as error:
            return [str(error)]
        shapes = pair.a.shape, pair.b.shape
        is_whole = type(rank) is int and rank > 0 and min(map(len, shapes)) > 1
        if not is_whole or not shapes[0][0] == rank == shapes[1][1]:
            found.append(f"{layer}: A is {_by(shapes[0])} and B {_by(shapes[1])}, and {CONFIG} says rank {rank!r}")
    return found


def _wrong_shapes(pairs: Mapping[str, Pair], base: Shapes) -> list[str]:
    found = []
    for layer, pair in pairs.items():
        there, sides = base.get(f"{layer}.weight"), {len(pair.a.shape), len(pair.b.shape)}
        if there is None:
            found.append(f"{layer}: the model has no such layer")
        elif sides != {len(there)}:
            found.append(f"{layer}: A is {_by(pair.a.shape)}, and the model's weight {_by(there)}")
        elif sides == {2} and (added := (pair.b.shape[0], pair.a.shape[1])) != there:
            found.append(f"{layer}: {_by(added)} in the adapter, {_by(there)} in the model")
    return found


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _missing(adapter: Adapter, pairs: Mapping[str, Pair], base: Shapes) -> list[str]:
    """Layers that the config names and the weights lack: PEFT leaves those untuned, with a warning at most."""
    targets = adapter.config.get("target_modules")
    limited = ("layers_to_transform", "layers_pattern", "exclude_modules")
    if not isinstance(targets, list) or any(adapter.config.get(name) for name in limited):
        return []
    wanted = (name.removesuffix(".weight") for name, shape in base.items() if len(shape) == 2)
    return [name for name in wanted if name.rsplit(".", 1)[-1] in targets and name not in pairs]


def _does_not_fit(adapter: Adapter, model: str, wrong: list[str], option: str) -> Finding:
    return problem(
        "adapter-does-not-fit",
        f"The adapter {adapter.path} does not fit {model}.",
        "It was trained on another model, or its files are of two different trainings.",
        f"{option} {adapter.base}" if adapter.base and adapter.base != model else f"{option} OWNER/NAME",
        details={
            "trained on": adapter.base or "unsaid",
            "wrong": f"{len(wrong)} of its layers",
            "first": "; ".join(wrong[:3]),
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
