"""One optimiser step: split by tokens, done again with less when memory runs out, refused when it is not finite."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kit.backend import state
from kit.backend.ladder import Ladder
from kit.backend.listener import OnEvent
from kit.backend.loading import Loaded
from kit.backend.silence import silence
from kit.backend.update import guard_update
from kit.data.batches import EpochSampler, epoch_order, micro_batches
from kit.data.store import Samples
from kit.options import Run
from kit.prompt import IGNORED
from kit.support.environment import LAYERS_COMPILED
from kit.support.errors import KitError, failure

if TYPE_CHECKING:
    import torch
    from accelerate.optimizer import AcceleratedOptimizer
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR
    from torch.utils.data import Sampler
    from trl import SFTTrainer

    from kit.backend.loading import CausalModel
else:
    SFTTrainer = object  # `trainer_class` puts the real one below

MOST_SKIPPED = 20  # optimiser steps in a row: halved as often, the loss scale of fp16 is below 1
SPIKE = 1.5  # times the loss of guessing evenly among all tokens (ln of their number): no trained model is that bad

Batch = dict[str, "torch.Tensor"]  # input_ids, labels, attention_mask: each (samples, tokens), padded to the longest
DataRow = Callable[[int], int]  # index of a sample in its batch -> its row in the data, asked only to name it


def trainer_class() -> "type[Steps]":
    """TRL's trainer with the kit's steps. Made late: Unsloth replaces TRL's class when it is imported."""
    from trl import SFTTrainer

    return type("StepTrainer", (Steps, SFTTrainer), {})


