"""Samples as the model sees them, the trained tokens marked: in a terminal, and as HTML in a notebook."""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy
from rich.console import Group
from rich.text import Text

from kit.data.pipeline import Data
from kit.prompt import IGNORED, ChatFormat, Sample

TRAINED, OTHER = "bold green", "dim"
OPEN, CLOSE = "⟦", "⟧"  # around trained text, for screens without colour and people who do not see it
CARD = "border:1px solid #8886;border-radius:6px;padding:.6em .8em;margin:.5em 0;white-space:pre-wrap;line-height:1.5"
MARK = "color:inherit;background:#2da44e33;border-bottom:2px solid #2da44e"


@dataclass(frozen=True)
class Preview:
    """The first `rows` rows to train on, or those of these numbers, to print with rich or to end a notebook's cell."""

    data: Data
    chat: ChatFormat
    rows: int | tuple[int, ...] = 3

    def samples(self) -> list[Sample]:
        """Those of the rows, in the order of the files."""
        train = self.data.train
        wanted = numpy.unique(train.row)[: self.rows] if isinstance(self.rows, int) else self.rows
        return [train[index] for index in numpy.flatnonzero(numpy.isin(train.row, wanted)).tolist()]

    def title(self, sample: Sample) -> str:
        place = self.data.selection.table.place(sample.row)
        return f"{place}: {len(sample.ids)} tokens, {sample.trained_tokens} trained"

    def __rich__(self) -> Group:
        return Group(*map(self._text, self.samples()))

    def __repr__(self) -> str:
        """Where HTML is not shown; it names no folder of this machine."""
        return "\n".join(self._text(sample).plain for sample in self.samples())

    def _text(self, sample: Sample) -> Text:
        text = Text().append(self.title(sample) + "\n", style="bold")
        for piece, trained in stretches(sample, self.chat):
            text.append(f"{OPEN}{piece}{CLOSE}" if trained else piece, style=TRAINED if trained else OTHER)
        return text.append("\n")

    def _repr_html_(self) -> str:
        return "".join(map(self._card, self.samples()))

    def _card(self, sample: Sample) -> str:
        words = "".join(
            f'<mark style="{MARK}">{html.escape(piece)}</mark>' if trained else html.escape(piece)
            for piece, trained in stretches(sample, self.chat)
        )
        return f'<div style="{CARD}"><b>{html.escape(self.title(sample))}</b>\n{words}</div>'

    def to_json(self) -> list[dict]:
        pieces = ((self.title(sample), stretches(sample, self.chat)) for sample in self.samples())
        return [{"row": title, "pieces": list(map(list, parts))} for title, parts in pieces]


def stretches(sample: Sample, chat: ChatFormat) -> Iterator[tuple[str, bool]]:
    """(decoded text, trained) for each run of tokens that are trained or not."""
    pairs = zip(sample.ids, (label != IGNORED for label in sample.labels), strict=True)
    for trained, run in groupby(pairs, key=lambda pair: pair[1]):
        yield chat.tokenizer.decode([token for token, _ in run], skip_special_tokens=False), trained
