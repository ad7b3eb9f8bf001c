"""However a run is told to end, it ends with what is done in its folder."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit.run import signals
from kit.run.signals import StopSignals
from tests.support.processes import LONGEST_S, ROOT

ON_POSIX = pytest.mark.skipif(sys.platform == "win32", reason="a signal that Windows does not have stands for its own")


@pytest.fixture(autouse=True)
def hears_hangup():
    """Also where nohup started these tests, and its children heard nothing of a closed terminal."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def ctrl_break(monkeypatch) -> None:
    """Ctrl-Break of Windows, by another signal."""
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)


@ON_POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"])
def test_each_asks_for_a_stop(ctrl_break, name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop.is_requested
        signal.raise_signal(number)
        assert stop.is_requested
    assert signal.getsignal(number) == before


@ON_POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGBREAK"])
def test_the_second_one_stops_at_once(ctrl_break, name: str) -> None:
    def twice() -> None:
        with StopSignals():
            signal.raise_signal(getattr(signal, name))
            signal.raise_signal(getattr(signal, name))

    with pytest.raises(KeyboardInterrupt):
        twice()


@ON_POSIX
def test_a_closed_terminal_may_be_told_twice() -> None:
    """By the kernel and by the shell."""
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop.is_requested


@ON_POSIX
def test_nohup_is_obeyed(monkeypatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_those_that_windows_has_are_enough(monkeypatch) -> None:
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    assert set(StopSignals().numbers) >= {signal.SIGINT, signal.SIGTERM}


IN_A_TERMINAL = """
import sys, time
from pathlib import Path
from kit.run.signals import StopSignals
with StopSignals() as stop:
    print("begun", flush=True)
    while not stop.is_requested:
        time.sleep(0.01)
    print("saving", flush=True)
    print("saving", file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text("whole")
"""


@ON_POSIX
def test_a_closed_terminal_ends_nothing_that_is_being_saved(tmp_path: Path) -> None:
    """It is gone, so every print is an error from then on."""
    import pty

    terminal, slave = pty.openpty()
    leads = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"  # the terminal is the child's own
    child = subprocess.Popen(
        [sys.executable, "-c", f"{leads}\n{IN_A_TERMINAL}", str(tmp_path / "saved")], cwd=ROOT,
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    assert os.read(terminal, 5) == b"begun"
    os.close(terminal)
    assert child.wait(LONGEST_S) == 0
    assert (tmp_path / "saved").read_text() == "whole"


class Console:
    """What kernel32 knows of the handlers of this process, and the calls of Windows to them."""

    def __init__(self) -> None:
        self.handlers: list = []

    def SetConsoleCtrlHandler(self, handler, is_on: bool) -> None:
        self.handlers.append(handler) if is_on else self.handlers.remove(handler)


def test_a_closed_window_asks_for_a_stop_and_waits_for_what_is_being_saved(monkeypatch) -> None:
    """Windows ends the process as soon as the handler returns."""
    windows, waited = Console(), []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=windows), raising=False)
    monkeypatch.setattr(ctypes, "WINFUNCTYPE", lambda *_: lambda function: function, raising=False)
    monkeypatch.setattr(signals.time, "sleep", lambda seconds: waited.append(stop.is_requested))
    with StopSignals() as stop:
        (handler,) = windows.handlers
        ctrl_c, ctrl_break = 0, 1
        assert not handler(ctrl_c)
        assert not handler(ctrl_break)
        assert not stop.is_requested, "those come as signals"
        assert handler(2)
        assert waited == [True], "it is asked for, and then waited"
    assert windows.handlers == []
    with StopSignals(signal.SIGINT):
        assert windows.handlers == [], "an answer in a chat is no loss"
