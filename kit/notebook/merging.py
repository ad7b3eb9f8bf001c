"""A merge in a notebook: what was written, how large it is, and that it answers as the tuned model does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from kit.export.parity import Parity
from kit.merge import merge_with
from kit.notebook.pictures import Picture, stacked
from kit.notebook.tables import Table
from kit.report import plots
from kit.support import console
from kit.support.units import MIB


@dataclass(frozen=True, repr=False)
class Merged:
    """A model's folder, and its parity with base + adapter."""

    folder: Path
    parity: Parity

    @property
    def sizes_bytes(self) -> dict[str, int]:
        """Of the weights, by the name of the parity's row: a GGUF file, or the files of the 16-bit model together."""
        plain = sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))
        return {row.name: _size_bytes(self.folder / row.name) or plain for row in self.parity.rows}

    @property
    def top1_pct(self) -> dict[str, float]:
        return {row.name: row.top1_pct for row in self.parity.rows}

    def _table(self) -> Table:
        heads = ("", "MiB", "same text, ids, end token", "same next token, %", "largest difference of a logit", "")
        sizes = self.sizes_bytes
        return Table((heads, *(
            (row.name, f"{sizes[row.name] / MIB:.1f}",
             ", ".join({True: "yes", False: "no", None: "-"}[one] for one in (row.template, row.ids, row.end)),
             f"{row.top1_pct:g} (at least {row.bound.least_top1_pct:g})" if row.bound else f"{row.top1_pct:g}",
             f"{row.logit_share:.2%} of their range", "verified" if row.passed else "DIFFERS")
            for row in self.parity.rows)))  # fmt: skip

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def merge(source: str | Path, output: str | Path, **options: Any) -> Merged:
    """kit.merge with these options, without its talk. Raises KitError: also for an export that is not verified."""
    with console.saying_to(console.QUIET):
        return Merged(Path(output), merge_with(source, output, **options))


def sizes_and_agreement(merged: Merged) -> Picture:
    """What each number format costs and what it keeps."""
    sizes = {name: size / MIB for name, size in merged.sizes_bytes.items()}
    drawn = [
        ("Size of the weights, MiB", plots.svg("Sizes", lambda axes: _bars(axes, sizes, 0, "%.1f"), 2.4)),
        (
            "Same next token as base + adapter, %",
            plots.svg("Top-1", lambda axes: _bars(axes, merged.top1_pct, 2, "%.4g"), 2.4),
        ),
    ]
    return stacked(drawn, "sizes and agreement of the exports", columns=2)


def _bars(axes: Axes, values: dict[str, float], colour: int, form: str) -> None:
    names = list(values)[::-1]
    found = axes.barh(names, [values[name] for name in names], color=plots.COLOURS[colour], height=0.6)
    axes.bar_label(found, fmt=form, padding=3)
    axes.set(xlim=(0, 1.2 * max(values.values())), xticks=[])
    axes.grid(visible=False)
