"""Plots as SVG with their colours inside, so that they are seen where notebooks are only shown, and text is text."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from kit.memory import Part, Plan
from kit.report import plots
from kit.support.units import GIB

PAPER = {
    "--c1": "#0072b2",
    "--c2": "#d55e00",
    "--c3": "#007a5a",
    "--c4": "#a8588a",
    "--c5": "#8a6d00",
    "--c6": "#2f98cc",
    "--c7": "#555555",
    "--ink": "#1b1b1b",
    "--faint": "#c9c9c9",
    "--cell": "#4ea3d8",
}
WIDTH_PX = 620
VIEW_BOX = re.compile(r'viewBox="([^"]*)"')
SMALLEST_SHARE = 0.03  # of a bar: smaller parts are put together


@dataclass(frozen=True)
class Picture:
    """An SVG of kit.report's, on white paper; `text` is for those who cannot see it."""

    svg: str
    text: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"image/svg+xml": self.svg, "text/plain": self.text}


def picture(name: str, draw: Callable[[Axes], None], height_in: float = plots.HEIGHT_IN) -> Picture:
    """One plot; `draw` may use plots.COLOURS, which stand out from each other also in grey."""
    return on_paper(plots.svg(name, draw, height_in), name)


def on_paper(svg: str, text: str) -> Picture:
    """A plot of the report's page, whose colours are the page's, with colours of its own."""
    return stacked([("", svg)], text)


def stacked(plots_of: Sequence[tuple[str, str]], text: str, columns: int = 1) -> Picture:
    """Titles and plots of kit.report's page in one picture, in so many columns."""
    wide = WIDTH_PX // columns
    tops, inner = [0] * columns, []
    for number, (title, svg) in enumerate(plots_of):
        column = number % columns
        if title:
            inner.append(_words(column * wide + 8, tops[column] + 17, title))
            tops[column] += 22
        high = _height_px(svg, wide)
        inner.append(_placed(svg, column * wide, tops[column], wide, high))
        tops[column] += high
    return Picture(_sheet(max(tops), "".join(inner)), text)


def _placed(svg: str, x: int, y: int, wide: int, high: int) -> str:
    coloured = re.sub(r"var\((--\w+)\)", lambda match: PAPER[match[1]], svg)
    return coloured.replace("<svg", f'<svg x="{x}" y="{y}" width="{wide}" height="{high}"', 1)


def _height_px(svg: str, wide_px: int) -> int:
    box = VIEW_BOX.search(svg)
    assert box, "a plot has its size in its head"
    _, _, wide, high = map(float, box[1].split())
    return round(wide_px * high / wide)


def _words(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="13" fill="{PAPER["--ink"]}">{html.escape(text)}</text>'


def _sheet(high: int, inner: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{high}" font-family="sans-serif">'
    return f'{head}<rect width="100%" height="100%" fill="#ffffff"/>{inner}</svg>'


def progress_bar(words: str, share: float, plot: str) -> str:
    """Words, a bar of which so much is full, and below it a plot of kit.report's page, where there is one, as SVG."""
    wide, top = WIDTH_PX - 20, 40
    bars = [(wide, "#e4e4e4"), (round(wide * share), PAPER["--c1"])]
    drawn = [f'<rect x="10" y="24" width="{width}" height="8" rx="4" fill="{colour}"/>' for width, colour in bars]
    high = _height_px(plot, WIDTH_PX) if plot else 0
    below = _placed(plot, 0, top, WIDTH_PX, high) if plot else ""
    return _sheet(top + high, _words(10, 16, words) + "".join(drawn) + below)


def memory_bar(plan: Plan) -> Picture:
    """What the plan's parts take at most, stacked, against the memory that may be taken."""
    parts = sorted((part for part in plan.parts if part.high_bytes), key=lambda part: -part.high_bytes)
    room = plan.available_bytes
    large = [part for part in parts if part.high_bytes >= SMALLEST_SHARE * max(plan.high_bytes, room or 0)]
    rest = [part for part in parts if part not in large]
    if rest:
        large.append(Part("the rest", sum(one.low_bytes for one in rest), sum(one.high_bytes for one in rest)))

    def draw(axes: Axes) -> None:
        begin = 0.0
        for place, part in enumerate(large):
            colour = plots.COLOURS[place % len(plots.COLOURS)]
            label = f"{part.name} {part.high_bytes / GIB:.2f}"
            axes.barh(0, part.high_bytes / GIB, left=begin, color=colour, label=label, height=0.6, edgecolor="white")
            begin += part.high_bytes / GIB
        if room:
            axes.axvline(room / GIB, color=plots.INK, linestyle="--", label=f"may be used {room / GIB:.2f}")
        axes.set(yticks=[], ylim=(-0.5, 0.5), xlim=(0, 1.05 * max(begin, (room or 0) / GIB)))
        axes.set_xlabel(f"GiB at most, {plan.high_bytes / GIB:.2f} together: {plan.verdict}")
        axes.grid(axis="y", visible=False)
        axes.figure.legend(loc="outside upper left", ncols=2, fontsize=9)

    return picture("Planned memory", draw, 1.3 + 0.22 * (len(large) // 2 + 1))
