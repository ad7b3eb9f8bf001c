"""The record of a sweep -> table, plot and page."""

import html
import math
import re
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kit.report import page, plots
from kit.run.folder import cannot_write
from kit.support.errors import KitError
from kit.support.files import write_whole
from kit.sweep.results import Setting, Sweep, as_number

PAGE, PLOT = "sweep.html", "plot.svg"
TITLE = "Held-out loss, nats a token"
LINES = ("-", "--", ":")
FILE_WIDTH = 200  # characters
MEASURED = ("finished", "stopped")


def save(sweep: Sweep) -> None:
    """Every file of the sweep's folder. Raises KitError: the disk does not take them."""
    try:
        sweep.save()
        write_whole(sweep.folder / PLOT, [plot(sweep)])
    except OSError as error:
        raise KitError(cannot_write(Path(error.filename or sweep.folder), error)) from error
    page.save(sweep.folder / PAGE, page_of(sweep))


def cells(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """(names of the columns, a row for each setting), as text."""
    names = [name for name in sweep.varied if name != "seed"]
    head = [
        *names,
        "trained weights",
        "held-out loss",
        "vs best",
        "step",
        "seconds",
        "GiB",
        "status",
    ]
    rows = [[*(one.values[name] for name in names), *_figures(one, sweep.best)] for one in sweep.settings]
    return head, rows


def _figures(one: Setting, best: Setting | None) -> list[str]:
    first = one.trials[0]
    taken = max((trial.peak_memory_bytes or 0 for trial in one.trials), default=0)
    seconds = [trial.seconds for trial in one.trials if trial.seconds is not None]
    of = f"/{first.steps}" if first.steps else ""
    return [
        page.figure(first.trained_params),
        _loss(one),
        _against(one, best),
        f"{min(trial.step for trial in one.trials)}{of}",
        page.figure(sum(seconds) / len(seconds) if seconds else None, ",.1f"),
        page.gib(taken or None),
        _status(one, best),
    ]


def _loss(one: Setting) -> str:
    if one.loss is None:
        return "–"
    return f"{one.loss:.3f}" + (f" ± {one.spread:.3f}" if one.spread is not None else "")


def _against(one: Setting, best: Setting | None) -> str:
    """Only of trials at the same point of their runs: at the end."""
    if best is None or one is best or one.status != "finished" or one.loss is None:
        return ""
    if not (apart := one.above(best)):
        return "other seeds"
    told = f"{statistics.mean(apart):+.3f}" + (f" ± {statistics.stdev(apart):.3f}" if len(apart) > 1 else "")
    return f"{told} (within the spread)" if one.is_within_spread_of(best) else told


def _status(one: Setting, best: Setting | None) -> str:
    words = "; ".join(dict.fromkeys(trial.words for trial in one.trials if trial.words))
    seeds = f", {len(one.trials)} seeds" if len(one.trials) > 1 else ""
    status = "finished, best" if one is best else one.status
    return f"{status}{seeds}" + (f": {words}" if words else "")


def table(sweep: Sweep) -> Table:
    """For the terminal."""
    head, rows = cells(sweep)
    shown = Table(box=None, pad_edge=False)
    left = {"vs best", "status", "target_modules"}
    for name in head:
        longest = max(len(row[head.index(name)]) for row in rows)
        width = longest if name != "status" else None  # in a narrow terminal the names break, the figures do not
        shown.add_column(name, justify="left" if name in left else "right", overflow="fold", min_width=width)
    for one, row in zip(sweep.settings, rows, strict=True):
        shown.add_row(*map(Text, row), style="bold" if one is sweep.best else "")
    return shown


def show(console: Console, sweep: Sweep) -> None:
    wide(console, table(sweep))


def wide(console: Console, shown: Table) -> None:
    """Where no terminal limits it, as wide as it is."""
    if not console.is_terminal:
        console = Console(file=console.file, width=FILE_WIDTH, highlight=False)
    console.print(shown)


def html_table(sweep: Sweep) -> str:
    head, rows = cells(sweep)
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr{}>{}</tr>".format(' class="total"' if one is sweep.best else "",
                               "".join(f"<td>{html.escape(text)}</td>" for text in row))
        for one, row in zip(sweep.settings, rows, strict=True)
    )  # fmt: skip
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def page_of(sweep: Sweep) -> str:
    return page.render(
        "sweep.html.jinja",
        title=f"Sweep {sweep.folder.name}",
        refresh_s=None,
        told=sweep.told(),
        notes=sweep.notes,
        table=html_table(sweep),
        plot=drawn(sweep),
        trials=[
            ("; ".join(f"{name} {value}" for name, value in trial.values.items()), trial) for trial in sweep.trials
        ],
    )


