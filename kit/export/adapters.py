"""A run or adapter -> the updates that a merge adds, checked: nothing in it is left out of a merge. No torch."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit import adapters
from kit.adapters import Pair
from kit.backend.merging import Update
from kit.errors import KitError, problem
from kit.options import Run

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
class Adapter(adapters.Adapter):
    """An adapter that can be merged; `run`: the options of the kit's run that made it, None if they are not there.

    pairs: the two matrices of each update, updates: what they add, both by the layer's name in the base model.
    """

    pairs: Mapping[str, Pair]
    updates: Mapping[str, Update]
    run: Run | None

    @property
    def base(self) -> str:
        return super().base or (self.run.model if self.run else "")

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

    Raises KitError: what kit.adapters.find and read_pairs raise; parts that a merge would lose; a scale that is none.
    """
    found = adapters.find(name)
    _check_config(found)
    pairs, others = adapters.read_pairs(found)
    others += [pair.a.name for pair in pairs.values() if {len(pair.a.shape), len(pair.b.shape)} != {2}]
    if others:
        raise KitError(_not_an_update(found.path, others[0]))
    try:
        updates = {layer: _update(found, layer, pair) for layer, pair in pairs.items()}
    except (ValueError, OverflowError) as error:
        raise KitError(adapters.broken(found.path, str(error))) from None
    return Adapter(found.name, found.path, found.config, found.run_folder, pairs, updates, _run(found.run_folder))


def _check_config(adapter: adapters.Adapter) -> None:
    config = adapter.config
    used = {name: config.get(name) for name, unused in NOT_OFFERED.items() if config.get(name) not in unused}
    if used:
        raise KitError(
            problem(
                "adapter-cannot-be-merged",
                f"{adapter.path} holds more than low-rank updates of linear layers.",
                "A merge that leaves a part of it out would be another model than the one that was trained.",
                "merge it with PEFT: model.merge_and_unload()",
                details=used,
            )
        )


def _update(adapter: adapters.Adapter, layer: str, pair: Pair) -> Update:
    scale = adapters.scale(adapter.config, layer, pair.rank)
    return Update(pair.a.file, pair.a.name, pair.b.name, scale, (pair.b.shape[0], pair.a.shape[1]), pair.rank)


def _not_an_update(folder: Path, name: str) -> Finding:
    return problem(
        "adapter-cannot-be-merged",
        f"{folder} holds {name}, which is no low-rank update of a linear layer.",
        "A merge that leaves it out would be another model than the one that was trained.",
        "merge it with PEFT: model.merge_and_unload()",
    )


def _run(folder: Path | None) -> Run | None:
    """The options of the run; None for a file that this kit cannot read, which an adapter does not need."""
    if folder is None:
        return None
    try:
        return Run.model_validate(tomllib.loads((folder / adapters.RUN).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _read_quietly(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
