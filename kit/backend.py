"""The only file that imports unsloth, torch, trl, transformers, peft and bitsandbytes, and that late: Unsloth first,
because it patches the others, and after everything cheap is checked, because importing them takes seconds.

Two backends stand behind three functions: `load`, `adapt`, `trainer`. `start` chooses the backend.
"""

import contextlib
import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from envcheck.facts import Finding
from kit.config import Run
from kit.errors import KitError, nearest, problem
from kit.models import Model
from kit.prompt import Sample


class Listener(Protocol):
    """Who is told what happens while the trainer works."""

    def on_step(self, step: int, metrics: dict[str, float]) -> None: ...

    def on_evaluated(self, batch: int, batches: int) -> None: ...

    def stop_requested(self) -> bool: ...


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
    if run.backend == "hf":
        return Backend("hf", "asked for")
    try:
        with _silence():
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
        return Backend("hf", reason)
    return Backend("unsloth", "Unsloth started")


def load(model: Model, run: Run, backend: Backend) -> Loaded:
    """The base model, in 4-bit NF4 with double quantisation or in 16 bit, and its tokenizer.

    Raises KitError: weights that cannot be read, or not enough memory for them.
    """
    quietly = _silence() if model.is_local else contextlib.nullcontext()  # a download shows its own progress
    try:
        with quietly:
            loaded, tokenizer = _load_unsloth(model, run) if backend.name == "unsloth" else _load_hf(model, run)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        raise KitError(_cannot_load(model, run, error)) from error
    if run.load_in_4bit and not getattr(loaded, "is_loaded_in_4bit", False):
        raise KitError(_not_in_4bit(backend))
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
    if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
        return problem(
            "out-of-memory-at-load",
            f"{model.name} does not fit into memory.",
            str(error).splitlines()[0],
            "python -m kit.train ... --plan        (shows the parts)",
            "--load-in-4bit" if not run.load_in_4bit else "--model with a smaller size",
        )
    return problem(
        "model-cannot-be-loaded",
        f"{model.name} cannot be loaded.",
        f"{type(error).__name__}: {error}".splitlines()[0],
        f"hf download OWNER/NAME --local-dir {model.location}" if model.is_local else f"hf download {model.location}",
        "python -m envcheck                    (checks the libraries)",
    )


