"""A server in a process of its own, on this machine only, for as long as it is asked."""

import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

END_S = 20.0


class NotStarted(Exception):
    """lines: what it said, without empty ones. status: of its end; None: it goes on, and does not answer."""

    def __init__(self, lines: list[str], status: int | None):
        super().__init__(lines, status)
        self.lines, self.status = lines, status


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(command: Sequence[str], asked: str, ready_s: float) -> Iterator[None]:
    """Inside, the server of this command answers; it is ready when the address `asked` is. Raises NotStarted."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            _wait(child, asked, ready_s, said)
            yield
        finally:
            child.terminate()
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(child: subprocess.Popen, asked: str, ready_s: float, said: IO[str]) -> None:
    end_s = time.monotonic() + ready_s
    while child.poll() is None and time.monotonic() < end_s:
        try:
            with urllib.request.urlopen(asked, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    said.seek(0)
    raise NotStarted([line.strip() for line in said if line.strip()], child.returncode)
