"""What is given up when memory runs out, and work that is done again with less."""

from collections.abc import Callable
from typing import TypeVar

from kit.backend.device_errors import is_out_of_memory
from kit.backend.device_memory import free_memory
from kit.backend.listener import OnEvent
from kit.backend.loading import Loaded
from kit.backend.methods import recompute_activations
from kit.data.batches import budget_tokens
from kit.data.store import Samples
from kit.options import METHODS, Run
from kit.support.errors import KitError, failure, first_line

T = TypeVar("T")


class Ladder:
    """What is given up, in this order, when memory runs out: never the sequence length, never a row.

    First fewer samples at once, down to one; then gradient checkpointing. Both leave the gradients as they are.
    """

    def __init__(self, loaded: Loaded, run: Run, samples: Samples, on_event: OnEvent):
        self.loaded = loaded
        self.checkpointing = run.gradient_checkpointing
        self.recomputes_since_a_step = False  # checkpointing is on because memory ran out
        method = METHODS[run.method]
        self.can_recompute = not method.learns_prefix
        self.virtual_tokens = run.virtual_tokens if method.learns_virtual_tokens else 0  # before each sample
        self.longest_tokens = int(samples.lengths.max()) + self.virtual_tokens
        size = min(int(run.micro_batch_size), run.batch_size)
        self.budget_tokens = budget_tokens(samples.lengths + self.virtual_tokens, size)
        self.on_event = on_event

    def retry(self, phase: str, step: int, work: Callable[[], T], undo: Callable[[], None]) -> T:
        """The work's result; where memory runs out: undone, one rung down and done again.

        Raises KitError: memory ran out on the last rung.
        """
        while True:
            try:
                return work()
            except Exception as error:  # of any kind: see device_errors
                if not is_out_of_memory(error):
                    raise
                text = first_line(error)
            undo()  # outside of `except`: the error holds on to the tensors of the failed try
            free_memory()
            self.step_down(phase, step, text)

    def step_down(self, phase: str, step: int, error: str) -> None:
        """One rung. Raises KitError on the last one."""
        if self.budget_tokens > self.longest_tokens:
            self.budget_tokens = max(self.longest_tokens, self.budget_tokens // 2)
            text = f"at most {self.budget_tokens:,} tokens at once from now on"
        elif self.checkpointing == "off" and self.can_recompute:
            self._recompute()
            text = "gradient checkpointing from now on"
        else:
            longest = self.longest_tokens - self.virtual_tokens
            raise _nothing_left(phase, step, longest, self.can_recompute, error)
        self.on_event(
            "out-of-memory", f"memory ran out in {phase}: {text}, the same step again", step=step, error=error
        )

    def _recompute(self) -> None:
        self.checkpointing, self.recomputes_since_a_step = "on", True
        recompute_activations(self.loaded)

    def go_on_from(self, budget_tokens: int, recomputes: bool) -> None:
        """On the rungs of an earlier process of this run: what did not fit then does not fit now."""
        self.budget_tokens = min(self.budget_tokens, budget_tokens)
        if recomputes and self.checkpointing == "off":
            self._recompute()
            text = "gradient checkpointing stays on: memory ran out without it earlier in this run"
            self.on_event("checkpointing-stays-on", text)


def _nothing_left(phase: str, step: int, longest_tokens: int, can_recompute: bool, error: str) -> KitError:
    return failure(
        "out-of-memory",
        f"Memory ran out in {phase} at step {step} with one sample at a time.",
        f"A single sample of {longest_tokens:,} tokens does not fit; it is never cut or dropped behind your back.",
        f"--max-length-tokens {longest_tokens * 3 // 4}",
        *(["--gradient-checkpointing unsloth"] if can_recompute else []),
        "--model with a smaller size",
        details={"torch said": error},
    )