class Steps(SFTTrainer):
    """Gets the samples of a whole optimiser step at once and runs them in micro-batches of at most so many tokens.

    The loss is the mean over the trained tokens of the step, however it is split.
    """

    model: "CausalModel"  # these are there before the first step, and then not None
    optimizer: "AcceleratedOptimizer"
    lr_scheduler: "LambdaLR"

    def prepare(self, loaded: Loaded, run: Run, samples: Samples, on_event: OnEvent) -> None:
        """What the constructor of the libraries' trainer has no place for."""
        self.run = run
        self.samples = samples
        self.ladder = Ladder(loaded, run, samples, on_event)
        self.on_event = on_event
        self.guessing_loss = math.log(loaded.model.config.vocab_size)
        self.was_below_guessing = False
        self.tokens = 0  # of the samples trained so far, without padding
        self.skipped_steps = 0  # optimiser steps that the loss scale of fp16 left out
        self.skipped_in_a_row = 0  # the newest of them
        self.scale_before = 1.0  # the loss scale of the step that is under way

    def create_optimizer(self, *args: Any, **kwargs: Any) -> "Optimizer":
        optimizer = super().create_optimizer(*args, **kwargs)
        guard_update(optimizer, self.on_event)
        return optimizer

    def _get_train_sampler(self, *_: Any) -> "Sampler[int]":
        # torch's data loader takes whatever has a length and can be iterated
        return cast("Sampler[int]", EpochSampler(self.samples.lengths, self.run.batch_size, self.run.seed))

    def training_step(
        self, model: "torch.nn.Module", inputs: Batch, num_items_in_batch: "torch.Tensor | int | None" = None
    ) -> "torch.Tensor":
        """Loss of the step, its gradients left in the weights. Raises KitError: see run_step."""
        self.scale_before = self.loss_scale()
        data_row = partial(self.data_row, self.state.global_step + 1)
        return self.run_step(model, self._prepare_inputs(inputs), num_items_in_batch, data_row)

    def run_step(
        self, model: "torch.nn.Module", batch: Batch, num_items: "torch.Tensor | int | None", data_row: DataRow
    ) -> "torch.Tensor":
        """Loss and gradients of these samples, without those that --on-nan retry leaves out. num_items: trained tokens.

        Raises KitError: memory ran out with one sample at a time; a loss or gradient that is not finite, or a spike.
        """
        random = state.random_state()

        def undo() -> None:
            model.zero_grad()
            state.set_random_state(random)
            self.forget_figures()

        def work() -> "torch.Tensor":
            return self._run_micro_batches(model, batch, num_items)

        loss = self.ladder.retry("training", self.state.global_step + 1, work, undo)
        trouble = self._trouble_of(model, loss)
        if not trouble:
            self.tokens += int(self.accelerator.gather(batch["attention_mask"].sum()).sum())
            return loss
        undo()
        good = self._good_samples(model, batch, trouble, data_row)
        rest = {name: values[good] for name, values in batch.items()}
        trained = (rest["labels"][:, 1:] != IGNORED).sum()
        return self.run_step(model, rest, trained, lambda index: data_row(good[index]))

    def forget_figures(self) -> None:
        """Those of a try that is undone, of which TRL would tell a tracker the mean."""
        self._metrics["train"].clear()

    def loss_scale(self) -> float:
        """Of fp16; 1 where losses are not scaled."""
        scaler = self.accelerator.scaler
        return float(scaler.get_scale()) if scaler is not None else 1.0

    def count_update(self) -> None:
        """After each optimiser step. A few are skipped as the loss scale finds its size: it is halved then, which tells
        more than accelerate, as torch's fused optimisers skip inside of their step."""
        is_skipped = self.loss_scale() < self.scale_before
        self.skipped_steps += is_skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_skipped else 0

    def check_updates(self) -> None:
        """How many were skipped, said after the last one. Raises KitError: many in a row, or all there are."""
        if self.skipped_steps and self.state.global_step == self.state.max_steps:
            text = (
                f"{self.skipped_steps} of {self.state.max_steps} steps changed nothing: fp16's loss scale was too large"
            )
            self.on_event("steps-skipped", text, steps=self.skipped_steps)
        if self.skipped_in_a_row >= min(MOST_SKIPPED, self.state.max_steps):
            raise _all_skipped(self.state.global_step, self.skipped_in_a_row, self.loss_scale())

    def _run_micro_batches(
        self, model: "torch.nn.Module", batch: Batch, num_items: "torch.Tensor | int | None"
    ) -> "torch.Tensor":
        parts = list(_parts(batch, self.split(batch)))
        loss: Any = 0.0
        for number, part in enumerate(parts, start=1):
            with self.accelerator.no_sync(model) if number < len(parts) else contextlib.nullcontext():
                loss = loss + super().training_step(model, part, num_items)
        return loss

    def split(self, batch: Batch) -> list[list[int]]:
        """Indices of the samples that go together: by tokens, or as many at a time on every card where several must
        keep step."""
        lengths = (batch["attention_mask"].sum(dim=1) + self.ladder.virtual_tokens).tolist()
        if self.accelerator.num_processes == 1:
            return list(micro_batches(lengths, self.ladder.budget_tokens))
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        size = int(self.run.micro_batch_size)
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _trouble_of(self, model: "torch.nn.Module", loss: "torch.Tensor") -> str:
        """Why this step must not change the weights; "" if it may."""
        value = float(loss)
        if not math.isfinite(value):
            return f"the loss is {value}"
        if self.is_spike(value):
            return f"the loss jumped to {value:.2f}, above {SPIKE} x {self.guessing_loss:.2f} of guessing evenly"
        self.was_below_guessing |= value < self.guessing_loss
        if self.accelerator.scaler is None and not gradients_are_finite(model):
            return "a gradient is not finite"
        return ""

    def is_spike(self, loss: float) -> bool:
        """A loss that no trained model has, in a run that was better before."""
        return self.was_below_guessing and loss > SPIKE * self.guessing_loss

    def _good_samples(self, model: "torch.nn.Module", batch: Batch, trouble: str, data_row: DataRow) -> list[int]:
        """Indices of the samples that --on-nan retry goes on with. Raises KitError naming the others."""
        random = state.random_state()
        bad, layer = find_bad_samples(self, model, batch)
        state.set_random_state(random)  # dropout has drawn from it
        step = self.state.global_step + 1
        rows = [data_row(index) for index in bad]
        self.on_event("not-finite", trouble, step=step, rows=rows, layer=layer)
        good = [index for index in range(len(batch["labels"])) if index not in bad]
        if self.run.on_nan == "stop" or not bad or not good:
            raise _not_finite(step, trouble, rows, layer)
        return good

    def data_row(self, step: int, index: int) -> int:
        """The data row of a sample of a step: both are pure functions of seed, epoch and position."""
        lengths, size = self.samples.lengths, self.run.batch_size
        epoch, batch = divmod(step - 1, -(-len(lengths) // size))
        return int(self.samples.row[epoch_order(lengths, size, self.run.seed, epoch)[batch * size + index]])

    # the kit's own state files in place of stock ones, which change the adapter's precision

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: "torch.nn.Module | None" = None) -> None:
        state.load_weights(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            state.load(self, Path(checkpoint))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Loaded with the optimiser."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint:
            state.load_random(Path(checkpoint))


def _parts(batch: Batch, together: list[list[int]]) -> Iterator[Batch]:
    """Each micro-batch of these indices, without the padding that its samples do not need."""
    lengths = batch["attention_mask"].sum(dim=1)
    for indices in together:
        longest = int(lengths[indices].max())
        yield {name: values[indices, :longest] for name, values in batch.items()}


def gradients_are_finite(model: "torch.nn.Module") -> bool:
    """Told by the norms: one number a tensor."""
    import torch

    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    return not norms or bool(torch.stack(norms).isfinite().all())


def find_bad_samples(trainer: Steps, model: "torch.nn.Module", batch: Batch) -> tuple[list[int], str]:
    """Indices of the samples whose own loss is not finite or a spike, and the first layer that is not finite for
    them."""
    import torch

    bad, layer, autocast = [], "", trainer.accelerator.autocast
    for index in range(len(batch["labels"])):
        (alone,) = _parts(batch, [[index]])
        with _not_compiled(), watch_layers(model) as not_finite, autocast(), torch.no_grad(), silence():
            loss = float(model(**alone, use_cache=False).loss)
        if not math.isfinite(loss) or trainer.is_spike(loss):
            bad.append(index)
            layer = layer or next(iter(not_finite), "")
    return bad, layer


@contextlib.contextmanager
def _not_compiled() -> Iterator[None]:
    """Unsloth asks for the variable at each call. A hook that looks at numbers would end the compiling of its layers
    for the rest of the process, and the run go on in another arithmetic."""
    before = os.environ[LAYERS_COMPILED]
    os.environ[LAYERS_COMPILED] = "0"
    try:
        yield
    finally:
        os.environ[LAYERS_COMPILED] = before


@contextlib.contextmanager
def watch_layers(model: "torch.nn.Module") -> Iterator[list[str]]:
    """Names of the layers whose output is not finite, in the order they are computed."""
    import torch

    names: list[str] = []

    def check(name: str, _: Any, __: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, torch.Tensor) and not first.isfinite().all():
            names.append(name)

    hooks = [module.register_forward_hook(partial(check, name)) for name, module in model.named_modules()]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def _not_finite(step: int, trouble: str, rows: list[int], layer: str) -> KitError:
    return failure(
        "loss-not-finite",
        f"Step {step}: {trouble}. The run stopped before the weights were changed.",
        "From there on every weight would be spoilt.",
        "--on-nan retry        (leaves these rows out and goes on)" if rows else "--precision bf16",
        "--learning-rate 5e-5",
        details={"rows": ", ".join(map(str, rows)) or "none alone", "first layer": layer or "none in the forward pass"},
    )


def _all_skipped(step: int, steps: int, scale: float) -> KitError:
    return failure(
        "loss-not-finite",
        f"Step {step}: the last {steps} optimiser steps were skipped; nothing is being trained.",
        f"In fp16 a gradient was beyond the largest number in each of them, also at a loss scale of {scale:g}.",
        "--precision bf16             (cards from the RTX 30 series on)",
        "--precision fp32",
        "--learning-rate 5e-5",
    )
