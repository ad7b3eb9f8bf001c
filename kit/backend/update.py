"""The optimiser's own step where memory runs out in it: done again if nothing was changed yet, else said so."""

from types import MethodType
from typing import TYPE_CHECKING, Any

from envcheck.facts import Finding
from kit.backend.device_errors import is_out_of_memory
from kit.backend.device_memory import free_memory
from kit.backend.listener import OnEvent
from kit.support.errors import KitError, first_line, problem

if TYPE_CHECKING:
    from torch.optim import Optimizer


class UpdateCutShort(KitError):
    """The weights are those of no step: nothing of this state may be kept."""


def guard_update(optimizer: "Optimizer", on_event: OnEvent) -> None:
    """Give this optimiser a step that is tried twice. Raises UpdateCutShort: some weights are changed, others not."""
    plain = optimizer.step

    def step(_: Any, *args: Any, **kwargs: Any) -> Any:
        before = _changes(optimizer)
        try:
            return plain(*args, **kwargs)
        except Exception as error:  # of any kind: see device_errors
            if not is_out_of_memory(error):
                raise
            text = first_line(error)
        free_memory()
        if _changes(optimizer) != before:
            raise UpdateCutShort(_cut_short(text))
        on_event(
            "out-of-memory", "memory ran out in the optimiser's step: memory freed, the same step again", error=text
        )
        return plain(*args, **kwargs)

    optimizer.step = MethodType(step, optimizer)  # type: ignore[method-assign] # torch's schedulers ask for a method


def _changes(optimizer: "Optimizer") -> list[tuple[int, int]]:
    """How often each weight and its count of steps were changed: equal lists, nothing was done in between.

    bitsandbytes writes weights without torch's knowledge, but counts the step first.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    counts = [optimizer.state[weight].get("step", 0) if weight in optimizer.state else 0 for weight in weights]
    return [(weight._version, getattr(count, "_version", count)) for weight, count in zip(weights, counts, strict=True)]


def _cut_short(error: str) -> Finding:
    return problem(
        "update-cut-short",
        "Memory ran out while the weights were being changed; this state is not kept.",
        "Some weights have taken the step and others have not.",
        "the same command again: it goes on from the newest checkpoint",
        "--optimizer paged_adamw_8bit        (its states can move to main memory)",
        details={"torch said": error},
    )
