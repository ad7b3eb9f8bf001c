"""A run or adapter -> what a merge changes of each weight, checked: nothing in it is left out of a merge. No torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from envcheck.facts import Finding
from kit.models import adapters
from kit.models.adapters import LayerChange, TokenRows
from kit.models.change import Change, Update
from kit.options import Method, Run
from kit.options.methods import FULL, LORA
from kit.run import reading, tuned
from kit.support.errors import KitError, failure, problem
from kit.support.user_shell import quoted

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others change the base before training
# What a merge of the formula alone would lose, or would compute otherwise; the value that means "not used".
NOT_OFFERED: Mapping[str, tuple[object, ...]] = {
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False, None),
}
OF_KIND: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "LORA": {
        "lora_bias": (False, None),
        "target_parameters": (None, []),
        "layer_replication": (None, []),
        "use_qalora": (False, None),
        "use_bdlora": (None, False),
        "alora_invocation_tokens": (None, []),
        "arrow_config": (None,),
        "init_lora_weights": PLAIN_STARTS,
    },
    "IA3": {},
    "MISS": {"init_weights": (True, False, None)},  # bat and mini: other formulas
}


@dataclass(frozen=True)
class Tuned(adapters.Adapter):
    """What is merged; `run`: the options of the kit's run that made it, None if they are not there.

    parts: what the adapter holds for each layer, changes: what they make of its weight, both by the layer's name in the
    base model. Both are empty for the whole model of a run of `full`, which is its own base.
    """

    parts: Mapping[str, LayerChange]
    changes: Mapping[str, Change]
    run: Run | None

    @property
    def base(self) -> str:
        if self.is_whole:
            return str(self.path)
        return super().base or (self.run.model if self.run else "")

    @property
    def is_whole(self) -> bool:
        return not self.changes

    @property
    def method(self) -> Method:
        return FULL if self.is_whole else super().method

    @property
    def summary(self) -> str:
        """Method, rank and number of layers, in words."""
        ranks = [change.rank for change in self.changes.values() if isinstance(change, Update)]
        kind = "" if self.method is LORA else f"{self.method.name}, "
        tokens = [len(change.tokens) for change in self.changes.values() if isinstance(change, TokenRows)]
        layers = f"{len(self.changes) - len(tokens)} layers"
        return f"{kind}{f'rank {max(ranks)}, ' if ranks else ''}{layers}{f', {tokens[0]} tokens' if tokens else ''}"

    @property
    def trains_tokens(self) -> bool:
        """Whether it holds rows of an embedding, which stand there instead of the base's and are no sum."""
        return any(isinstance(change, TokenRows) for change in self.changes.values())

    @property
    def precision(self) -> str:
        """In which the base was loaded for training, as far as the run knows: bf16, fp16 or fp32."""
        chosen = reading.chosen(self.run_folder).get("precision") if self.run_folder else None
        asked = self.run.precision if self.run else "auto"
        return chosen or ("bf16" if asked == "auto" else asked)


def find_adapter(name: Path) -> Tuned:
    """The adapter of a run folder, or in a folder of its own.

    Raises KitError: what kit.run.tuned.find_adapter and kit.models.adapters.read_parts raise; a kind that changes no
    weight; parts that a merge would lose; a scale that is not a number.
    """
    found = tuned.find_adapter(name)
    if found.method.learns_virtual_tokens:
        raise KitError(_changes_no_weight(found))
    _check_config(found)
    parts, others = adapters.read_parts(found)
    others += [part.tensors[0].name for part in parts.values() if not _is_of_a_matrix(part)]
    if others:
        raise KitError(_not_an_update(found.path, others[0]))
    try:
        changes = {layer: _change(found, layer, part) for layer, part in parts.items()}
    except (ValueError, OverflowError) as error:
        raise KitError(adapters.broken_adapter(found.path, str(error))) from None
    return Tuned(found.name, found.path, found.config, found.run_folder, parts, changes, _options(found))


def find_whole_model(name: Path) -> Tuned | None:
    """The model of a run that trained every weight, None where the name means none."""
    folder = tuned.whole_model(name)
    if folder is None:
        return None
    return Tuned(folder.resolve().parent.name, folder, {}, folder.parent, {}, {}, reading.options(folder.parent))


def in_words(pairs: Iterable[tuple[Tuned, float]]) -> str:
    """Names, each with the weight it counts with."""
    return " + ".join(f"{weight:g} x {adapter.name}" if weight != 1 else adapter.name for adapter, weight in pairs)


def _check_config(adapter: adapters.Adapter) -> None:
    config, names = adapter.config, {**NOT_OFFERED, **OF_KIND[adapter.kind]}
    used = {name: config.get(name) for name, unused in names.items() if config.get(name) not in unused}
    if used:
        raise failure(
            "adapter-cannot-be-merged",
            f"{adapter.path} holds more than the changes of linear layers, or changes of another kind.",
            "A merge that leaves a part of it out would be another model than the one that was trained.",
            "merge it with PEFT: model.merge_and_unload()",
            details=used,
        )


def _changes_no_weight(adapter: adapters.Adapter) -> Finding:
    return problem(
        "adapter-changes-no-weight",
        f"{adapter.path} ({adapter.method.name}) cannot become a plain model.",
        f"It holds {adapter.virtual_tokens} virtual tokens that stand before every prompt, and changes no weight: no "
        "model without them answers the same.",
        f"python -m kit.chat {quoted(adapter.run_folder or adapter.path)}        (--serve: an OpenAI-compatible API)",
        "peft.PeftModel.from_pretrained(base, folder)        (in your own program)",
        "train again with --method lora, which can be merged",
    )


def _is_of_a_matrix(part: LayerChange) -> bool:
    return not isinstance(part, adapters.Pair) or {len(part.a.shape), len(part.b.shape)} == {2}


def _change(adapter: adapters.Adapter, layer: str, part: LayerChange) -> Change:
    if not isinstance(part, adapters.Pair):
        assert isinstance(part, adapters.Factors | adapters.BlockSum | TokenRows), part
        return part
    scale, shape = adapters.scale(adapter.config, layer, part.rank), (part.b.shape[0], part.a.shape[1])
    lengths = part.magnitude.name if part.magnitude else ""
    return Update(part.a.file, part.a.name, part.b.name, scale, shape, part.rank, lengths)


def _not_an_update(folder: Path, name: str) -> Finding:
    return problem(
        "adapter-cannot-be-merged",
        f"{folder} holds {name}, which is no low-rank update of a linear layer.",
        "A merge that leaves it out would be another model than the one that was trained.",
        "merge it with PEFT: model.merge_and_unload()",
    )


def _options(adapter: adapters.Adapter) -> Run | None:
    """Of the run that made it; an adapter alone has none, and needs none."""
    return reading.options(adapter.run_folder) if adapter.run_folder else None
