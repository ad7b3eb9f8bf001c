"""A run or adapter folder -> the updates it holds, checked: nothing in it is left out of a merge. No torch."""

import json
import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit.backend.merging import Update
from kit.errors import KitError, problem
from kit.export import tensors
from kit.models import read_json
from kit.options import Run

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FACTOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others change the base before training
# What a merge of B A alone would lose; the value that means "not used".
NOT_OFFERED = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "fan_in_fan_out": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "init_lora_weights": PLAIN_STARTS,
}


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter. `run`, `run_folder`: of the kit's run that made it, where it lies in a run folder.

    updates: what it adds, for each layer's name in the base model.
    """

    path: Path
    config: dict[str, Any]
    updates: dict[str, Update]
    run: Run | None
    run_folder: Path | None

    @property
    def name(self) -> str:
        return (self.run_folder or self.path).name

    @property
    def base(self) -> str:
        """The name or folder of the model it was trained on."""
        return self.config.get("base_model_name_or_path") or (self.run.model if self.run else "")

    @property
    def rank(self) -> int:
        return max(update.rank for update in self.updates.values())

    @property
    def precision(self) -> str:
        """In which the base was loaded for training, as far as the run knows: bf16, fp16 or fp32."""
        manifest = _read_quietly(self.run_folder / "manifest.json") if self.run_folder else {}
        chosen = manifest.get("chosen", {}).get("precision", {}).get("value")
        asked = self.run.precision if self.run else "auto"
        return chosen or ("bf16" if asked == "auto" else asked)


def find(name: Path) -> Adapter:
    """The adapter of a run folder, or in a folder of its own.

    Raises KitError: there is none, pickled or broken weights, parts that a merge would lose, wrong ranks or shapes.
    """
    folder = name.expanduser()
    run_folder = folder if (folder / "run.toml").is_file() else None
    if run_folder:
        folder = folder / "adapter"
    elif folder.name == "adapter" and (folder.parent / "run.toml").is_file():
        run_folder = folder.parent
    _check_files(name, folder, run_folder)
    config = read_json(folder / CONFIG)
    _check_config(folder, config)
    return Adapter(folder, config, _updates(folder, config), _run(run_folder), run_folder)


def _check_files(name: Path, folder: Path, run_folder: Path | None) -> None:
    if not (folder / CONFIG).is_file():
        raise KitError(_no_adapter(name, folder, run_folder))
    if (folder / WEIGHTS).is_file():
        return
    pickled = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt*")))
    raise KitError(
        problem(
            "adapter-weights-missing",
            f"{folder} holds no {WEIGHTS}.",
            "Only safetensors are read: a pickle file can run any program."
            if pickled
            else "There is nothing to merge.",
            "save it again with PEFT: model.save_pretrained(FOLDER, safe_serialization=True)"
            if pickled
            else "the run's own command again: it saves the adapter",
            details={"found": ", ".join(pickled) or "no weight file"},
        )
    )


def _no_adapter(name: Path, folder: Path, run_folder: Path | None) -> Finding:
    if run_folder:
        return problem(
            "run-has-no-adapter",
            f"The run {name} has no adapter yet.",
            "It was not finished: the adapter is saved after the last step.",
            f"python -m kit.train --config {name}/run.toml      (goes on where it stopped)",
        )
    if (folder / "config.json").is_file():
        return problem(
            "not-an-adapter",
            f"{name} is a whole model, not an adapter.",
            "There is nothing to merge into it.",
            "give the run folder, or a folder with adapter_config.json",
        )
    return problem(
        "adapter-not-found",
        f"{name} is no run and no adapter.",
        "A run folder holds run.toml, an adapter folder adapter_config.json."
        if folder.is_dir()
        else "There is no such folder.",
        "python -m kit.merge runs/NAME -o FOLDER",
    )


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise KitError(
            problem(
                "adapter-kind-unknown",
                f"{folder} is an adapter of the kind {kind}.",
                "Only LoRA adapters are an update that can be added to the weights here.",
                "merge it with PEFT: model.merge_and_unload()",
            )
        )
    used = {name: config.get(name) for name, unused in NOT_OFFERED.items() if config.get(name) not in unused}
    if used:
        raise KitError(
            problem(
                "adapter-cannot-be-merged",
                f"{folder} holds more than low-rank updates of linear layers.",
                "A merge that leaves a part of it out would be another model than the one that was trained.",
                "merge it with PEFT: model.merge_and_unload()",
                details=used,
            )
        )


def _updates(folder: Path, config: dict[str, Any]) -> dict[str, Update]:
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.headers(folder / WEIGHTS).items():
        match = FACTOR.fullmatch(name)
        if not match:
            raise KitError(_not_a_factor(folder, name))
        found.setdefault(match["layer"], {})[match["side"]] = tensor.shape
    if not found:
        raise KitError(_broken(folder, "it holds no update at all"))
    return {layer: _update(folder, config, layer, sides) for layer, sides in found.items()}


def _update(folder: Path, config: dict[str, Any], layer: str, sides: dict[str, tuple[int, ...]]) -> Update:
    if sides.keys() != {"A", "B"}:
        raise KitError(_broken(folder, f"{layer} has only one of the two factors"))
    down, up = sides["A"], sides["B"]
    rank = _of_layer(config.get("rank_pattern"), layer, config.get("r"))
    if len(down) != 2 or len(up) != 2 or down[0] != up[1] or down[0] != rank:
        raise KitError(_broken(folder, f"{layer}: A {down} and B {up}, where {CONFIG} says rank {rank}"))
    alpha = _of_layer(config.get("alpha_pattern"), layer, config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise KitError(_broken(folder, f"lora_alpha is {json.dumps(alpha)}"))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    prefix = f"base_model.model.{layer}.lora_"
    return Update(folder / WEIGHTS, f"{prefix}A.weight", f"{prefix}B.weight", scale, (up[0], down[1]), rank)


def _of_layer(patterns: dict[str, Any] | None, layer: str, default: Any) -> Any:
    """The value of the first pattern that names the layer's end, as PEFT matches them."""
    matching = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", layer))
    return next(matching, default)


def _not_a_factor(folder: Path, name: str) -> Finding:
    return problem(
        "adapter-cannot-be-merged",
        f"{folder} holds {name}, which is no low-rank update of a linear layer.",
        "A merge that leaves it out would be another model than the one that was trained.",
        "merge it with PEFT: model.merge_and_unload()",
    )


def _broken(folder: Path, what: str) -> Finding:
    return problem(
        "adapter-broken",
        f"The adapter in {folder} does not fit together.",
        f"{what[0].upper()}{what[1:]}.",
        "train it again, or copy the whole folder again",
    )


def _run(folder: Path | None) -> Run | None:
    """The options of the run; None for a file that this kit cannot read, which an adapter does not need."""
    if folder is None:
        return None
    try:
        return Run.model_validate(tomllib.loads((folder / "run.toml").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _read_quietly(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
