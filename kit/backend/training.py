"""TRL's trainer over samples that are tokenised and masked already, and the loss on held-out ones."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kit.backend import state
from kit.backend.device_memory import peak_memory_bytes, unheld_card_bytes
from kit.backend.listener import Listener, OnEvent, add_listener
from kit.backend.loading import Loaded
from kit.backend.precision import torch_dtype
from kit.backend.silence import silence
from kit.backend.steps import MOST_SKIPPED, Batch, Steps, trainer_class
from kit.backend.tracking import add_tracker
from kit.data.batches import micro_batches
from kit.data.store import Samples
from kit.memory import evaluation_tokens
from kit.options import Run
from kit.prompt import IGNORED, Sample
from kit.support.errors import KitError, failure

if TYPE_CHECKING:
    import datasets
    import torch


def trainer(loaded: Loaded, run: Run, train: Samples, scratch: Path, on_event: OnEvent) -> Steps:
    """TRL's SFTTrainer over samples that are tokenised and masked already; see `listen` for who hears of its steps."""
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
        padding_free=False,  # a batch has a mask; left open, Unsloth decides by the machine and reads every row for it
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="no",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",  # a tracker is added below, where its errors end nothing
        run_name=(run.output or scratch.parent).name,
        project="kit",
        disable_tqdm=True,
        dataloader_pin_memory=run.pin_memory == "on",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # of several cards transformers would use all, with as many batches
    with silence():
        step_trainer = trainer_class()(
            model=loaded.model,
            processing_class=loaded.tokenizer,
            args=arguments,
            train_dataset=_dataset(train),
        )
    _check_mask(step_trainer)
    step_trainer.prepare(loaded, run, train, on_event)
    _set_adapter_precision(loaded.model, run.adapter_precision)
    return step_trainer


def listen(trainer: Steps, listener: Listener) -> None:
    """The listener hears of every optimiser step, and after it the tracker that the run names."""
    add_listener(trainer, listener)
    if trainer.run.report_to != "none":
        add_tracker(trainer, trainer.run.report_to, trainer.on_event)


def _check_mask(trainer: Steps) -> None:
    """Raises KitError: a library made batches of one long row after all, which have no mask to count and split by."""
    if trainer.padding_free or trainer.args.padding_free:
        raise failure(
            "batches-without-mask",
            "The trainer would lay the samples of a batch in one row, without a mask.",
            "It was asked not to, and steps are split and counted by that mask: another version of Unsloth or TRL than "
            "this kit was made with.",
            "python -m envcheck           (says which versions belong together)",
            "--backend hf                 (plain transformers and PEFT)",
        )


def _set_adapter_precision(model: "torch.nn.Module", precision: str) -> None:
    """TRL casts the adapter of a quantised model to bf16 when it is made, but loads it in fp32 on resume; here it is an
    option that holds throughout. In bf16 an update below 1/256 of a weight is lost."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch_dtype(precision))


def _dataset(samples: Samples) -> "datasets.Dataset":
    """The samples' numbers as a data set, which are looked up as they are asked for: TRL takes no other kind."""
    import datasets

    datasets.disable_progress_bars()

    def look_up(rows: dict[str, list[int]]) -> dict[str, list[list[int]]]:
        examples = [training_example(samples[index]) for index in rows["index"]]
        return {name: [example[name] for example in examples] for name in ("input_ids", "labels")}

    return datasets.Dataset.from_dict({"index": range(len(samples))}).with_transform(look_up)


def training_example(sample: Sample) -> dict[str, list[int]]:
    """As the collator takes it. Nothing stands before the first token, so it is never trained; virtual tokens would
    stand there, and the loss would have one token more than is counted."""
    return {"input_ids": sample.ids, "labels": [IGNORED, *sample.labels[1:]]}


@dataclass(frozen=True)
class Preflight:
    """The worst that the run will do, done once before its first step. beside_bytes: of the card, what was then left
    for other programs; None on a CPU."""

    samples: int
    tokens: int
    tokens_per_s: float
    peak_memory_bytes: int
    beside_bytes: int | None


