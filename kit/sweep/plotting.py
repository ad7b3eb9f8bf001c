"""The record of a sweep -> its plot: the loss against the first number that varies."""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kit.sweep.results import Setting, Sweep, as_number
from kit.sweep.space import SEED
from kit.sweep.trials import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Held-out loss, nats a token"
LINES = ("-", "--", ":")
MEASURED = ("finished", "stopped")
CHARACTER = 0.022  # of a tick's label, as a share of the axis; about
INCHES_A_LINE = 0.2  # of the legend


def plot(sweep: Sweep) -> str:
    """The plot as a file of its own: with its name space and the page's colours, light and dark."""
    from kit.report import plots  # here, not above: it imports matplotlib

    def nothing_yet(axes: "Axes") -> None:
        axes.set(xlabel="no trial has a loss yet")

    text = drawn(sweep) or plots.svg(TITLE, nothing_yet)
    style = f"<style>{_colours()}</style>"
    head, rest = text.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" style="background: var(--paper)">{style}{rest}'


@cache
def _colours() -> str:
    """The variables of the page's style sheet."""
    from kit import report

    text = (Path(report.__path__[0]) / "base.html.jinja").read_text(encoding="utf-8")
    root = re.search(r":root \{.*?\}\n@media \(prefers-color-scheme: dark\) \{.*?\}\n\}", text, re.DOTALL)
    return root[0].replace(":root", "svg") if root else ""


def drawn(sweep: Sweep) -> str:
    """Loss against the first number that varies, a line for each combination of the rest; "" where nothing is known.

    Full marks: trained to the end, with bars of the seeds (see Sweep.plotted); hollow: stopped, at the loss it had.
    """
    from kit.report import plots

    measured = [setting for setting in sweep.settings if setting.status in MEASURED and setting.loss is not None]
    if not measured:
        return ""
    across = _across(sweep)
    places = _places(measured, across)
    lines = _lines(measured, across)

    def draw(axes: "Axes") -> None:
        for number, (name, group) in enumerate(lines.items()):
            _draw_line(axes, number, name, [(places[one.values.get(across, "")], one) for one in group], sweep.plotted)
        _scale(axes, across, places)
        if len(lines) > 1:
            axes.figure.legend(loc="outside upper left", ncols=1)

    return plots.svg(TITLE, draw, plots.HEIGHT_IN + INCHES_A_LINE * (len(lines) if len(lines) > 1 else 0))


def _lines(settings: Sequence[Setting], across: str) -> dict[str, list[Setting]]:
    """What else varies, in words -> the settings of a line. Where all differ in it, as of ranges, they are no lines:
    all under the empty name."""
    lines: dict[str, list[Setting]] = {}
    by_rank = across == "lora_rank" and _alpha_follows_rank(settings)
    for setting in settings:
        values = setting.values | ({"lora_alpha": _multiple(setting)} if by_rank else {})
        rest = {name: value for name, value in values.items() if name != across}
        lines.setdefault(name_of(rest) if rest else across, []).append(setting)
    return lines if len(lines) == 1 or len(lines) < len(settings) else {"": list(settings)}


def _alpha_follows_rank(settings: Sequence[Setting]) -> bool:
    """Alpha is shown as a multiple of the rank, where that makes fewer lines."""
    if not all({"lora_rank", "lora_alpha"} <= setting.values.keys() for setting in settings):
        return False
    return len(set(map(_multiple, settings))) < len({setting.values["lora_alpha"] for setting in settings})


def _multiple(setting: Setting) -> str:
    return f"{int(setting.values['lora_alpha']) / int(setting.values['lora_rank']):g}r"


def _draw_line(
    axes: "Axes",
    number: int,
    name: str,
    points: Sequence[tuple[float, Setting]],
    plotted: Callable[[Setting], tuple[float | None, float]],
) -> None:
    from kit.report.plots import COLOURS

    colour = COLOURS[number % len(COLOURS)]
    line = LINES[number // len(COLOURS) % len(LINES)] if name else "none"
    label: str | None = f" {name}"  # a label that begins with _ is left out
    ordered = sorted((place, *plotted(setting), setting.status) for place, setting in points)
    full = [(place, loss, bar) for place, loss, bar, status in ordered if status == "finished"]
    hollow = [(place, loss) for place, loss, _, status in ordered if status != "finished"]
    if full:
        places, losses, bars = zip(*full, strict=True)
        axes.errorbar(
            places, losses, bars if any(bars) else None, linestyle=line, capsize=3, label=label, color=colour,
            markersize=5, marker="o",
        )  # fmt: skip
        label = None
    if hollow:
        places, losses = zip(*hollow, strict=True)
        axes.plot(
            places, losses, linestyle="none", label=label, color=colour, markersize=5, marker="o",
            markerfacecolor="none",
        )  # fmt: skip


def _across(sweep: Sweep) -> str:
    """The first option whose values are numbers; else the first one; "" of a sweep over seeds alone."""
    names = [name for name in sweep.varied if name != SEED]
    values = {name: {setting.values[name] for setting in sweep.settings} for name in names}
    many = [name for name in names if len(values[name]) > 1] or names
    return next((name for name in many if None not in map(as_number, values[name])), many[0] if many else "")


def _places(settings: Sequence[Setting], across: str) -> dict[str, float]:
    """Value -> where it stands on the axis: the number itself, or a word's turn."""
    values = list(dict.fromkeys(setting.values.get(across, "") for setting in settings))
    numbers = {value: as_number(value) for value in values}
    known = {value: number for value, number in numbers.items() if number is not None}
    return known if len(known) == len(values) else {value: float(turn) for turn, value in enumerate(values)}


def _scale(axes: "Axes", across: str, places: dict[str, float]) -> None:
    """By powers of two, where all are above zero; numbers that are too near for their labels share one."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks = sorted(places.values())
    names = {place: value for value, place in places.items()}
    if across and all(as_number(value) is not None for value in places):
        is_log = ticks[0] > 0
        if is_log:
            axes.set_xscale("log", base=2)
        ticks = _apart(ticks, CHARACTER * max(map(len, places)), is_log)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: next(
        (name for known, name in names.items() if math.isclose(known, place)), "")))  # fmt: skip
    axes.set(xlabel=f"{across}; hollow: stopped early, at the loss it had" if across else "")


def _apart(ticks: Sequence[float], share: float, is_log: bool) -> list[float]:
    """Those of the sorted ticks that are at least this share of the axis apart, from the first on."""
    at = [math.log(tick) if is_log else tick for tick in ticks]
    kept: list[int] = []
    for number, place in enumerate(at):
        if not kept or place - at[kept[-1]] >= share * (at[-1] - at[0]):
            kept.append(number)
    return [ticks[number] for number in kept]
