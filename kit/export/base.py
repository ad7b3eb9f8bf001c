"""The base model's files: which tensor lies where, and what an adapter changes of which of them. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit import models
from kit.export.tuned_model import Tuned
from kit.models import INDEX, SINGLE, Model, ModelNotHere, adapters, quantised, read_json
from kit.models.adapters import TokenRows
from kit.models.change import QUANTISED, STATES, Change, Weight
from kit.models.families import BLOCKS, FAMILIES, expert_count, family_of, name_of
from kit.models.headers import Tensor
from kit.support.errors import KitError, describe_error, failure, problem
from kit.support.user_shell import quoted

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Base:
    """A model on this machine: its folder, and what the headers of its files say of each tensor."""

    model: Model
    folder: Path
    headers: dict[str, Tensor]

    @property
    def is_saved_in_four_bit(self) -> bool:
        return any(name.endswith(QUANTISED) for name in self.headers)

    def weights(self, pairs: Iterable[tuple[Tuned, float]], four_bit: bool, loaded_as: str) -> list[Weight]:
        """Every weight with what changes it, in the order of the files."""
        changed: dict[str, list[tuple[Change, float]]] = {}
        for adapter, share in pairs:
            for layer, change in adapter.changes.items():
                changed.setdefault(f"{layer}.weight", []).append((change, share))
                if isinstance(change, TokenRows) and self.model.config.get("tie_word_embeddings"):
                    changed[HEAD] = changed[f"{layer}.weight"]  # some files hold the embedding twice
        return [
            Weight(
                name=name,
                file=self.headers[name].file,
                shape=shape,
                changes=tuple(changed.get(name, ())),
                four_bit=four_bit and self._is_quantised_at_load(name),
                saved_in_four_bit=name + QUANTISED in self.headers,
                loaded_as=loaded_as,
            )
            for name, shape in self.shapes.items()
        ]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every weight; what bitsandbytes keeps beside a weight in 4 bit is none."""
        names = self.headers
        return {
            name: self._shape(name)
            for name in names
            if not name.endswith(STATES) or f"{name.rpartition('.weight.')[0]}.weight" not in names
        }

    def _is_quantised_at_load(self, name: str) -> bool:
        is_linear = name.startswith(BLOCKS) and len(self.headers[name].shape) == 2
        return is_linear and name + QUANTISED not in self.headers

    def _shape(self, name: str) -> tuple[int, ...]:
        """Of a weight that lies there in 4 bit: what the layers of the config say."""
        if name + QUANTISED not in self.headers:
            return self.headers[name].shape
        state = read_quant_state(self.headers[name].file, name + QUANTISED)
        return tuple(state["shape"])


def read_quant_state(path: Path, name: str) -> dict[str, Any]:
    """bitsandbytes keeps shape and type of a 4-bit weight as JSON text in a tensor of bytes."""
    import json

    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return json.loads(bytes(file.get_tensor(name)))


def find_base(name: str, adapter: Tuned) -> Base:
    """The base model of that name, on this machine or fetched.

    Raises KitError: it is not there, its weights are broken, pickled or outside its folder, or of a kind that cannot
    be merged into.
    """
    if not name:
        raise KitError(_missing("An adapter is only the change to a model.", name, adapter))
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_index(folder)
    try:
        model = models.find(name, "--base")
    except ModelNotHere as error:
        raise KitError(_missing(error.findings[0].what, name, adapter)) from None
    if expert_count(model.config):
        raise failure(
            "merge-of-experts",
            f"{name} is a mixture of experts.",
            "Its experts are stored in one tensor, which the merge does not know yet.",
            "merge it with PEFT: model.merge_and_unload()",
        )
    folder = Path(model.location)
    if not model.is_local:
        folder = _fetched(model)
        model = replace(model, files=models.small_files(folder))
    files = _files(folder)
    headers: dict[str, Tensor] = {}
    for path in dict.fromkeys(files.values()):
        headers |= adapters.read_tensors(path)
    lost = [tensor for tensor in files if tensor not in headers]
    if lost:
        raise failure(
            "model-weights-missing",
            f"{folder} lacks {len(lost)} tensors that its index names.",
            "The files are of another model than the index.",
            f"hf download OWNER/NAME --local-dir {quoted(folder)}",
            details={"first": lost[0]},
        )
    return Base(model, folder, headers)


