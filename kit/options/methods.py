"""The methods of training: one record for each, in one table. Who needs to know what a method does asks its record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["LORA", "IA3", "MISS", "PREFIX_TUNING", "PROMPT_TUNING", "WEIGHTS"]


@dataclass(frozen=True)
class Method:
    """One way to train a model.

    summary: the words of --help. kind: PEFT's type of the adapter, or WEIGHTS where the model itself is trained.
    peft_settings: the values of PEFT's config that tell the methods of one kind apart. options: those options of a run
    that not every method takes. is_plain_update: its change of a weight is a product of two small matrices and nothing
    else, so several can become one and have singular values. in_unsloth: Unsloth's kernels know it; the others train
    with plain transformers and PEFT.
    """

    name: str
    summary: str
    kind: Kind
    peft_settings: Mapping[str, bool] = field(default_factory=dict, hash=False)
    options: tuple[str, ...] = ()
    is_plain_update: bool = False
    in_unsloth: bool = False

    @property
    def trains_whole_model(self) -> bool:
        return self.kind == "WEIGHTS"

    @property
    def adapts_layers(self) -> bool:
        """Whether each of the target modules gets something of its own."""
        return "target_modules" in self.options

    @property
    def trains_tokens(self) -> bool:
        """Whether the vectors of single tokens can be trained beside it; PEFT has that for LoRA alone."""
        return self.kind == "LORA" or self.trains_whole_model

    @property
    def learns_virtual_tokens(self) -> bool:
        """Learnt positions stand before every prompt; no weight is changed, so nothing can be merged."""
        return "virtual_tokens" in self.options

    @property
    def learns_prefix(self) -> bool:
        """Learnt keys and values stand before every layer's own, in a cache: activations cannot be computed again."""
        return self.kind == "PREFIX_TUNING"

    @property
    def projects_prefix(self) -> bool:
        """Two trained layers make the keys and values."""
        return self.peft_settings.get("prefix_projection", False)

    @property
    def has_lengths(self) -> bool:
        """Each row of a changed weight has a trained length."""
        return self.peft_settings.get("use_dora", False)


IA3_INWARD = "down_proj"  # its factors are of what goes into it, those of the other layers of what comes out
LOW_RANK_OPTIONS = ("lora_rank", "lora_alpha", "lora_dropout", "rank_pattern", "target_modules")
LORA = Method(
    "lora",
    "low-rank updates (QLoRA: the same with --load-in-4bit)",
    "LORA",
    options=LOW_RANK_OPTIONS,
    is_plain_update=True,
    in_unsloth=True,
)
FULL = Method("full", "every weight, in 16 bit", "WEIGHTS")
_RECORDS = (
    LORA,
    Method(
        "rslora",
        "low-rank updates, scaled by the root of the rank",
        "LORA",
        {"use_rslora": True},
        LOW_RANK_OPTIONS,
        is_plain_update=True,
        in_unsloth=True,
    ),
    Method("dora", "low-rank updates, with lengths of their own", "LORA", {"use_dora": True}, LOW_RANK_OPTIONS),
    Method("ia3", "a factor for each output", "IA3", options=("target_modules",)),
    Method("miss", "updates with shared blocks", "MISS", options=("lora_rank", "lora_dropout", "target_modules")),
    Method(
        "prefix",
        "keys and values in front of each layer's, made by two layers",
        "PREFIX_TUNING",
        {"prefix_projection": True},
        ("virtual_tokens",),
    ),
    Method(
        "p-tuning-v2",
        "keys and values in front of each layer's",
        "PREFIX_TUNING",
        {"prefix_projection": False},
        ("virtual_tokens",),
    ),
    Method("prompt", "virtual words", "PROMPT_TUNING", options=("virtual_tokens",)),
    FULL,
)
METHODS: Mapping[str, Method] = {method.name: method for method in _RECORDS}
HELP = "; ".join(f"{method.name}: {method.summary}" for method in _RECORDS)
# An option that not every method takes -> the names of those that do.
TAKEN_BY = {
    option: [method.name for method in _RECORDS if option in method.options]
    for option in (*LOW_RANK_OPTIONS, "virtual_tokens")
}
ADAPTER_KINDS = tuple(dict.fromkeys(method.kind for method in _RECORDS if method is not FULL))  # as PEFT names them
IN_UNSLOTH = [method.name for method in _RECORDS if method.in_unsloth]
PLAIN_UPDATES = [method.name for method in _RECORDS if method.is_plain_update]


def method_of(peft_config: Mapping[str, Any]) -> Method | None:
    """The method that makes an adapter of that configuration; None: the kit does not use such adapters."""
    same_kind = [method for method in _RECORDS if method is not FULL and method.kind == peft_config.get("peft_type")]
    for method in reversed(same_kind):  # the plainest stands first
        if all(bool(peft_config.get(name)) == value for name, value in method.peft_settings.items()):
            return method
    return None
