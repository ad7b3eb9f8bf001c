"""What the field teaches, checked: a notebook's cell gives a verdict, the page of all claims is made of these cells.

from notebooks.claims import claim
claim(1, share == 0.0625, f"{count:,} weights, {share:.2%}")
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER / "CLAIMS.md"
MIME = "application/vnd.finetune-kit.claim+json"
WORDS = {  # kind of the claim -> (it holds, it does not)
    "figure": ("right", "wrong"),
    "method": ("works", "does not work"),
    "failure": ("caught", "not caught"),
}


@dataclass(frozen=True)
class Claim:
    """A row: what is said, by which tutorial, and what it is: a figure, a method to run, or a failure to catch."""

    number: int
    source: str
    kind: str
    text: str
    not_measured: str = ""  # why there is no verdict here


@dataclass(frozen=True)
class Verdict:
    """Ends a notebook's cell: shown as a line, and found by its own kind of output when the page is made."""

    claim: Claim
    word: str
    measured: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        line = f"**Claim {self.claim.number}: {self.word}.** *{self.claim.text}* {self.measured}"
        found = {"claim": self.claim.number, "verdict": self.word, "measured": self.measured}
        return {"text/markdown": line, "text/plain": line, MIME: found}


@dataclass(frozen=True)
class Shown:
    """A verdict in a saved notebook, and where it stands."""

    number: int
    word: str
    measured: str
    notebook: str
    cell: int  # as Jupyter counts: In [cell]


def read() -> dict[int, Claim]:
    rows = tomllib.loads((FOLDER / "claims.toml").read_text(encoding="utf-8"))["claim"]
    return {row["number"]: Claim(**row) for row in rows}


def claim(number: int, holds: bool | str, measured: str) -> Verdict:
    """The verdict on a claim: whether it holds, computed in the cell, or a word for what is neither yes nor no."""
    row = read()[number]
    word = holds if isinstance(holds, str) else WORDS[row.kind][0 if holds else 1]
    return Verdict(row, word, measured)


def verdicts(notebook: Path) -> list[Shown]:
    """Those in the saved outputs of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        Shown(found["claim"], found["verdict"], found["measured"], notebook.name, cell["execution_count"])
        for cell in cells
        for output in cell.get("outputs", [])
        if (found := output.get("data", {}).get(MIME))
    ]


def page() -> str:
    """CLAIMS.md: each claim with its verdict, what was measured, and the cell that shows it."""
    shown: dict[int, list[Shown]] = {}
    for notebook in sorted(FOLDER.glob("[0-9]*.ipynb")):
        for one in verdicts(notebook):
            shown.setdefault(one.number, []).append(one)
    claims = read()
    judged = sum(number in shown for number in claims)
    rows = [_row(row, shown.get(number, [])) for number, row in claims.items()]
    return "\n".join([
        "# What tutorials say, measured · 教程里的说法，逐条实测",
        "",
        f"{judged} of {len(claims)} claims of five tutorials have a verdict; every number stands in the output of",
        "the cell that the row links to. Made by `python -m notebooks` from the notebooks, not by hand.",
        "",
        f"五个教程里的 {len(claims)} 条说法，{judged} 条有结论；每个数字都出自所链接单元格保存的输出。",
        "",
        "| # | claim | verdict | measured | shown in |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def _row(row: Claim, shown: list[Shown]) -> str:
    words = " / ".join(dict.fromkeys(one.word for one in shown)) or "not measured"
    measured = " ".join(one.measured for one in shown) or row.not_measured
    places = ", ".join(f"[{one.notebook[:2]}]({one.notebook}) In [{one.cell}]" for one in shown) or "–"
    cells = (str(row.number), f"{row.text} ({row.source})", f"**{words}**", measured, places)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