def preflight(trainer: Steps, held_out: Samples) -> Preflight:
    """The longest samples forward, backward and through the optimiser, and the longest ones to measure on; then the
    weights, the optimiser, the random generators and the counts are what they were before, bit by bit.

    Where memory runs out the trainer goes down its ladder. Raises KitError where that ends.
    """
    model, device = trainer.model_wrapped, trainer.ladder.loaded.device
    undo = _undo(trainer)
    lengths = trainer.samples.lengths

    def work() -> tuple[int, int, float]:
        together = max(1, trainer.ladder.budget_tokens // trainer.ladder.longest_tokens)
        worst = trainer.samples.take((-lengths).argsort(kind="stable")[:together])
        batch = collate(trainer, worst)
        trained = (batch["labels"][:, 1:] != IGNORED).sum()
        for _ in range(MOST_SKIPPED):
            scale = trainer.loss_scale()
            trainer.run_step(model, batch, trained, worst.row.__getitem__)
            trainer.optimizer.step()
            if trainer.loss_scale() >= scale:
                break
            trainer.optimizer.zero_grad()  # fp16 at a smaller loss scale: without a step no optimiser state is there
        start_s = time.perf_counter()
        trainer.run_step(model, batch, trained, worst.row.__getitem__)
        seconds = time.perf_counter() - start_s
        if len(held_out):
            longest = held_out.take((-held_out.lengths).argsort(kind="stable")[:together])
            held_out_loss(trainer, longest, lambda *_: None)
        return len(worst), int(worst.lengths.sum()), seconds

    try:
        samples, tokens, seconds = trainer.ladder.retry("the preflight", 0, work, undo)
        beside_bytes = unheld_card_bytes(device)
    except KitError:
        undo()
        raise
    undo()
    return Preflight(samples, tokens, tokens / seconds, peak_memory_bytes(device), beside_bytes)


def _undo(trainer: Steps) -> Callable[[], None]:
    """A function that brings everything that training changes back to what it is now."""
    weights, random = state.trained_weights(trainer.model), state.random_state()
    optimizer = state.copy_to_cpu(trainer.optimizer.state_dict())
    scaler = trainer.accelerator.scaler
    scale = copy.deepcopy(scaler.state_dict()) if scaler is not None else None
    tokens, below = trainer.tokens, trainer.was_below_guessing

    def undo() -> None:
        state.set_weights(trainer.model, weights)
        trainer.optimizer.zero_grad()
        if optimizer["state"]:
            trainer.optimizer.load_state_dict(optimizer)
        else:
            trainer.optimizer.optimizer.state.clear()
        if scale is not None:
            scaler.load_state_dict(scale)
        state.set_random_state(random)
        trainer.forget_figures()
        trainer.tokens, trainer.was_below_guessing = tokens, below

    return undo


def collate(trainer: Steps, samples: Samples) -> Batch:
    """The samples as one batch, on the trainer's device: each tensor (samples, tokens), padded to the longest."""
    batch = trainer.data_collator([training_example(samples[index]) for index in range(len(samples))])
    return {name: values.to(trainer.args.device) for name, values in batch.items()}


def held_out_loss(trainer: Steps, samples: Samples, on_batch: Callable[[int, int], None]) -> float:
    """Mean over all trained tokens of the samples, in nats; on_batch: called with the number of each batch that is
    done, and that of all.

    Trainer.evaluate averages over batches instead, which gives the tokens of short answers more weight.
    """
    import torch

    model, lengths = trainer.model, (samples.lengths + trainer.ladder.virtual_tokens).tolist()
    most = evaluation_tokens(model.config.vocab_size, trainer.run)

    def batch_loss(indices: list[int]) -> tuple[float, int]:
        batch = collate(trainer, samples.take(indices))
        count = int((batch["labels"][:, 1:] != IGNORED).sum())
        with torch.no_grad(), trainer.accelerator.autocast(), silence():
            return float(model(**batch, use_cache=False).loss) * count, count

    def work() -> float:
        together = min(trainer.ladder.budget_tokens, most or trainer.ladder.budget_tokens)
        batches = list(micro_batches(lengths, together))
        total, tokens = 0.0, 0
        for number, indices in enumerate(batches, start=1):
            loss, count = batch_loss(indices)
            total, tokens = total + loss, tokens + count
            on_batch(number, len(batches))
        return total / tokens

    model.eval()
    try:
        return trainer.ladder.retry("the evaluation", trainer.state.global_step, work, lambda: None)
    finally:
        model.train()
