"""The record of a sweep -> terminal, files, page and plot: the loss against the first number that varies."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kit.run.folder import cannot_write
from kit.support.errors import KitError
from kit.sweep.results import Setting, Sweep, are_numbers, places_of
from kit.sweep.space import SEED
from kit.sweep.trials import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = "sweep.html"
FILE_WIDTH = 200  # characters
LEFT = {"vs best", "status", "verdict", "target_modules"}  # columns of words
TITLE = "Held-out loss, nats a token"
LINES = ("-", "--", ":")
MEASURED = ("finished", "stopped")
CHARACTER = 0.022  # of a tick's label, as a share of the axis; about
LEGEND_LINE_IN = 0.2


def save(sweep: Sweep) -> Sweep:
    """Every file of its folder. Raises KitError: the disk does not take them."""
    from kit.report import page  # here, not above: it imports matplotlib

    try:
        sweep.save()
    except OSError as error:
        raise KitError(cannot_write(Path(error.filename or sweep.folder), error)) from error
    page.save(sweep.folder / PAGE, page_of(sweep))
    return sweep


def show(console: Console, sweep: Sweep) -> None:
    """A row for each setting, the best one bold."""
    show_table(console, *sweep.cells(), [setting is sweep.best for setting in sweep.settings])


def show_table(console: Console, head: list[str], rows: list[list[str]], bold: list[bool]) -> None:
    """Where no terminal limits it, as wide as it is; in a narrow one the names break, the figures do not."""
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(head):
        width = None if name in ("status", "verdict") else max(len(row[place]) for row in rows)
        table.add_column(name, justify="left" if name in LEFT else "right", overflow="fold", min_width=width)
    for row, is_bold in zip(rows, bold, strict=True):
        table.add_row(*map(Text, row), style="bold" if is_bold else "")
    if not console.is_terminal:
        console = Console(file=console.file, width=FILE_WIDTH, highlight=False)
    console.print(table)


def page_of(sweep: Sweep) -> str:
    """The page as HTML, every text escaped."""
    from kit.report import page

    return page.render(
        "sweep.html.jinja",
        title=f"Sweep {sweep.folder.name}",
        refresh_s=None,
        outcome=sweep.outcome(),
        notes=sweep.notes,
        table=sweep.html_table(),
        plot=drawn(sweep),
        trials=[(name_of(trial.values), trial) for trial in sweep.trials],
    )


def drawn(sweep: Sweep) -> str:
    """Loss against the first number that varies, a line for each combination of the rest; "" where nothing is known.

    Full marks: trained to the end, with bars of the seeds (see Sweep.plotted); hollow: stopped, at the loss it had.
    """
    from kit.report import plots

    measured = [setting for setting in sweep.settings if setting.status in MEASURED and setting.loss is not None]
    across = _across(sweep)
    places = places_of(setting.values.get(across, "") for setting in measured)
    lines = _lines(measured, across)

    def draw(axes: "Axes") -> None:
        for number, (name, settings) in enumerate(lines.items()):
            points = [(places[one.values.get(across, "")], *sweep.plotted(one), one.status) for one in settings]
            line = LINES[number // len(plots.COLOURS) % len(LINES)] if name else "none"
            _draw_line(axes, f" {name}", points, line, plots.COLOURS[number % len(plots.COLOURS)])
        _scale(axes, across, places)
        if len(lines) > 1:
            axes.figure.legend(loc="outside upper left", ncols=1)

    height_in = plots.HEIGHT_IN + (LEGEND_LINE_IN * len(lines) if len(lines) > 1 else 0)
    return plots.svg(TITLE, draw, height_in) if measured else ""


def _across(sweep: Sweep) -> str:
    """The first option whose values are numbers; else the first one; "" of a sweep over seeds alone."""
    values = {name: {setting.values[name] for setting in sweep.settings} for name in sweep.varied if name != SEED}
    several = [name for name in values if len(values[name]) > 1] or [*values, ""]
    return next((name for name in several if are_numbers(values.get(name, ()))), several[0])


def _lines(settings: Sequence[Setting], across: str) -> dict[str, list[Setting]]:
    """What else varies, in words -> the settings of a line. Where all differ in it, as of ranges, they are no lines:
    all under the empty name."""
    lines: dict[str, list[Setting]] = {}
    by_rank = across == "lora_rank" and _alpha_follows_rank(settings)
    for setting in settings:
        values = setting.values | ({"lora_alpha": _multiple(setting)} if by_rank else {})
        name = name_of(values, across) if values.keys() - {across} else across
        lines.setdefault(name, []).append(setting)
    return lines if len(lines) == 1 or len(lines) < len(settings) else {"": list(settings)}


def _alpha_follows_rank(settings: Sequence[Setting]) -> bool:
    """Alpha is shown as a multiple of the rank, where that makes fewer lines."""
    if not all("lora_alpha" in setting.values for setting in settings):
        return False
    return len(set(map(_multiple, settings))) < len({setting.values["lora_alpha"] for setting in settings})


def _multiple(setting: Setting) -> str:
    return f"{int(setting.values['lora_alpha']) / int(setting.values['lora_rank']):g}r"


def _draw_line(
    axes: "Axes", label: str | None, points: Sequence[tuple[float, float, float, str]], line: str, colour: str
) -> None:
    """points: (place, loss, bar, status). A label begins with a blank, as one that begins with _ is left out."""
    for status in MEASURED:
        if own := sorted(point[:3] for point in points if point[3] == status):
            places, losses, bars = zip(*own, strict=True)
            finished = status == "finished"
            axes.errorbar(
                places, losses, bars if any(bars) else None, linestyle=line if finished else "none", capsize=3,
                label=label, color=colour, markersize=5, marker="o", markerfacecolor=colour if finished else "none",
            )  # fmt: skip
            label = None


def _scale(axes: "Axes", across: str, places: dict[str, float]) -> None:
    """By powers of two, where all are above zero; numbers that are too near for their labels share one."""
    ticks = sorted(places.values())
    if are_numbers(places):
        is_log = ticks[0] > 0
        if is_log:
            axes.set_xscale("log", base=2)
        ticks = _apart(ticks, CHARACTER * max(map(len, places)), is_log)
    names = {place: value for value, place in places.items()}
    axes.set_xticks(ticks, [names[tick] for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel=f"{across}; hollow: stopped early, at the loss it had" if across else "")


def _apart(ticks: Sequence[float], share: float, is_log: bool) -> list[float]:
    """Those of the sorted ticks that are at least this share of the axis apart, from the first on."""
    at = [math.log(tick) if is_log else tick for tick in ticks]
    kept: list[int] = []
    for number, place in enumerate(at):
        if not kept or place - at[kept[-1]] >= share * (at[-1] - at[0]):
            kept.append(number)
    return [ticks[number] for number in kept]
