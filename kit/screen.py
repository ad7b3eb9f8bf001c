"""Records -> the terminal: talk on standard error, plain lines where it is no terminal."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from envcheck import report
from envcheck.facts import Finding
from kit.adapters import ADAPTER, MODEL
from kit.errors import INTERRUPTED, KitError
from kit.memory import GIB, Plan
from kit.progress import Show
from kit.record import Result

if TYPE_CHECKING:
    from kit.data import Data

LINES_WITHOUT_TERMINAL = 10  # of progress, where a bar cannot be drawn
# In a notebook plain lines, which run together to one output; by itself rich makes an output of each.
IN_NOTEBOOK = "ipykernel" in sys.modules
PLAIN = {"force_jupyter": False, "force_terminal": False, "width": 110} if IN_NOTEBOOK else {}
console = Console(stderr=not IN_NOTEBOOK, highlight=False, **PLAIN)
QUIET = Console(quiet=True)
out = Console(highlight=False, soft_wrap=not sys.stdout.isatty(), **PLAIN)  # what was asked for: reports, samples


def status_of(command: Callable[[], int]) -> int:
    """A command's exit status; what the user can mend ends here as findings, an interrupt and a closed pipe quietly."""
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
    except BrokenPipeError:  # of `| head`; the flush at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def say(text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def note(text: str) -> None:
    say(f"NOTE      {text}", style="cyan")


def findings(items: tuple[Finding, ...]) -> None:
    if items:
        out.file.flush()  # both may go into one file
        console.print()
        console.out(report.render_all(items, colour=report.colour_wanted(console.file)))


def data(data: "Data") -> None:
    """Where every row went."""
    seen = data.report
    for file in seen.files:
        weight = {0: " (to measure on)", 1: ""}.get(file["weight"], f" (weight {file['weight']:g})")
        say(f"data      {file['name']}: {file['format']} rows{weight}")
    left_out = "".join(f" + {count:,} left out ({code})" for code, count in seen.rows_left_out.items())
    kept = f"{seen.rows_trained:,} to train + {seen.rows_held_out:,} held out"
    say(f"          {seen.rows_read:,} read = {kept}{left_out}")
    share_pct = 100 * seen.trained_tokens / max(1, seen.tokens)
    say(f"          {seen.samples} samples of {seen.median_tokens} (median) to {seen.longest_tokens} tokens;")
    say(f"          {seen.tokens:,} tokens, {share_pct:.0f} % of them trained (the answers)")


def plan(plan: Plan, where: str) -> None:
    """The parts, and the verdict against the memory that may be taken."""
    table = Table(title=f"memory on the {where}, GiB", title_justify="left", box=None, pad_edge=False)
    for name, justify in (("part", "left"), ("low", "right"), ("high", "right")):
        table.add_column(name, justify=justify)
    for part in plan.parts:
        table.add_row(part.name, gib(part.low_bytes), gib(part.high_bytes))
    table.add_row("total", gib(plan.low_bytes), gib(plan.high_bytes), style="bold")
    available = "unknown" if plan.available_bytes is None else f"{gib(plan.available_bytes)} GiB may be used"
    console.print(table)
    say(f"verdict   {plan.verdict}: {available}")
    share_pct = 100 * plan.trained_params / plan.params
    say(f"          {plan.params:,} weights, {plan.trained_params:,} trained ({share_pct:.2f} %)")
    if plan.steps and plan.tokens:
        say(f"          {plan.steps} steps, about {plan.tokens:,} tokens")
    for reason in plan.reasons:
        say(f"          {reason}")
    if plan.fit:
        name = plan.fit["solved_for"]
        rest = ", ".join(f"{other} {plan.fit[other]}" for other in plan.fit if other not in (name, "solved_for"))
        most = f"{name} {plan.fit[name]} is the most that fits" if plan.fit[name] else f"no {name} fits"
        say(f"fit       {most}, with {rest}")


@contextmanager
def saying_to(other: Console) -> Iterator[None]:
    """What the kit says goes there while inside; to QUIET for several runs, which all say the same: their records have
    it."""
    global console
    before, console = console, other
    try:
        yield
    finally:
        console = before


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Something of unknown length: a spinner in a terminal, a line elsewhere."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        say(text)
        yield


@contextmanager
def progress() -> Iterator[Show]:
    """Yields show(stage, done, total, detail): one bar a stage with time left, or about ten plain lines a stage."""
    started_s: dict[str, float] = {}
    if not console.is_terminal:
        yield lambda *told: _plain_progress(started_s, *told)
        return
    words = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    columns = (*words, TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, detail: str) -> None:
            if stage not in tasks or bars.tasks[tasks[stage]].finished:
                tasks[stage] = bars.add_task(stage, total=total, detail="")
            bars.update(tasks[stage], completed=done, detail=detail)

        yield show


def _plain_progress(started_s: dict[str, float], stage: str, done: int, total: int, detail: str) -> None:
    if done == 1:
        started_s[stage] = time.monotonic()
    if done % max(1, total // LINES_WITHOUT_TERMINAL) == 0 or done == total:
        left_s = (time.monotonic() - started_s.get(stage, time.monotonic())) / done * (total - done)
        say(f"{stage:<12}{done}/{total}  {detail}{'  ' if detail else ''}{clock(left_s)} left")


def result(result: Result, folder: object) -> None:
    """Before and after, side by side, and the figures."""
    if result.after:
        table = Table(show_lines=True)
        for name in ("question", "before", "after"):
            table.add_column(name, overflow="fold", ratio=1)
        for before, after in zip(result.before, result.after, strict=True):
            table.add_row(Text(after.question), Text(before.text), Text(after.text))
        console.print(table)
    speed = f"{result.tokens_per_s:,.0f} tokens/s"
    rows = [f"{result.steps} steps, {result.tokens:,} tokens in {clock(result.train_s)} ({speed})"]
    if result.loss_before is not None and result.loss_after is not None:
        fall_pct = 100 * (1 - result.loss_after / result.loss_before)
        losses = f"held-out loss {result.loss_before:.3f} -> {result.loss_after:.3f}"
        rows.append(f"{losses} ({fall_pct:.0f} % lower)")
    if result.after:
        speeds = [answer.tokens_per_s for answer in result.after if answer.tokens]
        answered = f"answers at {sum(speeds) / len(speeds):,.0f} tokens/s" if speeds else "no answers"
        rows.append(f"{answered}; peak memory {gib(result.peak_memory_bytes)} GiB")
    made = MODEL if (Path(folder) / MODEL).is_dir() else ADAPTER
    rows.append(f"{made}: {folder}/{made}     what happened: {folder}/report.html")
    console.print(Panel(Group(*map(Text, rows)), title="done", title_align="left"))


def gib(count_bytes: float) -> str:
    return f"{count_bytes / GIB:.2f}"


def clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    )
