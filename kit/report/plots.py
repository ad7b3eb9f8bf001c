"""Numbers -> inline SVG, by matplotlib. One style; colours are the page's, so that light and dark need no second plot.

Every colour is drawn as a place holder and then replaced by a CSS variable of the page. Texts stay text, in its font.
"""

import io
import logging
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import matplotlib.style
import numpy
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from kit.memory import Part
from kit.options import LINEAR_LAYERS
from kit.report.adapter import HELD, Learnt
from kit.run.reading import RunRecord
from kit.support.units import GIB
from kit.support.untrusted import finite_number, list_or_empty

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells about its font cache in the middle of a run

COLOURS = tuple(f"#0000{number:02x}" for number in range(1, 8))  # place holders; the page sets --c1 to --c7
INK, FAINT, CELL = "#000011", "#000012", "#000013"
VARIABLES = {colour: f"var(--c{place})" for place, colour in enumerate(COLOURS, start=1)} | {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    CELL: "var(--cell)",
}
WIDTH_IN, HEIGHT_IN, DPI = 5.0, 2.7, 72  # of which 360 units: on a phone and in four columns a text keeps its size
MOST_POINTS = 400  # of a line
LOSSES = "Loss, nats a token"  # title of the first plot
LONGEST_NAME = 28  # beside a plot
SPEED = {"tokens", "elapsed_s"}
STYLE = {
    "text.parse_math": False,  # a $ in a name is a $
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 11,
}


def svg(name: str, draw: Callable[[Axes], object], height_in: float = HEIGHT_IN) -> str:
    """One plot. The name makes its ids unique in the page, and is what a screen reader says."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that its own font lacks: the page's font draws them
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(written.getvalue())
    _fit_into_html(root, name)
    _make_ids_unique(root, re.sub(r"\W+", "-", name.lower()))
    _take_colours_of_the_page(root)
    return ElementTree.tostring(root, encoding="unicode")


def _fit_into_html(root: ElementTree.Element, name: str) -> None:
    """Without XML's namespaces, metadata and a size: the page sets that."""
    for element in root.iter():
        element.tag = _without_namespace(element.tag)
        element.attrib = {_without_namespace(key): value for key, value in element.items()}
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": name}


def _without_namespace(name: str) -> str:
    return name.rpartition("}")[2]


def _make_ids_unique(root: ElementTree.Element, prefix: str) -> None:
    """The ids and what refers to them: several plots stand in one page."""
    for element in root.iter():
        for key, value in element.items():
            if key == "id":
                element.set(key, f"{prefix}-{value}")
            elif key == "href":
                element.set(key, f"#{prefix}-{value.removeprefix('#')}")
            else:
                element.set(key, value.replace("url(#", f"url(#{prefix}-"))


def _take_colours_of_the_page(root: ElementTree.Element) -> None:
    for element in root.iter():
        for key, value in element.items():
            element.set(key, re.sub(r"#0000[01]\w\b", lambda colour: VARIABLES[colour[0]], value))


def of_run(run: RunRecord) -> dict[str, str]:
    """Title -> plot, of what the run has written down so far."""
    drawn: dict[str, Callable[[Axes], object]] = {}
    if run.steps or run.losses:
        drawn[LOSSES] = partial(_losses, run=run)
    for key, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm before clipping")):
        if (points := _column(run, key))[0].size:
            drawn[title] = partial(_line, points=points)
    if (speed := _speed(run))[0].size:
        drawn["Tokens per second"] = partial(_line, points=speed)
    return {title: svg(title, draw) for title, draw in drawn.items()}


def lengths(run: RunRecord) -> str:
    """Samples by length; empty where the run has not counted them."""
    bins = [
        (longest, count)
        for pair in list_or_empty(run.data.get("histogram"))
        if isinstance(pair, list) and len(pair) == 2
        for longest, count in [tuple(map(finite_number, pair))]
        if longest and count is not None
    ]
    if not bins:
        return ""

    def draw(axes: Axes) -> None:
        ends = numpy.array([longest for longest, _ in bins])
        widths = numpy.diff(ends, prepend=0)
        axes.bar(ends - widths, [count for _, count in bins], widths, align="edge", color=COLOURS[0], alpha=0.85,
                 edgecolor=INK, linewidth=0.3)  # fmt: skip
        axes.grid(axis="x", visible=False)
        _whole(axes.yaxis)
        axes.set(xlabel="tokens in a sample", ylabel="samples", xlim=(0, ends[-1]))

    return svg("Samples by length", draw)


