"""Choose a backend and load the base model with it."""

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import Any

from envcheck.facts import Finding
from kit.backend.out_of_memory import is_out_of_memory
from kit.backend.silence import silence
from kit.models import Model
from kit.options import Run, resolve
from kit.prompt import ChatFormat
from kit.support.errors import KitError, describe_error, first_line, problem


@dataclass(frozen=True)
class Backend:
    """Who loads and adapts: `name` is unsloth or hf, `reason` says why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """A model with its transformers tokenizer, on the device it trains on."""

    model: Any
    tokenizer: Any
    backend: Backend
    device: str


def start(run: Run) -> Backend:
    """Import the libraries in the right order. Where Unsloth cannot start, `auto` goes on with transformers and PEFT.

    Raises KitError: run.backend is unsloth and Unsloth cannot start.
    """
    if run.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also for a card that torch would find and then fail on
    if run.backend == "hf" or resolve.why_hf(run):
        _limit_card(run)
        return Backend("hf", resolve.why_hf(run) or "asked for")
    try:
        with silence():
            import unsloth  # noqa: F401 - patches trl, transformers and peft
    except Exception as error:  # a broken install raises anything: ImportError, RuntimeError, OSError, AttributeError
        reason = f"Unsloth cannot start: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if run.backend == "unsloth":
            raise KitError(
                problem(
                    "unsloth-cannot-start",
                    "Unsloth was asked for and cannot start.",
                    reason,
                    "python -m envcheck           (says what is broken)",
                    "--backend hf                 (plain transformers and PEFT)",
                )
            ) from error
        _limit_card(run)
        return Backend("hf", reason)
    _limit_card(run)
    return Backend("unsloth", "Unsloth started")


def _limit_card(run: Run) -> None:
    """No more of the card than --vram-limit-gib: beyond it torch says that memory ran out. The peak counted is that of
    this run, also where several follow one another in a process."""
    import torch

    if run.device != "cuda":
        return
    torch.cuda.reset_peak_memory_stats()
    if run.vram_limit_gib is not None:
        total_gib = torch.cuda.get_device_properties(0).total_memory / (1 << 30)
        torch.cuda.set_per_process_memory_fraction(min(1.0, run.vram_limit_gib / total_gib))


def load(model: Model, run: Run, backend: Backend, chat: ChatFormat) -> Loaded:
    """The base model, in 4-bit NF4 with double quantisation or in 16 bit, and its tokenizer with the run's template.

    Raises KitError: weights that cannot be read, or not enough memory for them.
    """
    quietly = (
        silence() if model.is_local else contextlib.redirect_stdout(sys.stderr)
    )  # a download shows its own progress
    try:
        with quietly:
            loaded, tokenizer = _load_unsloth(model, run) if backend.name == "unsloth" else _load_hf(model, run)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        raise KitError(_cannot_load(model, run, error)) from error
    if run.load_in_4bit and not getattr(loaded, "is_loaded_in_4bit", False):
        raise KitError(_not_in_4bit(backend))
    if backend.name == "hf" or run.device == "cpu":  # on a card Unsloth has its own attention
        loaded.set_attn_implementation("eager" if run.attention == "eager" else "sdpa")
    tokenizer.chat_template = chat.template_text  # saved with the adapter: who asks it later asks as it was trained
    if chat.end_token:
        tokenizer.eos_token = chat.end_token
    return Loaded(loaded, tokenizer, backend, run.device)


def _not_in_4bit(backend: Backend) -> Finding:
    return problem(
        "not-loaded-in-4bit",
        f"The base was to be in 4 bit, and {backend.name} loaded it in 16 bit.",
        "bitsandbytes does not work on this machine, and the plan was made for a quarter of the memory.",
        "python -m envcheck           (says what is wrong with bitsandbytes)",
        "--no-load-in-4bit            (trains on the 16-bit base)",
    )


def _cannot_load(model: Model, run: Run, error: Exception) -> Finding:
    if is_out_of_memory(error):
        return no_room(model.name, run, error)
    return problem(
        "model-cannot-be-loaded",
        f"{model.name} cannot be loaded.",
        describe_error(error),
        f"hf download OWNER/NAME --local-dir {model.location}" if model.is_local else f"hf download {model.location}",
        "python -m envcheck                    (checks the libraries)",
    )


def no_room(what: str, run: Run, error: Exception) -> Finding:
    return problem(
        "out-of-memory-at-load",
        f"{what} does not fit into memory.",
        first_line(error),
        "python -m kit.train ... --plan        (shows the parts)",
        "--load-in-4bit" if not run.load_in_4bit else "--model with a smaller size",
    )


def _load_unsloth(model: Model, run: Run) -> tuple[Any, Any]:
    from unsloth import FastLanguageModel

    return FastLanguageModel.from_pretrained(
        model.location,
        max_seq_length=run.max_length_tokens,
        dtype=_dtype(run),
        load_in_4bit=run.load_in_4bit,
        load_in_16bit=not run.load_in_4bit,
        use_gradient_checkpointing=checkpointing(run),
        offload_embedding=run.embedding_offload == "on" and run.device == "cuda",
        trust_remote_code=False,
        use_safetensors=True,
    )


def _load_hf(model: Model, run: Run) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_dtype(run),
    )
    loaded = AutoModelForCausalLM.from_pretrained(
        model.location,
        dtype=_dtype(run),
        device_map={"": run.device},
        quantization_config=four_bit if run.load_in_4bit else None,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if run.device == "cpu":
        _keep_weights_trainable(loaded)
    loaded.config.use_cache = False
    return loaded, AutoTokenizer.from_pretrained(model.location, padding_side="right", trust_remote_code=False)


def _keep_weights_trainable(model: Any) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes packs 4-bit weights for inference at the first forward without gradients.
    Gradients through packed weights are wrong: an evaluation before training would spoil the run without a word."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _dtype(run: Run) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[run.precision]


def checkpointing(run: Run) -> bool | str:
    return {"off": False, "on": True, "unsloth": "unsloth"}[run.gradient_checkpointing]
