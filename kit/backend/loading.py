"""Load the base model with the backend that started."""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from envcheck.facts import Facts
from kit.backend.device_errors import card_error, is_out_of_memory
from kit.backend.given_weights import check_weights_given
from kit.backend.precision import nf4_config, torch_dtype
from kit.backend.silence import silence
from kit.backend.starting import Backend, PlannedCard
from kit.models import Model
from kit.options import Run, resolve
from kit.prompt import ChatFormat, not_special
from kit.support.errors import KitError, describe_error, failure, first_line
from kit.support.user_shell import quoted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TokenizersBackend

    class CausalModel(PreTrainedModel):
        """A model as transformers and Unsloth load it; or PEFT's over it, which passes everything on to it."""

        def generate(self, **options: Any) -> torch.LongTensor: ...


UNKNOWN = Facts()  # a machine of which nothing was read

# Said at loading, or the config.json would choose, also one that is not installed; every model has this one.
FIRST_ATTENTION = {"attn_implementation": "eager"}


@dataclass(frozen=True)
class Loaded:
    """A model with its transformers tokenizer, on the device it trains on."""

    model: "CausalModel"
    tokenizer: "TokenizersBackend"
    backend: Backend
    device: str


@dataclass(frozen=True)
class Loading:
    """How a base model is loaded, whether it is then trained or only asked.

    precision: of the arithmetic, bf16, fp16 or fp32. backend: auto, unsloth or hf, and where it is hf why.
    gradient_checkpointing: off, on or unsloth. attention: sdpa or eager, where Unsloth has no kernel of its own. card:
    that is planned for, None where it is not known.
    """

    device: str  # cpu or cuda
    precision: str
    load_in_4bit: bool
    max_length_tokens: int
    backend: str = "auto"
    reason: str = "asked for"
    attention: str = "sdpa"
    gradient_checkpointing: str = "off"
    offload_embedding: bool = False
    card: PlannedCard | None = None

    @classmethod
    def of(cls, run: Run, facts: Facts = UNKNOWN) -> "Loading":
        """As a run asks for it on this machine, each `auto` settled. Of facts that know no card: torch's first one."""
        reason = resolve.why_hf(run)
        return cls(
            device=run.device,
            precision=run.precision,
            load_in_4bit=run.load_in_4bit,
            max_length_tokens=run.max_length_tokens,
            backend="hf" if reason else run.backend,
            reason=reason or "asked for",
            attention=run.attention,
            gradient_checkpointing=run.gradient_checkpointing,
            offload_embedding=run.embedding_offload == "on",
            card=PlannedCard.of(facts, run.vram_limit_gib) if run.device == "cuda" else None,
        )


def load(model: Model, loading: Loading, backend: Backend, chat: ChatFormat) -> Loaded:
    """The base model, in 4-bit NF4 with double quantisation or in 16 bit, and its tokenizer with the chat's template.

    Raises KitError: weights that cannot be read or are not there, or not enough memory for them; the card failed.
    """
    # a download shows its own progress
    quiet = silence() if model.is_local else contextlib.redirect_stdout(sys.stderr)
    read = _load_by_unsloth if backend.name == "unsloth" else _load_by_transformers
    try:
        with quiet:
            base, tokenizer = read(model, loading)
    except Exception as error:  # a config may say anything, and safetensors and Triton have errors of their own
        raise card_error(error) or _cannot_load(model, loading.load_in_4bit, error) from error
    _check_loaded(base, model, loading, backend)
    check_weights_given(base, model)
    if model.stored_nf4:
        _compute_in(base, torch_dtype(loading.precision))
    if backend.name == "hf" or loading.device == "cpu":
        base.set_attn_implementation("eager" if loading.attention == "eager" else "sdpa")
    tokenizer.chat_template = chat.template_text  # saved with the adapter: who asks it later asks as it was trained
    if chat.added_tokens:  # saved with the adapter, too, and exported from there
        tokenizer._tokenizer = not_special(tokenizer._tokenizer, chat.added_tokens)
    if chat.end_token:
        tokenizer.eos_token = chat.end_token
    return Loaded(base, tokenizer, backend, loading.device)