def memory(run: RunRecord, parts: Sequence[Part], peaks: Sequence[tuple[str, float]]) -> str:
    """The planned parts one behind the other, against what was measured and what may be taken."""
    if not parts:
        return ""
    total = sum(part.high_bytes for part in parts)
    available = finite_number(run.plan.get("available_bytes"))

    def draw(axes: Axes) -> None:
        begin = 0.0
        for place, part in enumerate(parts):
            low, beyond = part.low_bytes, part.high_bytes - part.low_bytes
            axes.barh(place, low / GIB, left=begin / GIB, color=COLOURS[0])
            axes.barh(place, beyond / GIB, left=(begin + low) / GIB, color=COLOURS[0], alpha=0.4)
            begin += part.high_bytes
        for place, (name, peak) in enumerate(peaks):
            axes.axvline(peak / GIB, color=COLOURS[1], linestyle=("-", ":")[place % 2], label=name)
        most = max(total, *(peak for _, peak in peaks), 0) * 1.05
        if available and available < 2.5 * most:
            axes.axvline(available / GIB, color=INK, linestyle="--", label="may be used")
            most = max(most, available * 1.05)
        axes.set_yticks(range(len(parts)), [_cut(part.name) for part in parts])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="GiB, each part beginning where the one above ends", xlim=(0, most / GIB))
        if axes.get_legend_handles_labels()[0]:
            axes.figure.legend(loc="outside upper left", ncols=3)

    return svg("Planned and measured memory", draw, 0.9 + 0.24 * (len(parts) + 1))


def memory_over_time(run: RunRecord) -> str:
    steps, taken = _column(run, "memory_bytes")
    return svg("Memory over time", lambda axes: _line(axes, (steps, taken / GIB))) if steps.size else ""


def of_adapter(learnt: Learnt) -> dict[str, str]:
    """Title -> plot of the updates."""
    if learnt.has_shares:
        size = _map("Size of the update, % of the weight", learnt, [100 * share for share in learnt.sizes], ".3g")
    else:
        size = _map("Size of the update, Frobenius norm", learnt, learnt.sizes, ".3g")
    ranks = [update.effective_rank for update in learnt.updates]
    rank = _map("Effective rank of the update", learnt, ranks, ".1f")
    drawn = {
        "Singular values, share of the largest": lambda axes: _spectrum(axes, learnt),
        "Energy of the update kept by rank": lambda axes: _energy(axes, learnt),
    }
    return dict([size, rank]) | {title: svg(title, draw) for title, draw in drawn.items()}


