"""A training looked at from inside its process: bytes loaded, bytes that autograd keeps.

python -m benchmarks.inside MODEL OPTIONS GRID      prints one JSON object

OPTIONS: of kit.options.Run, as JSON. GRID: micro-batches to look at, as JSON: [[samples, tokens, checkpointing,
padded], ...]; those with checkpointing come last, as it is switched on and stays. padded: the first sample is half as
long.
"""

import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from envcheck import probe
from kit import data, models, prompt
from kit.options import Run

QUANT_STATE = ("absmax", "code", "offset")
Work = Callable[["Look", Any], list[dict[str, Any]]]


def storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Address -> bytes of each storage: views of one tensor count once."""
    found = ((tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()) for tensor in tensors)
    return {address: count_bytes for address, count_bytes in found if count_bytes}


def tensors_of(weight: Any) -> list[Any]:
    """The weight and, where it is quantised, its scales and tables."""
    states = [state for state in (getattr(weight, "quant_state", None),) if state is not None]
    states += [state.state2 for state in states if state.state2 is not None]
    tables = [getattr(state, name) for state in states for name in QUANT_STATE]
    return [weight, *(table for table in tables if table is not None)]


def total(tensors: Iterable[Any]) -> int:
    return sum(storages(tensors).values())


class Look:
    """Stands in the trainer's way to the loss, where model and autocast are those of a real step: in the second step,
    when the optimiser's states are there, `work` is called with this and the model."""

    def __init__(self, trainer: Any, loaded: Any, work: Work):
        self.loaded, self.work, self.found = loaded, work, None
        self.compute, trainer.compute_loss = trainer.compute_loss, self.loss
        self.calls = 0

    def loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == 2:
            self.found = self.work(self, model)
        return self.compute(model, inputs, *args, **kwargs)

    def batch(self, samples: int, tokens: int, padded: bool) -> tuple[dict[str, Any], Any]:
        """Random ids and how many of them are trained; padded: the first sample is half as long."""
        import torch

        ids = torch.randint(10, 1000, (samples, tokens), device=self.loaded.device)
        made = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
        if padded:
            made["attention_mask"][0, tokens // 2 :] = 0
            made["labels"][0, tokens // 2 :] = -100
        return made, torch.tensor(samples * (tokens - 1), device=self.loaded.device)

    def saved_bytes(self, model: Any, samples: int, tokens: int, padded: bool) -> int:
        """What autograd keeps of one micro-batch, but for the model's own weights."""
        import torch

        batch, items = self.batch(samples, tokens, padded)
        own = storages(tensor for weight in model.parameters() for tensor in tensors_of(weight))
        kept: dict[int, int] = {}

        def pack(tensor: Any) -> Any:
            kept.update(storages([tensor]))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.compute(model, batch, num_items_in_batch=items)
        del loss
        return sum(size for address, size in kept.items() if address not in own)


def saved_by(grid: list[tuple[int, int, str, bool]], looked: Look, model: Any) -> list[dict[str, Any]]:
    """Bytes that autograd keeps of each micro-batch of the grid."""
    from kit.backend.methods import recompute_activations

    rows: list[dict[str, Any]] = []
    on = False
    for samples, tokens, way, padded in grid:
        if way != "off" and not on:
            recompute_activations(looked.loaded)
            on = True
        what = {"samples": samples, "tokens": tokens, "checkpointing": way, "padded": padded}
        rows.append(what | {"saved_bytes": looked.saved_bytes(model, samples, tokens, padded)})
    return rows


def look(folder: str, options: dict[str, Any], work: Work, scratch: Path) -> dict[str, Any]:
    """Two steps of the kit's own trainer, and within the second one the work, whose result is the grid."""
    from kit import backend

    run = Run(**{"data": "examples/identity.jsonl", "max_steps": 2, "micro_batch_size": 1, "batch_size": 1, **options})
    model = models.find(folder)
    chat = prompt.load(model, "auto")
    rows = data.read(run, chat)
    loading = backend.Loading.of(run, probe.collect())
    chosen = backend.start(loading)
    loaded = backend.adapt(backend.load(model, loading, chosen, chat), run)
    trainer = backend.trainer(loaded, run, rows.train, scratch, lambda *_, **__: None)

    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    gradients: list[int] = []
    register_optimizer_step_pre_hook(
        lambda optimizer, *_: gradients.append(
            total(
                weight.grad for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None
            )
        )
    )
    base = total(t for w in loaded.model.parameters() if not w.requires_grad for t in tensors_of(w))
    looked = Look(trainer, loaded, work)
    trainer.train()
    states = trainer.optimizer.state.values()  # of state_dict() those of 8 bit are folded up
    return {
        "weights": base,
        "adapter": total(weight for weight in loaded.model.parameters() if weight.requires_grad),
        "gradients": gradients[-1],
        "optimizer": total(value for state in states for value in state.values() if isinstance(value, torch.Tensor)),
        "grid": looked.found,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        work = functools.partial(saved_by, json.loads(sys.argv[3]))
        print(json.dumps(look(sys.argv[1], json.loads(sys.argv[2]), work, Path(scratch))))
