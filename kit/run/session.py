"""What a run works with once its model is loaded, made once and handed on as one; and how the run ended."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from kit.backend import Loaded
from kit.data import Data
from kit.options import Run
from kit.prompt import ChatFormat
from kit.run.folder import RunFolder
from kit.run.journal import Journal, Say
from kit.run.record import Result
from kit.run.run_state import RunState
from kit.support.progress import OnProgress

OnEvaluation = Callable[[int, float], bool]  # step, held-out loss in nats a token -> True: stop the run there
Status = Literal["finished", "paused", "interrupted"]


@dataclass(frozen=True)
class Session:
    """write_page: brings the report of the run up to date."""

    loaded: Loaded
    run: Run
    data: Data
    chat: ChatFormat
    folder: RunFolder
    on_progress: OnProgress
    say: Say
    write_page: Callable[[], None]
    on_evaluation: OnEvaluation | None = None

    @cached_property
    def journal(self) -> Journal:
        return Journal(self.folder, self.say)

    @cached_property
    def state(self) -> RunState:
        return RunState(self.run.steps(len(self.data.train)), self.run.early_stopping)


@dataclass(frozen=True)
class Outcome:
    """paused: the caller had it stop; interrupted: by Ctrl-C or SIGTERM. Either goes on with the same command."""

    status: Status
    result: Result
