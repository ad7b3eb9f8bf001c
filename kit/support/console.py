"""Records -> the terminal: talk on standard error, plain lines where it is no terminal."""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from envcheck import report, streams
from envcheck.facts import Finding
from kit.support.errors import INTERRUPTED, KitError
from kit.support.progress import OnProgress
from kit.support.units import clock

LINES_WITHOUT_TERMINAL = 10  # of progress, where a bar cannot be drawn
# In a notebook plain lines, which run together to one output; by itself rich makes an output of each.
IN_NOTEBOOK = "ipykernel" in sys.modules
PLAIN: dict[str, Any] = {"force_jupyter": False, "force_terminal": False, "width": 110} if IN_NOTEBOOK else {}
stderr = Console(stderr=not IN_NOTEBOOK, highlight=False, **PLAIN)
QUIET = Console(quiet=True)
stdout = Console(highlight=False, soft_wrap=not sys.stdout.isatty(), **PLAIN)  # what was asked for: reports, samples


def status_of(command: Callable[[], int]) -> int:
    """A command's exit status; what the user can mend ends here as findings, an interrupt and a closed pipe quietly."""
    streams.prepare()
    try:
        status = command()
        sys.stdout.flush()
        return status
    except KitError as error:
        findings(error.findings)
        return error.status
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except OSError as error:
        if not streams.is_closed_pipe(error):
            raise
        streams.leave_pipe()
        return 0


def say(text: str, style: str = "") -> None:
    _print(stderr, text, style)


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def note(text: str) -> None:
    say(f"NOTE      {text}", style="cyan")


def findings(items: tuple[Finding, ...]) -> None:
    if items:
        stdout.file.flush()  # both may go into one file
        stderr.print()
        stderr.out(report.render_all(items, colour=report.colour_wanted(stderr.file)))


@contextmanager
def saying_to(other: Console) -> Iterator[None]:
    """What the kit says goes there while inside; to QUIET for several runs, which all say the same: their records have
    it."""
    global stderr
    before, stderr = stderr, other
    try:
        yield
    finally:
        stderr = before


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Something of unknown length: a spinner in a terminal, a line elsewhere."""
    if stderr.is_terminal:
        with stderr.status(text):
            yield
    else:
        say(text)
        yield


@contextmanager
def progress() -> Iterator[OnProgress]:
    """Yields on_progress(stage, done, total, detail): one bar a stage with time left, or about ten plain lines a stage.
    They go where the kit talks now, wherever it talks later."""
    if not stderr.is_terminal:
        yield functools.partial(_plain_progress, stderr, {})
        return
    words = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    columns = (*words, TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=stderr) as bars:
        tasks: dict[str, Any] = {}

        def on_progress(stage: str, done: int, total: int, detail: str) -> None:
            if stage not in tasks or bars.tasks[tasks[stage]].finished:
                tasks[stage] = bars.add_task(stage, total=total, detail="")
            bars.update(tasks[stage], completed=done, total=total, detail=detail)

        yield on_progress


def _plain_progress(
    console: Console, started_s: dict[str, float], stage: str, done: int, total: int, detail: str
) -> None:
    if done == 1:
        started_s[stage] = time.monotonic()
    if done % max(1, total // LINES_WITHOUT_TERMINAL) == 0 or done == total:
        left_s = (time.monotonic() - started_s.get(stage, time.monotonic())) / done * (total - done)
        _print(console, f"{stage:<14}{done}/{total}  {detail}{'  ' if detail else ''}{clock(left_s)} left")
