"""How far a run is."""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kit.run.checkpoints import About


class RunState:
    """How far a run is, and what of that ends it early: all that a resumed run gets back from its folder.

    Seconds of training leave out what is measured, answered and reported in between.
    """

    def __init__(self, steps: int, early_stopping: int):
        self.steps = steps
        self.early_stopping = early_stopping  # evaluations without a lower loss, 0: never
        self.step = self.tokens = 0
        self.kept_step = 0  # of the newest checkpoint
        self.best_loss = math.inf
        self.worse_in_a_row = 0
        self.earlier_s = 0.0
        self.start_s = time.perf_counter()

    def go_on_from(self, about: About, metrics: Iterable[dict[str, Any]]) -> None:
        """After that checkpoint; metrics: what the run wrote down until then."""
        self.step = self.kept_step = about.step
        self.tokens, self.earlier_s = about.tokens, about.elapsed_s
        for line in metrics:
            if "held_out_loss" in line:
                self.compare(line["held_out_loss"])

    def compare(self, loss: float) -> None:
        self.worse_in_a_row = 0 if loss < self.best_loss else self.worse_in_a_row + 1
        self.best_loss = min(self.best_loss, loss)

    @property
    def stopped_early(self) -> bool:
        return 0 < self.early_stopping <= self.worse_in_a_row

    @property
    def is_over(self) -> bool:
        """No step is left to do."""
        return self.step >= self.steps or self.stopped_early

    @property
    def elapsed_s(self) -> float:
        return self.earlier_s + time.perf_counter() - self.start_s

    def start_clock(self) -> None:
        self.start_s = time.perf_counter()

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        stopped_s = time.perf_counter()
        yield
        self.start_s += time.perf_counter() - stopped_s
