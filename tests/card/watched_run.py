"""A run of `kit train` in this process, watched from inside: what no file of a run's folder tells. Prints one JSON.

python tests/card/watched_run.py WISHES OPTIONS...     options of kit train; wishes, as JSON:
    card_fails_after      in training after so many steps the card fails
    out_of_memory_after   in training after so many steps memory runs out, until nothing is left to recompute
    stop_at_evaluation    the run stops at its first evaluation
"""

import functools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from envcheck import probe
from kit import backend, train
from kit.options import resolve
from kit.support.errors import KitError


class Watching:
    """Sees the trainer as it is made, and every micro-batch that is trained."""

    def __init__(
        self,
        out_of_memory_after: int | None = None,
        card_fails_after: int | None = None,
        stop_at_evaluation: bool = False,
    ):
        self.out_of_memory_after, self.card_fails_after = out_of_memory_after, card_fails_after
        self.stop_at_evaluation = stop_at_evaluation
        self.seen: dict = {"micro_batches": [], "kept": []}
        self.make, backend.trainer = backend.trainer, self.trainer
        self.save, backend.save_state = backend.save_state, self.save_state

    def save_state(self, trainer, folder):
        self.seen["kept"].append(trainer.state.global_step)
        self.save(trainer, folder)

    def trainer(self, *arguments, **options):
        import torch

        trainer = self.make(*arguments, **options)
        settings = trainer.args
        self.seen["trainer"] = {
            "classes": [made.__name__ for made in type(trainer).__mro__],
            "padding_free": [settings.padding_free, trainer.padding_free],
            "precision": [name for name in ("bf16", "fp16") if getattr(settings, name)],
            "scaler": trainer.accelerator.scaler is not None,
        }
        self.seen["card"] = [torch.cuda.get_device_name(0), torch.cuda.device_count()]
        self.seen["base"] = trainer.model.config._name_or_path
        self.compute_loss, trainer.compute_loss = trainer.compute_loss, functools.partial(self.loss, trainer)
        return trainer

    def loss(self, trainer, model, inputs, *arguments, **options):
        import torch

        found = self.compute_loss(model, inputs, *arguments, **options)
        if torch.is_grad_enabled():
            layers = [
                part.gradient_checkpointing for part in model.modules() if hasattr(part, "gradient_checkpointing")
            ]
            done, recomputed = trainer.state.global_step, any(layers)
            self.seen["micro_batches"].append([done + 1, inputs["input_ids"].numel(), recomputed])
            if self.out_of_memory_after is not None and done >= self.out_of_memory_after and not recomputed:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if self.card_fails_after is not None and done >= self.card_fails_after:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return found

    def on_evaluation(self, step: int, loss: float) -> bool:
        return self.stop_at_evaluation


def recomputes(model) -> bool:
    """Whether any layer computes its activations anew in the backward pass."""
    return any(getattr(part, "gradient_checkpointing", False) for part in model.modules())


def main(wishes: str, *options: str) -> None:
    watching = Watching(**json.loads(wishes))
    facts = functools.cache(probe.collect)
    prepared = train.prepare(resolve.load(list(options), facts), facts())
    try:
        watching.seen["steps"] = train.train(prepared, on_evaluation=watching.on_evaluation).steps
    except KitError as error:
        watching.seen["finding"] = error.findings[0].id
    print(json.dumps(watching.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
