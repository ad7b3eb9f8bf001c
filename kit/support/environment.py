"""The environment variables that the kit sets for the libraries, each once and with its reason.

What a user has set stays, but for what would phone home. The constant ones are set as `kit` is imported, so that they
hold also where a notebook imports a library itself; the others before the libraries start, when the card is known.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from envcheck.visible import BY_BUS, ORDER, VARIABLE
from kit.support.units import GIB

LAYERS_COMPILED, LOGITS_GIB, COMPILED_FOLDER = (
    "UNSLOTH_BLOCK_COMPILE", "UNSLOTH_LOGPROB_CHUNK_GB", "UNSLOTH_COMPILE_LOCATION")  # fmt: skip
OFFLOADED_FP32, EXACT = "UNSLOTH_OFFLOAD_FP32", "exact"


@dataclass(frozen=True)
class Variable:
    """is_forced: whatever the user has set."""

    name: str
    value: str
    reason: str
    is_forced: bool = False


CONSTANT = (
    Variable("UNSLOTH_DISABLE_STATISTICS", "1", "nothing phones home, and offline the call takes minutes", True),
    Variable("HF_HUB_DISABLE_TELEMETRY", "1", "nothing phones home", True),
    Variable("DO_NOT_TRACK", "1", "nothing phones home", True),
    Variable("PYDANTIC_DISABLE_PLUGINS", "1", "looking for them reads every installed package's metadata"),
    Variable("TOKENIZERS_PARALLELISM", "true", "stated, or the library warns after every fork"),
    Variable(
        LAYERS_COMPILED,
        "0",
        "compiling the layers takes minutes, keeps other activations than are planned, and rounds otherwise after a "
        "resume; Unsloth's own kernels run all the same",
    ),
    Variable(
        LOGITS_GIB,
        "0.5",
        "else half of the memory that is free at that moment decides how many logits are computed at once: shapes and "
        "rounding would not be those of an equal run; 0.5 GiB hold the least rows of the largest vocabularies",
    ),
    Variable(
        OFFLOADED_FP32,
        EXACT,
        "else activations in 32 bit that wait in main memory come back rounded to bf16, in a run that asked for fp32",
    ),
)


def set_constant(environ: MutableMapping[str, str]) -> None:
    for variable in CONSTANT:
        if variable.is_forced or variable.name not in environ:
            environ[variable.name] = variable.value


def of_card(index: int | None, uuid: str | None, is_only_one: bool, environ: Mapping[str, str]) -> dict[str, str]:
    """So that torch sees this card and no other: a number means what nvidia-smi calls so, and a run uses one card.

    index: nvidia-smi's; uuid: of the card. {}: it is the only one, or the user has named it.
    """
    named = environ.get(VARIABLE)
    if is_only_one or (named is not None and "," not in named):
        return {} if ORDER in environ else {ORDER: BY_BUS}
    if index is not None and environ.get(ORDER, BY_BUS) == BY_BUS:
        return {ORDER: BY_BUS, VARIABLE: str(index)}
    return {VARIABLE: uuid} if uuid else {}


def of_compiled(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Where Unsloth writes trainers as it is imported on a card: by itself into the current folder, from where it runs
    them, whoever may write there."""
    return {} if COMPILED_FOLDER in environ else {COMPILED_FOLDER: str(folder)}


def compiles_layers(environ: Mapping[str, str]) -> bool:
    """Whether Unsloth on a card compiles each kind of layer in the first step: where the user has it so."""
    return environ.get(LAYERS_COMPILED, "1") != "0" and environ.get("UNSLOTH_COMPILE_DISABLE", "0") not in (
        "1",
        "partial",
    )


def rounds_offloaded(environ: Mapping[str, str]) -> bool:
    """Whether activations in 32 bit are rounded on their way to main memory: where the user has it so."""
    return environ.get(OFFLOADED_FP32, EXACT).lower() != EXACT


def logits_chunk_bytes(environ: Mapping[str, str]) -> int:
    """Most that Unsloth's loss on a card takes for logits at once."""
    own = next(variable.value for variable in CONSTANT if variable.name == LOGITS_GIB)
    try:
        return int(float(environ.get(LOGITS_GIB, own)) * GIB)
    except ValueError:  # as Unsloth reads it
        return 2 * GIB
