"""TRL's trainer over samples that are tokenised and masked already, and the loss on held-out ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from kit.backend.loading import Loaded
from kit.backend.silence import silence
from kit.config import Run
from kit.prompt import IGNORED, Sample


class Listener(Protocol):
    """Who is told what happens while the trainer works."""

    def on_step(self, step: int, metrics: dict[str, float]) -> None: ...

    def stop_requested(self) -> bool: ...


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
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(run.scheduler, run.scheduler),
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
        loss_type={"unsloth": "nll", "hf": "chunked_nll"}[loaded.backend.name],  # Unsloth chunks what it calls "nll"
        max_length=None,  # kit.data has seen to the length: nothing is cut here
        packing=False,
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=run.pin_memory == "on",
    )
    with silence():
        made = SFTTrainer(
            model=loaded.model,
            processing_class=loaded.tokenizer,
            args=arguments,
            train_dataset=_dataset(train),
            eval_dataset=_dataset(held_out) if held_out else None,
        )
    _set_adapter_precision(loaded.model, run)
    _replace_printer(made, listener)
    return made


def _set_adapter_precision(model: Any, run: Run) -> None:
    """TRL casts the adapter of a quantised model to bf16 when it is made, but loads it in fp32 on resume; here it is an
    option that holds throughout. In bf16 an update below 1/256 of a weight is lost."""
    import torch

    precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[run.adapter_precision]
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(precision)


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
        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                listener.on_step(state.global_step, {name: float(value) for name, value in logs.items()})

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= listener.stop_requested()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Tell())


def held_out_loss(trainer: Any, told: Callable[[int, int], None]) -> float:
    """Mean over all trained tokens of the held-out rows, in nats; `told` hears of each batch.

    Trainer.evaluate averages over batches instead, which gives the tokens of short answers more weight.
    """
    import torch

    batches = trainer.get_eval_dataloader()
    model = trainer.model
    model.eval()
    total, tokens = 0.0, 0
    for number, batch in enumerate(batches, start=1):
        count = int((batch["labels"][:, 1:] != IGNORED).sum())
        with torch.no_grad(), trainer.compute_loss_context_manager(), silence():
            total += float(model(**batch, use_cache=False).loss) * count
        tokens += count
        told(number, len(batches))
    model.train()
    return total / tokens