def compared(runs: Sequence[tuple[str, RunRecord]]) -> str:
    """The losses of several runs in one plot: held-out ones as dots, those of the steps as lines."""

    def draw(axes: Axes) -> None:
        for place, (name, run) in enumerate(runs):
            colour, line = COLOURS[place % len(COLOURS)], ("-", "--", ":")[place // len(COLOURS) % 3]
            steps, losses = _column(run, "loss")
            middle, mean, _, _ = binned(steps, losses, 60)
            axes.plot(middle, mean, color=colour, linestyle=line, linewidth=1, alpha=0.6)
            axes.plot(
                *_points(run.losses), color=colour, linestyle=line, marker="o", markersize=4, label=f" {name}"
            )  # a label that begins with _ is left out
        axes.set(xlabel="step", ylim=(0, None))
        _whole(axes.xaxis)
        if runs:
            axes.figure.legend(loc="outside upper left", ncols=1)

    return svg("Loss of each run, nats a token", draw, HEIGHT_IN + 0.2 * len(runs))


def binned(steps: numpy.ndarray, values: numpy.ndarray, most: int) -> tuple[numpy.ndarray, ...]:
    """At most so many points: (last step, mean, lowest, highest) of each bin of neighbouring steps."""
    count = min(most, len(steps))
    if not count:
        return (steps,) * 4
    edges = numpy.linspace(0, len(steps), count + 1).astype(int)
    starts, sizes = edges[:-1], numpy.diff(edges)
    mean = numpy.add.reduceat(values, starts) / sizes
    return steps[edges[1:] - 1], mean, numpy.minimum.reduceat(values, starts), numpy.maximum.reduceat(values, starts)


def _column(run: RunRecord, key: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    return _points([(line["step"], line[key]) for line in run.steps if key in line])


def _points(pairs: Iterable[tuple[float, float]]) -> tuple[numpy.ndarray, numpy.ndarray]:
    pairs = list(pairs)
    return numpy.array([x for x, _ in pairs], dtype=float), numpy.array([y for _, y in pairs], dtype=float)


def _speed(run: RunRecord) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Of the moment: the run itself writes down the mean since its begin. Over a fiftieth of the run, as one step's
    time says little."""
    known = [(line["step"], line["tokens"], line["elapsed_s"]) for line in run.steps if line.keys() >= SPEED]
    apart = max(1, len(known) // 50)
    spans = zip(known[::apart], known[apart::apart], strict=False)
    return _points((to[0], (to[1] - since[1]) / (to[2] - since[2])) for since, to in spans if to[2] > since[2])


def _line(axes: Axes, points: tuple[numpy.ndarray, numpy.ndarray]) -> None:
    """The mean of neighbouring steps; where a point stands for several, what they span too."""
    steps, mean, low, high = binned(*points, MOST_POINTS)
    if len(steps) < len(points[0]):
        axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(steps, mean, color=COLOURS[0], marker="o" if len(steps) == 1 else None)
    axes.set(xlabel="step")
    axes.set_ylim(bottom=min(0, low.min(initial=0)))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    _whole(axes.xaxis)


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _short(value: float, _: int) -> str:
    if value and abs(value) < 1e-2:
        return f"{value:.0e}".replace("e-0", "e-")
    return EngFormatter(sep="")(value) if abs(value) >= 1e4 else f"{value:g}"


def _whole(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set_major_formatter(FuncFormatter(_short))


def _losses(axes: Axes, run: RunRecord) -> None:
    points = _column(run, "loss")
    if points[0].size:
        steps, mean, low, high = binned(*points, MOST_POINTS)
        axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(steps, mean, color=COLOURS[0], linewidth=0.8, alpha=0.5)
        smooth, middle, _, _ = binned(*points, 50)
        axes.plot(smooth, middle, color=COLOURS[0], label="training")
    if run.losses:
        axes.plot(*_points(run.losses), color=COLOURS[1], marker="o", markersize=4, label="held-out rows")
    axes.set(xlabel="step", ylim=(0, None))
    _whole(axes.xaxis)
    axes.figure.legend(loc="outside upper left", ncols=2)


def _map(title: str, learnt: Learnt, values: Sequence[float], form: str) -> tuple[str, str]:
    """Title and plot of layer x projection, with a value for each update: the stronger the colour, the larger."""
    order = {name: place for place, name in enumerate(LINEAR_LAYERS)}
    names = sorted(
        {update.projection for update in learnt.updates}, key=lambda name: (order.get(name, len(order)), name)
    )
    layers = sorted({-1 if update.layer is None else update.layer for update in learnt.updates})
    cells: dict[tuple[int, int], list[float]] = {}
    for update, value in zip(learnt.updates, values, strict=True):
        place = (layers.index(-1 if update.layer is None else update.layer), names.index(update.projection))
        cells.setdefault(place, []).append(value)
    means = {place: sum(found) / len(found) for place, found in cells.items()}
    most = max(means.values()) or 1.0

    def draw(axes: Axes) -> None:
        squares = [Rectangle((layer, name), 1, 1) for layer, name in means]
        shades = [(*matplotlib.colors.to_rgb(CELL), 0.04 + 0.96 * found / most) for found in means.values()]
        axes.add_collection(PatchCollection(squares, facecolors=shades, edgecolors="none"))
        if len(layers) <= 8:  # room for the numbers
            for (layer, name), found in means.items():
                axes.text(layer + 0.5, name + 0.5, f"{found:{form}}", ha="center", va="center")
        every = max(1, len(layers) // 10)
        axes.set_xticks([place + 0.5 for place in range(0, len(layers), every)],
                        [str(layer) if layer >= 0 else "–" for layer in layers[::every]])  # fmt: skip
        axes.set_yticks([place + 0.5 for place in range(len(names))], [_cut(name) for name in names])
        axes.set(xlabel=f"layer; the strongest colour is {most:{form}}", xlim=(0, len(layers)), ylim=(len(names), 0))
        axes.grid(visible=False)

    return title, svg(title, draw, 0.6 + 0.3 * len(names))


def _spectrum(axes: Axes, learnt: Learnt) -> None:
    """Median and range of all layers."""
    most = max(len(update.singular_values) for update in learnt.updates)
    found = numpy.full((len(learnt.updates), most), numpy.nan)
    for place, update in enumerate(learnt.updates):
        sizes = numpy.array(update.singular_values)
        found[place, : len(sizes)] = sizes / (sizes[0] or 1.0)
    ranks = numpy.arange(1, most + 1)
    axes.fill_between(ranks, numpy.nanmin(found, 0), numpy.nanmax(found, 0), color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(ranks, numpy.nanmedian(found, 0), color=COLOURS[0], marker="o", markersize=3)
    axes.set(xlabel="number; line: median of the layers, band: all", ylim=(0, 1.05))
    _whole(axes.xaxis)


def _energy(axes: Axes, learnt: Learnt) -> None:
    ranks = range(1, learnt.rank + 1)
    axes.plot(ranks, [100 * learnt.energy(rank) for rank in ranks], color=COLOURS[0], marker="o", markersize=3)
    axes.axhline(100 * HELD, color=COLOURS[1], linestyle="--", linewidth=1)
    axes.axvline(learnt.rank_for(HELD), color=COLOURS[1], linestyle="--", linewidth=1)
    axes.set(xlabel=f"rank; dashed: {100 * HELD:.0f} % at rank {learnt.rank_for(HELD)}", ylabel="%", ylim=(0, 105))
    _whole(axes.xaxis)
