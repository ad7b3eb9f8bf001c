"""One optimiser step: split by tokens, done again with less when memory runs out, refused when a number is none."""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit.backend import state
from kit.backend.loading import Loaded
from kit.backend.out_of_memory import free_memory, is_out_of_memory
from kit.backend.silence import silence
from kit.backend.update import guard_update
from kit.data.batches import EpochSampler, budget_tokens, epoch_order, micro_batches
from kit.data.store import Samples
from kit.options import METHODS, Run
from kit.prompt import IGNORED
from kit.support.errors import KitError, first_line, problem

SPIKE = 1.5  # times the loss of guessing evenly among all tokens (ln of their number): no trained model is that bad
Event = Callable[..., None]  # kind, text, further facts


class Ladder:
    """What is given up, in this order, when memory runs out: never the sequence length, never a row.

    First fewer samples at once, down to one; then gradient checkpointing. Both leave the gradients as they are.
    """

    def __init__(self, loaded: Loaded, run: Run, samples: Samples, on_event: Event):
        self.loaded = loaded
        self.checkpointing = run.gradient_checkpointing
        method = METHODS[run.method]
        self.can_recompute = not method.learns_prefix
        self.virtual_tokens = run.virtual_tokens if method.learns_virtual_tokens else 0  # before each sample
        self.longest_tokens = int(samples.lengths.max()) + self.virtual_tokens
        size = min(run.micro_batch_size, run.batch_size)
        self.budget_tokens = budget_tokens(samples.lengths + self.virtual_tokens, size)
        self.on_event = on_event

    def down(self, phase: str, step: int, error: str) -> None:
        """One rung. Raises KitError on the last one."""
        if self.budget_tokens > self.longest_tokens:
            self.budget_tokens = max(self.longest_tokens, self.budget_tokens // 2)
            text = f"at most {self.budget_tokens:,} tokens at once from now on"
        elif self.checkpointing == "off" and self.can_recompute:
            self.checkpointing = "on"
            checkpoint_activations(self.loaded)
            text = "gradient checkpointing from now on"
        else:
            longest = self.longest_tokens - self.virtual_tokens
            raise KitError(_nothing_left(phase, step, longest, self.can_recompute, error))
        self.on_event(
            "out-of-memory", f"memory ran out in {phase}: {text}, the same step again", step=step, error=error
        )


def checkpoint_activations(loaded: Loaded) -> None:
    """Switch gradient checkpointing on in a model that trains without."""
    if loaded.backend.name == "unsloth":
        from unsloth import FastLanguageModel

        FastLanguageModel.for_training(loaded.model, use_gradient_checkpointing=True)
        return
    loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loaded.model.enable_input_require_grads()


def with_less(ladder: Ladder, phase: str, step: int, work: Callable[[], Any], undo: Callable[[], None]) -> Any:
    """The work's result; where memory runs out, undone, one rung down and done again. Raises KitError at the end."""
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            text = first_line(error)
        undo()  # outside of `except`: the error holds on to the tensors of the failed try
        free_memory()
        ladder.down(phase, step, text)


def trainer_class() -> Any:
    """TRL's trainer, made late: Unsloth replaces the class when it is imported."""
    from trl import SFTTrainer

    class StepTrainer(SFTTrainer):
        """Gets the samples of a whole optimiser step at once and runs them in micro-batches of at most so many tokens.

        The loss is the mean over the trained tokens of the step, however it is split.
        """

        def prepare(self, loaded: Loaded, run: Run, samples: Samples, on_event: Event) -> None:
            """What the constructor of the libraries' trainer has no place for."""
            self.run = run
            self.samples = samples
            self.ladder = Ladder(loaded, run, samples, on_event)
            self.on_event = on_event
            self.was_below_guessing = False

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            made = super().create_optimizer(*args, **kwargs)
            guard_update(made, self.on_event)
            return made

        def _get_train_sampler(self, *_: Any) -> EpochSampler:
            return EpochSampler(self.samples.lengths, self.run.batch_size, self.run.seed)

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            step = self.state.global_step + 1
            return self.step_of(model, self._prepare_inputs(inputs), num_items_in_batch, partial(self.row_of, step))

        def step_of(self, model: Any, inputs: dict[str, Any], num_items: Any, row_at: Callable[[int], int]) -> Any:
            """Loss and gradients of these samples; row_at: place among them -> data row, asked only to name it."""
            random = state.random_state()
            tokens = self._total_train_tokens

            def undo() -> None:
                model.zero_grad()
                state.set_random_state(random)
                self.forget_counts(tokens)

            def work() -> Any:
                return self._in_parts(model, inputs, num_items)

            loss = with_less(self.ladder, "training", self.state.global_step + 1, work, undo)
            wrong = self._what_is_wrong(model, loss)
            if not wrong:
                return loss
            undo()
            good = self._sound_places(model, inputs, wrong, row_at)
            left = {name: values[good] for name, values in inputs.items()}
            trained = (left["labels"][:, 1:] != IGNORED).sum()
            return self.step_of(model, left, trained, lambda place: row_at(good[place]))

        def forget_counts(self, tokens: int) -> None:
            """What TRL has counted since its last log, which is once a step."""
            self._total_train_tokens = tokens
            self._metrics["train"].clear()

        def _in_parts(self, model: Any, inputs: dict[str, Any], num_items: Any) -> Any:
            parts = list(_parts(inputs, self.places(inputs)))
            loss = 0.0
            for number, part in enumerate(parts, start=1):
                with self.accelerator.no_sync(model) if number < len(parts) else contextlib.nullcontext():
                    loss = loss + super().training_step(model, part, num_items)
            return loss

        def places(self, inputs: dict[str, Any]) -> list[list[int]]:
            """Which samples go together: by tokens, or as many at a time on every card where several must keep step."""
            lengths = (inputs["attention_mask"].sum(dim=1) + self.ladder.virtual_tokens).tolist()
            if self.accelerator.num_processes == 1:
                return list(micro_batches(lengths, self.ladder.budget_tokens))
            order, size = sorted(range(len(lengths)), key=lambda place: -lengths[place]), self.run.micro_batch_size
            return [order[start : start + size] for start in range(0, len(order), size)]

        def _what_is_wrong(self, model: Any, loss: Any) -> str:
            """Why this step must not change the weights; "" if it may."""
            value = float(loss)
            guessing = math.log(self.model.config.vocab_size)
            if not math.isfinite(value):
                return f"the loss is {value}"
            if self.was_below_guessing and value > SPIKE * guessing:
                return f"the loss jumped to {value:.2f}, above {SPIKE} x {guessing:.2f} of guessing evenly"
            self.was_below_guessing |= value < guessing
            if self.accelerator.scaler is None and not gradients_are_finite(model):
                return "a gradient is not finite"
            return ""

        def _sound_places(
            self, model: Any, inputs: dict[str, Any], wrong: str, row_at: Callable[[int], int]
        ) -> list[int]:
            """Places of the samples that are sound, for --on-nan retry. Raises KitError naming the others."""
            random = state.random_state()
            bad, layer = find_bad_samples(self, model, inputs)
            state.set_random_state(random)  # dropout has drawn from it
            step = self.state.global_step + 1
            rows = [row_at(place) for place in bad]
            self.on_event("not-finite", wrong, step=step, rows=rows, layer=layer)
            good = [place for place in range(len(inputs["labels"])) if place not in bad]
            if self.run.on_nan == "stop" or not bad or not good:
                raise KitError(_not_finite(step, wrong, rows, layer))
            return good

        def row_of(self, step: int, place: int) -> int:
            """The data row of a sample of a step: both are pure functions of seed, epoch and position."""
            lengths, size = self.samples.lengths, self.run.batch_size
            epoch, batch = divmod(step - 1, -(-len(lengths) // size))
            return int(self.samples.row[epoch_order(lengths, size, self.run.seed, epoch)[batch * size + place]])

        # the kit's own state files in place of stock ones, which change the adapter's precision

        def _load_from_checkpoint(self, folder: str, *_: Any, **__: Any) -> None:
            state.load_weights(self.model, Path(folder))

        def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
            if folder:
                state.load(self, Path(folder))

        def _load_scaler(self, folder: str | None) -> None:
            """Loaded with the optimiser."""

        def _load_rng_state(self, folder: str | None) -> None:
            if folder:
                state.load_random(Path(folder))

    return StepTrainer


def _parts(inputs: dict[str, Any], places: list[list[int]]) -> Iterator[dict[str, Any]]:
    """The rows of each micro-batch, without the padding that they do not need."""
    lengths = inputs["attention_mask"].sum(dim=1)
    for rows in places:
        longest = int(lengths[rows].max())
        yield {name: values[rows, :longest] for name, values in inputs.items()}


def gradients_are_finite(model: Any) -> bool:
    import torch

    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    return not norms or bool(torch.stack(norms).isfinite().all())


def find_bad_samples(trainer: Any, model: Any, inputs: dict[str, Any]) -> tuple[list[int], str]:
    """Places of the samples whose own loss is no number or a spike, and the first layer that gives none for them."""
    import torch

    bound = SPIKE * math.log(trainer.model.config.vocab_size)
    bad, layer = [], ""
    for place in range(len(inputs["labels"])):
        (one,) = _parts(inputs, [[place]])
        with torch.no_grad(), trainer.accelerator.autocast(), silence(), watched_layers(model) as first_bad:
            loss = float(model(**one, use_cache=False).loss)
        if not math.isfinite(loss) or (trainer.was_below_guessing and loss > bound):
            bad.append(place)
            layer = layer or next(iter(first_bad), "")
    return bad, layer


@contextlib.contextmanager
def watched_layers(model: Any) -> Iterator[list[str]]:
    """Names of the layers whose output is not finite, in the order they are computed."""
    import torch

    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(_: Any, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor) and not first.isfinite().all():
                found.append(name)

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _nothing_left(phase: str, step: int, longest_tokens: int, can_recompute: bool, error: str) -> Finding:
    return problem(
        "out-of-memory",
        f"Memory ran out in {phase} at step {step} with one sample at a time.",
        f"A single sample of {longest_tokens:,} tokens does not fit; it is never cut or dropped behind your back.",
        f"--max-length-tokens {longest_tokens * 3 // 4}",
        *(["--gradient-checkpointing unsloth"] if can_recompute else []),
        "--model with a smaller size",
        details={"torch said": error},
    )


def _not_finite(step: int, wrong: str, rows: list[int], layer: str) -> Finding:
    return problem(
        "loss-not-finite",
        f"Step {step}: {wrong}. The run stopped before the weights were changed.",
        "From there on every weight would be spoilt.",
        "--on-nan retry        (leaves these rows out and goes on)" if rows else "--precision bf16",
        "--learning-rate 5e-5",
        details={"rows": ", ".join(map(str, rows)) or "none alone", "first layer": layer or "none in the forward pass"},
    )