def plot(sweep: Sweep) -> str:
    """The plot as a file of its own: with its name space and the page's colours, light and dark."""
    text = drawn(sweep) or plots.svg(TITLE, lambda axes: axes.set(xlabel="no trial has a loss yet"))
    style = f"<style>{_colours()}</style>"
    head, rest = text.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" style="background: var(--paper)">{style}{rest}'


@cache
def _colours() -> str:
    """The variables of the page's style sheet."""
    text = (Path(page.__file__).parent / "base.html.jinja").read_text(encoding="utf-8")
    found = re.search(r":root \{.*?\}\n@media \(prefers-color-scheme: dark\) \{.*?\}\n\}", text, re.DOTALL)
    return found[0].replace(":root", "svg")


def drawn(sweep: Sweep) -> str:
    """Loss against the first number that varies, a line for each combination of the rest; "" where nothing is known.

    Full marks: trained to the end, with bars of the seeds (see Sweep.plotted); hollow: stopped, at the loss it had.
    """
    measured = [one for one in sweep.settings if one.status in MEASURED and one.loss is not None]
    if not measured:
        return ""
    across = _across(sweep)
    places = _places(measured, across)
    lines: dict[str, list[Setting]] = {}
    by_rank = across == "lora_rank" and _alpha_follows_rank(measured)
    for one in measured:
        rest = one.values | ({"lora_alpha": _multiple(one)} if by_rank else {})
        told = ", ".join(f"{name} {value}" for name, value in rest.items() if name != across)
        lines.setdefault(told, []).append(one)

    def draw(axes: Axes) -> None:
        for number, (name, group) in enumerate(lines.items()):
            points = [(places[one.values.get(across, "")], *sweep.plotted(one), one.status) for one in group]
            _line(axes, number, name, sorted(points))
        _scale(axes, across, places)
        if len(lines) > 1:
            axes.figure.legend(loc="outside upper left", ncols=1)

    return plots.svg(TITLE, draw, plots.HEIGHT_IN + 0.2 * (len(lines) if len(lines) > 1 else 0))


def _alpha_follows_rank(settings: Sequence[Setting]) -> bool:
    """Alpha is told as a multiple of the rank, where that makes fewer lines."""
    if not all({"lora_rank", "lora_alpha"} <= one.values.keys() for one in settings):
        return False
    return len(set(map(_multiple, settings))) < len({one.values["lora_alpha"] for one in settings})


def _multiple(one: Setting) -> str:
    return f"{int(one.values['lora_alpha']) / int(one.values['lora_rank']):g}r"


def _line(axes: Axes, number: int, name: str, points: Sequence[tuple[float, float, float, str]]) -> None:
    """points: (place, loss, bar, status)."""
    colour = plots.COLOURS[number % len(plots.COLOURS)]
    look = {"color": colour, "markersize": 5, "marker": "o"}
    line = LINES[number // len(plots.COLOURS) % len(LINES)]
    full = [(x, loss, bar) for x, loss, bar, status in points if status == "finished"]
    hollow = [(x, loss) for x, loss, _, status in points if status != "finished"]
    label = f" {name}"  # a label that begins with _ is left out
    if full:
        bars = [bar for _, _, bar in full]
        axes.errorbar(
            [x for x, _, _ in full],
            [loss for _, loss, _ in full],
            bars if any(bars) else None,
            linestyle=line,
            capsize=3,
            label=label,
            **look,
        )
    if hollow:
        axes.plot(
            *zip(*hollow, strict=True), markerfacecolor="none", linestyle="none", label=None if full else label, **look
        )


def _across(sweep: Sweep) -> str:
    """The first option whose values are numbers; else the first one; "" of a sweep over seeds alone."""
    names = [name for name in sweep.varied if name != "seed"]
    values = {name: {one.values[name] for one in sweep.settings} for name in names}
    many = [name for name in names if len(values[name]) > 1] or names
    return next((name for name in many if None not in map(as_number, values[name])), many[0] if many else "")


def _places(settings: Sequence[Setting], across: str) -> dict[str, float]:
    """Value -> where it stands on the axis: the number itself, or a word's turn."""
    values = list(dict.fromkeys(one.values.get(across, "") for one in settings))
    numbers = [as_number(value) for value in values]
    if None in numbers:
        return {value: float(place) for place, value in enumerate(values)}
    return dict(zip(values, numbers, strict=True))


def _scale(axes: Axes, across: str, places: dict[str, float]) -> None:
    """By powers of two, where all are above nought."""
    ticks = sorted(places.values())
    names = {place: value for value, place in places.items()}
    if across and all(as_number(value) is not None for value in places) and ticks[0] > 0:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: next(
        (name for known, name in names.items() if math.isclose(known, place)), "")))  # fmt: skip
    axes.set(xlabel=f"{across}; hollow: stopped early, at the loss it had" if across else "")