def _check_loaded(base: "CausalModel", model: Model, loading: Loading, backend: Backend) -> None:
    """What was loaded is what was named, checked, planned and will be written down.

    Raises KitError: it is another model, or in another number of bits.
    """
    loaded = str(base.config._name_or_path)
    if loaded != model.location and not (model.is_local and Path(loaded).resolve() == Path(model.location).resolve()):
        raise failure(
            "another-base-loaded",
            f"{model.location} was asked for, and {backend.name} loaded {loaded}.",
            "What was checked and planned, and what will be written down, is of the model that was named.",
            "--backend hf                 (plain transformers and PEFT)",
            f"the name {loaded}        (if that is the model that is wanted)",
        )
    if loading.load_in_4bit and not getattr(base, "is_loaded_in_4bit", False):
        raise failure(
            "not-loaded-in-4bit",
            f"The base was to be in 4 bit, and {backend.name} loaded it in 16 bit.",
            "bitsandbytes does not work on this machine, or the loader goes by a name that ends in -bf16 or bnb-4bit; "
            "the plan was made for a quarter of the memory.",
            "python -m envcheck           (says what is wrong with bitsandbytes)",
            *(["--backend hf                 (goes by no name)"] if backend.name == "unsloth" else []),
            "--no-load-in-4bit            (trains on the 16-bit base)",
        )


def _load_by_unsloth(model: Model, loading: Loading) -> "tuple[CausalModel, TokenizersBackend]":
    from unsloth import FastLanguageModel

    return FastLanguageModel.from_pretrained(
        model.location,
        use_exact_model_name=True,  # else Unsloth takes its own copy of a model by another name, or asks the network
        local_files_only=model.folder is not None,
        max_seq_length=loading.max_length_tokens,
        dtype=torch_dtype(loading.precision),
        load_in_4bit=loading.load_in_4bit,
        load_in_16bit=not loading.load_in_4bit,
        use_gradient_checkpointing=unsloth_checkpointing(loading.gradient_checkpointing),
        offload_embedding=loading.offload_embedding and loading.device == "cuda",
        trust_remote_code=False,
        use_safetensors=True,
        **(_own_positions(model, loading) if loading.device == "cuda" else FIRST_ATTENTION),
    )


def _own_positions(model: Model, loading: Loading) -> dict[str, Any]:
    """How the model encodes positions, said where it shall take more tokens than it has positions: Unsloth on a card
    would stretch all of them, which no other loader does with the adapter. "default" is Unsloth's for no change."""
    own = model.config.get("rope_parameters") or model.config.get("rope_scaling") or {"rope_type": "default"}
    positions = model.config.get("max_position_embeddings")
    return {"rope_scaling": own} if positions and loading.max_length_tokens > positions else {}


def _load_by_transformers(model: Model, loading: Loading) -> "tuple[CausalModel, TokenizersBackend]":
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch_dtype(loading.precision)
    quantising: dict[str, Any] = {}
    if loading.load_in_4bit and not model.stored_nf4:  # else config.json says how it is, which a None would discard
        quantising["quantization_config"] = nf4_config(dtype)
    base = AutoModelForCausalLM.from_pretrained(
        model.location,
        dtype=dtype,
        device_map={"": loading.device},
        local_files_only=model.folder is not None,
        **FIRST_ATTENTION,
        trust_remote_code=False,
        use_safetensors=True,
        **quantising,
    )
    if loading.device == "cpu":
        _keep_weights_trainable(base)
    base.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(
        model.location, padding_side="right", local_files_only=model.folder is not None, trust_remote_code=False
    )
    return cast("CausalModel", base), cast("TokenizersBackend", tokenizer)


def _keep_weights_trainable(model: "torch.nn.Module") -> None:
    """On CPUs with AVX512-BF16, bitsandbytes packs 4-bit weights for inference at the first forward without gradients.
    Gradients through packed weights are wrong: an evaluation before training would spoil the run without a word."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _compute_in(model: "torch.nn.Module", dtype: "torch.dtype") -> None:
    """Weights that lie in 4 bit in the model's files bring the format that another machine computed in."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight: Any = module.weight
            module.compute_dtype = weight.quant_state.dtype = dtype


def unsloth_checkpointing(way: str) -> bool | str:
    """Unsloth's value for off, on or unsloth."""
    return way if way == "unsloth" else way == "on"


def _cannot_load(model: Model, load_in_4bit: bool, error: Exception) -> KitError:
    if is_out_of_memory(error):
        return no_room(model.name, load_in_4bit, error)
    return failure(
        "model-cannot-be-loaded",
        f"{model.name} cannot be loaded.",
        describe_error(error),
        f"hf download OWNER/NAME --local-dir {quoted(model.location)}"
        if model.is_local
        else f"hf download {model.name}",
        "python -m envcheck                    (checks the libraries)",
    )


def no_room(what: str, load_in_4bit: bool, error: Exception) -> KitError:
    """The error that a model, or an adapter over it, does not fit into memory."""
    return failure(
        "out-of-memory-at-load",
        f"{what} does not fit into memory.",
        first_line(error),
        "python -m kit.train ... --plan        (shows the parts)",
        "--load-in-4bit" if not load_in_4bit else "--model with a smaller size",
    )
