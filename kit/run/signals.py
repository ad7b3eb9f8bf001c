"""Ctrl-C and every other way of being told to end, so that a step or an answer is never left half done."""

import contextlib
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

# Ctrl-C, kill, Ctrl-Break of Windows, and a terminal that is closed; each where the system has it
NAMES = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")
HANG_UP = getattr(signal, "SIGHUP", None)
WINDOW_EVENTS = (2, 5, 6)  # the console window is closed, the user logs off, the machine shuts down
LONGEST_WAIT_S = 20  # after such an event Windows ends the process by itself, five seconds later most often


class StopSignals:
    """While inside, the first one only asks for a stop, so that all is whole; the second one stops at once."""

    def __init__(self, *numbers: signal.Signals):
        """numbers: the signals; all of NAMES, and the closing of the window, by default."""
        self.closing = None if numbers else WindowClosing(self._request)
        self.numbers = numbers or tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
        self.is_requested = False
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in self.numbers:
            if number != HANG_UP or signal.getsignal(number) != signal.SIG_IGN:  # of `nohup`, which means it
                self.before[number] = signal.signal(number, self._on_signal)
        if self.closing:
            self.closing.listen(True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.closing:
            self.closing.listen(False)
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _request(self) -> None:
        self.is_requested = True

    def _on_signal(self, number: int, _: object) -> None:
        if number == HANG_UP:  # comes of the kernel and of the shell, so twice
            _leave_lost_terminal()
        elif self.is_requested:
            raise KeyboardInterrupt
        self._request()


def _leave_lost_terminal() -> None:
    """What is printed goes nowhere from now on: an error of printing must not end what is being saved."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no such stream, or not the system's
            number = stream.fileno()
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


class WindowClosing:
    """Windows tells a console program that its window is closed, and ends it as soon as it has heard. So the handler,
    which Windows calls in a thread of its own, asks for the stop and does not return while the program still saves."""

    def __init__(self, on_close: Callable[[], None]):
        self.on_close = on_close
        self.routine: Any = None  # as Windows calls it; must live as long as it is known there

    def listen(self, is_on: bool) -> None:
        if sys.platform != "win32":
            return
        import ctypes

        self.routine = self.routine or ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(self.handle)
        ctypes.windll.kernel32.SetConsoleCtrlHandler(self.routine, is_on)

    def handle(self, event: int) -> bool:
        """Whether the event is dealt with; Ctrl-C and Ctrl-Break are not: they come as signals too."""
        if event not in WINDOW_EVENTS:
            return False
        self.on_close()
        time.sleep(LONGEST_WAIT_S)
        return True
