"""TRL's trainer over samples that are tokenised and masked already, and the loss on held-out ones."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from kit.backend.loading import Loaded
from kit.backend.silence import silence
from kit.data.batches import EpochSampler, budget_tokens, micro_batches
from kit.data.store import Samples
from kit.options import Run
from kit.prompt import IGNORED


class Listener(Protocol):
    """Who is told what happens while the trainer works."""

    def on_step(self, step: int, metrics: dict[str, float]) -> None: ...

    def stop_requested(self) -> bool: ...


def trainer(loaded: Loaded, run: Run, train: Samples, scratch: Path, listener: Listener) -> Any:
    """TRL's SFTTrainer over samples that are tokenised and masked already; `listener` hears of every optimiser step."""
    from trl import SFTConfig

    arguments = SFTConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=run.batch_size,  # a whole step: the trainer below splits it by tokens
        gradient_accumulation_steps=1,
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
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=run.pin_memory == "on",
    )
    with silence():
        made = _trainer_class()(
            model=loaded.model,
            processing_class=loaded.tokenizer,
            args=arguments,
            train_dataset=_dataset(train),
        )
    made.sampler = EpochSampler(train.lengths, run.batch_size, run.seed)
    made.micro_batch_size = run.micro_batch_size
    made.budget_tokens = budget_tokens(train.lengths, run.micro_batch_size)
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


def _trainer_class() -> Any:
    """TRL's trainer, made late: Unsloth replaces the class when it is imported."""
    from trl import SFTTrainer

    class StepTrainer(SFTTrainer):
        """Gets the samples of a whole optimiser step at once and runs them in micro-batches of at most budget_tokens.

        The loss is the mean over the trained tokens of the step, however it is split.
        """

        def _get_train_sampler(self, *_: Any) -> EpochSampler:
            return self.sampler

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            parts = list(_parts(inputs, self._places(inputs)))
            loss = 0.0
            for number, part in enumerate(parts, start=1):
                with self.accelerator.no_sync(model) if number < len(parts) else contextlib.nullcontext():
                    loss = loss + super().training_step(model, part, num_items_in_batch)
            return loss

        def _places(self, inputs: dict[str, Any]) -> list[list[int]]:
            """Which samples go together: by tokens, or as many at a time on every card where several must keep step."""
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            if self.accelerator.num_processes == 1:
                return list(micro_batches(lengths, self.budget_tokens))
            order, size = sorted(range(len(lengths)), key=lambda place: -lengths[place]), self.micro_batch_size
            return [order[start : start + size] for start in range(0, len(order), size)]

    return StepTrainer


def _parts(inputs: dict[str, Any], places: list[list[int]]) -> Iterator[dict[str, Any]]:
    """The rows of each micro-batch, without the padding that they do not need."""
    lengths = inputs["attention_mask"].sum(dim=1)
    for rows in places:
        longest = int(lengths[rows].max())
        yield {name: values[rows, :longest] for name, values in inputs.items()}


def _dataset(samples: Samples) -> Any:
    """The samples' numbers as a data set, which are looked up as they are asked for: TRL takes no other kind."""
    import datasets

    datasets.disable_progress_bars()

    def look_up(rows: dict[str, list[int]]) -> dict[str, list[list[int]]]:
        found = [samples[index] for index in rows["index"]]
        return {"input_ids": [sample.ids for sample in found], "labels": [sample.labels for sample in found]}

    return datasets.Dataset.from_dict({"index": range(len(samples))}).with_transform(look_up)


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


def held_out_loss(trainer: Any, samples: Samples, told: Callable[[int, int], None]) -> float:
    """Mean over all trained tokens of the samples, in nats; `told` hears of each batch.

    Trainer.evaluate averages over batches instead, which gives the tokens of short answers more weight.
    """
    import torch

    batches = list(micro_batches(samples.lengths.tolist(), trainer.budget_tokens))
    model = trainer.model
    model.eval()
    total, tokens = 0.0, 0
    for number, places in enumerate(batches, start=1):
        found = [samples[place] for place in places]
        batch = trainer.data_collator([{"input_ids": sample.ids, "labels": sample.labels} for sample in found])
        batch = {name: values.to(trainer.args.device) for name, values in batch.items()}
        count = int((batch["labels"][:, 1:] != IGNORED).sum())
        with torch.no_grad(), trainer.compute_loss_context_manager(), silence():
            total += float(model(**batch, use_cache=False).loss) * count
        tokens += count
        told(number, len(batches))
    model.train()
    return total / tokens
