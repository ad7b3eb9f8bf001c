"""The whole state of a run to files and back, bit by bit. On a CPU a resumed run has the losses of an unbroken one to
the last bit; on a card it goes on from the same state, and some kernels add in another order each time."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.backend.device import has_card
from kit.backend.loading import Loaded

if TYPE_CHECKING:
    import torch

    from kit.backend.steps import Steps

WEIGHTS, STATE, TRAINER = "trained_weights.safetensors", "state.pt", "trainer_state.json"


def save(trainer: "Steps", folder: Path) -> None:
    """Trained weights, optimiser, schedule, loss scale, random generators, position and counts."""
    import torch
    from safetensors.torch import save_file

    save_file(trained_weights(trainer.model), folder / WEIGHTS)
    scaler = trainer.accelerator.scaler
    state = {
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "random": random_state(),
        "tokens": trainer.tokens,
        "skipped_steps": trainer.skipped_steps,
        "skipped_in_a_row": trainer.skipped_in_a_row,
        "was_below_guessing": trainer.was_below_guessing,
        "budget_tokens": trainer.ladder.budget_tokens,
        "recomputes_since_a_step": trainer.ladder.recomputes_since_a_step,
    }
    torch.save(state, folder / STATE)
    trainer.state.save_to_json(str(folder / TRAINER))


def state_bytes(loaded: Loaded) -> int:
    """At most so large is one checkpoint: weights and two moments of each."""
    return 3 * sum(weight.nbytes for weight in loaded.model.parameters() if weight.requires_grad) + (1 << 20)


def trained_weights(model: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """Name -> a copy of each weight that is trained, on the CPU."""
    return {
        name: weight.detach().cpu().clone().contiguous()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def copy_to_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state on the CPU: on a card there may be no room for two of all weights' moments."""
    import torch

    def to_cpu(value: object) -> object:
        return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value

    return torch.utils._pytree.tree_map(to_cpu, state)


def load_weights(model: "torch.nn.Module", folder: Path) -> None:
    """Into the weights that are there, so that their precision stays what it is."""
    from safetensors.torch import load_file

    set_weights(model, load_file(folder / WEIGHTS))


def set_weights(model: "torch.nn.Module", saved: "dict[str, torch.Tensor]") -> None:
    """Values of `trained_weights` back into the weights that are trained."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(saved[name])


def load(trainer: "Steps", folder: Path) -> None:
    """Everything but the weights and the random generators, once the optimiser is made."""
    state = _read(folder)
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.lr_scheduler.load_state_dict(state["scheduler"])
    if state["scaler"] is not None and trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.tokens = state["tokens"]
    trainer.was_below_guessing = state["was_below_guessing"]
    # checkpoints of version 0.1 lack three of these
    trainer.skipped_steps, trainer.skipped_in_a_row = state.get("skipped_steps", 0), state.get("skipped_in_a_row", 0)
    trainer.ladder.go_on_from(state["budget_tokens"], state.get("recomputes_since_a_step", False))


def load_random(folder: Path) -> None:
    """The random generators, once all else is loaded."""
    set_random_state(_read(folder)["random"])


def _read(folder: Path) -> dict[str, Any]:
    import torch

    return torch.load(folder / STATE, map_location="cpu", weights_only=True)


def random_state() -> dict[str, Any]:
    """Of every generator that training draws from, in values that torch.load reads without running code."""
    import random

    import numpy as np
    import torch

    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype("int64")), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if has_card() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Values of `random_state` back into the generators."""
    import random

    import numpy as np
    import torch

    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype("uint32"), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and has_card():
        torch.cuda.set_rng_state_all(state["cuda"])
