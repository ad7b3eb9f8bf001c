"""Ctrl-C and SIGTERM, so that a step or an answer is never left half done."""

import signal
from typing import Any


class StopSignals:
    """While inside, the first one only asks for a stop, so that all is whole; the second one stops at once."""

    def __init__(self, *numbers: signal.Signals):
        """numbers: the signals; Ctrl-C and SIGTERM by default."""
        self.numbers = numbers or (signal.SIGINT, signal.SIGTERM)
        self.is_requested = False
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        self.before = {number: signal.signal(number, self._on_signal) for number in self.numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