def _load_unsloth(model: Model, run: Run) -> tuple[Any, Any]:
    from unsloth import FastLanguageModel

    return FastLanguageModel.from_pretrained(
        model.location,
        max_seq_length=run.max_length_tokens,
        dtype=_dtype(run),
        load_in_4bit=run.load_in_4bit,
        load_in_16bit=not run.load_in_4bit,
        use_gradient_checkpointing=_checkpointing(run),
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


def adapt(loaded: Loaded, run: Run) -> Loaded:
    """The model with a fresh LoRA adapter: equal seed, equal start in both backends.

    Raises KitError: a target module that the model does not have.
    """
    _check_targets(loaded.model, run)
    with _silence():
        adapted = (
            _adapt_unsloth(loaded.model, run) if loaded.backend.name == "unsloth" else _adapt_hf(loaded.model, run)
        )
    return Loaded(adapted, loaded.tokenizer, loaded.backend, loaded.device)


def _check_targets(model: Any, run: Run) -> None:
    import torch

    present = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    missing = [name for name in run.target_modules if name not in present]
    if missing:
        raise KitError(
            *(
                problem(
                    "lora-target-missing",
                    f"The model has no linear layer {name}. {nearest(name, present)}".rstrip(),
                    "An adapter on nothing would train nothing.",
                    f"--target-modules {' '.join(sorted(present))}",
                )
                for name in missing
            )
        )


def _adapt_unsloth(model: Any, run: Run) -> Any:
    from unsloth import FastLanguageModel

    return FastLanguageModel.get_peft_model(
        model,
        r=run.lora_rank,
        lora_alpha=run.lora_alpha,
        lora_dropout=run.lora_dropout,
        target_modules=list(run.target_modules),
        bias="none",
        use_gradient_checkpointing=_checkpointing(run),
        random_state=run.seed,
    )


def _adapt_hf(model: Any, run: Run) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=run.lora_rank,
        lora_alpha=run.lora_alpha,
        lora_dropout=run.lora_dropout,
        target_modules=list(run.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    if run.gradient_checkpointing != "off":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    torch.manual_seed(run.seed)
    return get_peft_model(model, config)


def trainer(
    loaded: Loaded, run: Run, train: list[Sample], held_out: list[Sample], scratch: Path, listener: Listener
) -> Any:
    """TRL's SFTTrainer over samples that are tokenised and masked already; `listener` hears of every optimiser step."""
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=run.micro_batch_size,
        per_device_eval_batch_size=run.micro_batch_size,
        gradient_accumulation_steps=run.accumulation_steps,
        num_train_epochs=run.epochs,
        max_steps=run.max_steps or -1,
        learning_rate=run.learning_rate,
        lr_scheduler_type=run.scheduler
        if run.warmup_pct == 0 or run.scheduler != "constant"
        else "constant_with_warmup",
        warmup_steps=round(run.steps(len(train)) * run.warmup_pct / 100),
        weight_decay=run.weight_decay,
        max_grad_norm=run.max_grad_norm,
        optim=run.optimizer,
        seed=run.seed,
        bf16=run.precision == "bf16",
        fp16=run.precision == "fp16",
        use_cpu=run.device == "cpu",
        gradient_checkpointing=run.gradient_checkpointing != "off",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        loss_type="nll"
        if loaded.backend.name == "unsloth"
        else "chunked_nll",  # Unsloth puts its own chunks under "nll"
        max_length=None,  # kit.data has seen to the length: nothing is cut here
        packing=False,
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=run.device == "cuda",
    )
    with _silence():
        made = SFTTrainer(
            model=loaded.model,
            processing_class=loaded.tokenizer,
            args=arguments,
            train_dataset=_dataset(train),
            eval_dataset=_dataset(held_out) if held_out else None,
        )
    _replace_printer(made, listener)
    return made


def _dataset(samples: list[Sample]) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict(
        {"input_ids": [sample.ids for sample in samples], "labels": [sample.labels for sample in samples]}
    )


def _replace_printer(trainer: Any, listener: Listener) -> None:
    """The kit's listener in place of the callback that prints a dict a step."""
    from transformers import PrinterCallback, TrainerCallback

    class Tell(TrainerCallback):
        batch = 0

        def on_prediction_step(
            self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any
        ) -> None:
            self.batch += 1
            listener.on_evaluated(self.batch, len(eval_dataloader))

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.batch = 0

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                listener.on_step(state.global_step, {name: float(value) for name, value in logs.items()})

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= listener.stop_requested()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Tell())


def answer(loaded: Loaded, prompt: str, longest_tokens: int) -> tuple[str, int, float]:
    """Greedy answer to a rendered prompt: the text without its end token, its tokens, and the seconds it took."""
    import torch

    ids = loaded.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(loaded.model.device)
    start_s = time.perf_counter()
    with torch.no_grad(), _silence():
        output = loaded.model.generate(
            **ids,
            max_new_tokens=longest_tokens,
            do_sample=False,
            pad_token_id=loaded.tokenizer.pad_token_id,
            eos_token_id=loaded.tokenizer.eos_token_id,
            temperature=None,
            top_p=None,
            top_k=None,
        )
    new = output[0][ids["input_ids"].shape[1] :]
    return loaded.tokenizer.decode(new, skip_special_tokens=True).strip(), len(new), time.perf_counter() - start_s


@contextlib.contextmanager
def answering(loaded: Loaded) -> Iterator[None]:
    """The model ready to generate inside, ready to train again after."""
    if loaded.backend.name == "unsloth":
        from unsloth import FastLanguageModel

        FastLanguageModel.for_inference(loaded.model)
        try:
            yield
        finally:
            FastLanguageModel.for_training(loaded.model)
    else:
        loaded.model.eval()
        loaded.model.config.use_cache = True
        try:
            yield
        finally:
            loaded.model.config.use_cache = False
            loaded.model.train()


def save_adapter(loaded: Loaded, folder: Path) -> None:
    """A plain PEFT adapter with its tokenizer."""
    with _silence():
        loaded.model.save_pretrained(str(folder), safe_serialization=True)
        loaded.tokenizer.save_pretrained(str(folder))


def peak_memory_bytes(device: str) -> int:
    """Most memory taken so far: reserved by torch on a card, resident in this process on a CPU."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    scale = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _dtype(run: Run) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[run.precision]


def _checkpointing(run: Run) -> bool | str:
    return {"off": False, "on": True, "unsloth": "unsloth"}[run.gradient_checkpointing]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The libraries' banners and progress bars kept off the screen; errors still rise."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)
