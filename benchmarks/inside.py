"""A training looked at from inside its process: bytes loaded, bytes that autograd keeps, the peak of a card.

python -m benchmarks.inside MODEL OPTIONS GRID      prints one JSON object

OPTIONS: of kit.options.Run, as JSON. GRID: micro-batches to look at, as JSON: [[samples, tokens, checkpointing,
padded], ...]; those with checkpointing come last, as it is switched on and stays. padded: the first sample is half as
long.
"""

import gc
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from envcheck import probe
from kit import data, models, prompt
from kit.options import Run

QUANT_STATE = ("absmax", "code", "offset")


class Silent:
    """Hears of the steps and says nothing."""

    def on_begin(self) -> None: ...

    def on_step(self, *_: Any) -> None: ...

    def on_event(self, *_: Any, **__: Any) -> None: ...

    def stop_requested(self) -> bool:
        return False


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
    """Stands in the trainer's way to the loss, where model and autocast are those of a real step."""

    def __init__(self, trainer: Any, loaded: Any, grid: list[tuple[int, int, str, bool]]):
        self.trainer, self.loaded, self.grid = trainer, loaded, grid
        self.compute, trainer.compute_loss = trainer.compute_loss, self.loss
        self.rows: list[dict[str, Any]] = []
        self.calls = 0

    def loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        from kit.backend.methods import recompute_activations

        self.calls += 1
        grid = self.grid if self.calls == 2 else []  # the optimiser's states are there from the second step on
        on = False
        for samples, tokens, way, padded in grid:
            if way != "off" and not on:
                recompute_activations(self.loaded)
                on = True
            what = {"samples": samples, "tokens": tokens, "checkpointing": way, "padded": padded}
            self.rows.append(what | self.cost(model, samples, tokens, padded))
        return self.compute(model, inputs, *args, **kwargs)

    def cost(self, model: Any, samples: int, tokens: int, padded: bool) -> dict[str, Any]:
        """What autograd keeps of one micro-batch on a CPU; the peak of both passes on a card."""
        import torch

        ids = torch.randint(10, 1000, (samples, tokens), device=self.loaded.device)
        batch = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
        if padded:
            batch["attention_mask"][0, tokens // 2 :] = 0
            batch["labels"][0, tokens // 2 :] = -100
        items = torch.tensor(samples * (tokens - 1), device=self.loaded.device)
        if self.loaded.device == "cuda":
            return self.peak(model, batch, items)
        own = storages(tensor for weight in model.parameters() for tensor in tensors_of(weight))
        kept: dict[int, int] = {}

        def pack(tensor: Any) -> Any:
            kept.update(storages([tensor]))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.compute(model, batch, num_items_in_batch=items)
        del loss
        return {"saved_bytes": sum(size for address, size in kept.items() if address not in own)}

    def peak(self, model: Any, batch: Any, items: Any) -> dict[str, Any]:
        import torch

        model.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            self.compute(model, batch, num_items_in_batch=items).backward()
        except torch.cuda.OutOfMemoryError:
            return {"out_of_memory": True}
        finally:
            model.zero_grad()
        peak = torch.cuda.max_memory_reserved()
        return {"peak_bytes": peak, "allocated_bytes": torch.cuda.max_memory_allocated()}


def look(folder: str, options: dict[str, Any], grid: list[tuple[int, int, str, bool]], scratch: Path) -> dict[str, Any]:
    """Two steps of the kit's own trainer, and within the second one the grid."""
    from kit import backend

    run = Run(**{"data": "examples/identity.jsonl", "max_steps": 2, "micro_batch_size": 1, "batch_size": 1, **options})
    model = models.find(folder)
    chat = prompt.load(model, "auto")
    rows = data.read(run, chat)
    loading = backend.Loading.of(run, probe.collect())
    chosen = backend.start(loading)
    loaded = backend.adapt(backend.load(model, loading, chosen, chat), run)
    trainer = backend.trainer(loaded, run, rows.train, scratch, Silent())

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
    looked = Look(trainer, loaded, grid)
    trainer.train()
    states = trainer.optimizer.state_dict()["state"].values()
    return {
        "weights": base,
        "adapter": total(weight for weight in loaded.model.parameters() if weight.requires_grad),
        "gradients": gradients[-1],
        "optimizer": total(value for state in states for value in state.values() if isinstance(value, torch.Tensor)),
        "grid": looked.rows,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(look(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), Path(scratch))))