def _missing(why: str, name: str, adapter: Tuned) -> Finding:
    return problem(
        "base-not-found",
        f"The base of {adapter.path} is not here: {name or 'the adapter does not name it'}.",
        why,
        "--base FOLDER             (where the model it was trained on lies)",
        details={"it was trained on": adapter.base or "not said"},
    )


def _check_index(folder: Path) -> None:
    """Names in an index are files of the folder and lead nowhere else."""
    if not (folder / INDEX).is_file():
        return
    table = read_json(folder / INDEX).get("weight_map")
    names = set(table.values()) if isinstance(table, dict) else {None}
    wrong = [name for name in names if not isinstance(name, str) or Path(name).name != name or "\\" in name]
    if wrong:
        raise failure(
            "model-index-leaves-folder",
            f"{folder / INDEX} names a file that is not in its folder.",
            "Weights of a model lie beside its index; a path that leads elsewhere could read any file.",
            f"hf download OWNER/NAME --local-dir {quoted(folder)}",
            details={"named": wrong[0]},
        )


def _files(folder: Path) -> dict[str, Path]:
    if (folder / INDEX).is_file():
        _check_index(folder)
        return {tensor: folder / name for tensor, name in read_json(folder / INDEX)["weight_map"].items()}
    single = folder / SINGLE
    if not single.is_file():
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        raise failure(
            "model-weights-missing",
            f"{folder} has no {SINGLE} and no {INDEX}.",
            "Which of the files there hold the model cannot be told.",
            f"hf download OWNER/NAME --local-dir {quoted(folder)}",
            details={"found": ", ".join(others)},
        )
    return dict.fromkeys(adapters.read_tensors(single), single)


def _fetched(model: Model) -> Path:
    """The folder of a hub model's weights in the cache; what is missing is downloaded."""
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.jinja"]
    try:
        return Path(snapshot_download(model.location, allow_patterns=wanted))
    except Exception as error:  # the hub's errors, the network's and the disk's
        raise failure(
            "base-not-found",
            f"The weights of {model.name} are not on this machine and cannot be fetched.",
            describe_error(error),
            f"hf download {model.name} --local-dir {quoted(models.folder_for(model.name))}",
            f"--base {quoted(models.folder_for(model.name))}",
        ) from None


def check_fit(base: Base, adapter: Tuned) -> None:
    """Raises KitError: the adapter changes layers that this base lacks or has in another shape, or is not whole."""
    adapters.check_fit(adapter, adapter.parts, str(base.folder), base.shapes)


def other_name(base: Base, adapter: Tuned) -> Finding | None:
    """A warning where shapes fit and names do not: Base and Instruct of one size look alike."""
    if adapter.is_whole:
        return None
    trained_on = {Path(name).name.lower() for name in (adapter.base, quantised.original_of(adapter.base)) if name}
    names = {base.folder.resolve().name.lower(), Path(base.model.name).name.lower()}
    if not trained_on or trained_on & names or base.folder.resolve() == Path(adapter.base).expanduser().resolve():
        return None
    return problem(
        "base-has-another-name",
        f"The adapter was trained on {adapter.base}; it is merged into {base.folder}.",
        "The shapes fit, and nothing tells whether it is the same model: Base and Instruct look alike.",
        f"--base FOLDER             with {adapter.base}, unless this is that model",
        severity="warning",
    )


def unknown_family(base: Base) -> Finding | None:
    """A warning where the kit has never compared a merge of such a model."""
    if family_of(base.model.config):
        return None
    return problem(
        "merge-family-unknown",
        f"{base.model.name} is of a family that the kit does not know ({name_of(base.model.config)}).",
        f"Known are {', '.join(FAMILIES)}. Only the comparison that follows says whether this merge is right.",
        "--base-precision 16bit        (if the run trained in 4 bit: which of its layers that quantises is not known)",
        severity="warning",
    )
