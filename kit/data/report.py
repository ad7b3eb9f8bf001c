"""What data turned out to be: records, and the findings on its rows."""

from dataclasses import asdict, dataclass
from typing import Any

from envcheck.facts import Finding
from kit.data.rows.codes import FIX, MEND, WHY
from kit.support.errors import problem

PLACES_SHOWN = 5


@dataclass(frozen=True)
class Place:
    """Where a row stands: number from 1 in its file, its first line (0 in a file without lines)."""

    file: str
    number: int
    line: int

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "row": self.number, "line": self.line or None}

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file} row {self.number}"
        return f"{self.file}:{self.line}" + (f" (row {self.number})" if self.number != self.line else "")


@dataclass(frozen=True)
class DataReport:
    """What became of every row. rows_read = rows_trained + rows_held_out + the sum of rows_left_out; lengths in tokens.

    A conversation gives several samples where the template renders earlier answers differently (see kit.prompt).
    """

    files: tuple[dict[str, Any], ...]
    sha256: str
    template: str
    purpose: str  # answers, text, preferences, or several of them
    rows_read: int
    rows_trained: int
    rows_held_out: int
    rows_left_out: dict[str, int]  # code -> rows
    rows_cut: int
    rows_twice: int
    rows_thinking: int  # trained, with reasoning in an answer
    samples: int  # an epoch
    tokens: int
    trained_tokens: int
    median_tokens: int
    longest_tokens: int
    histogram: tuple[tuple[int, int], ...]  # (longest of the bin, samples), read and held-out ones together

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def finding_on_rows(
    code: str, count: int, places: list[tuple[Place, str]], severity: str, fix: str = "", what: str = ""
) -> Finding:
    """One finding for all rows with that code; `places`: the first of them, each with what is wrong there."""
    if not what:
        rows = f"{count} rows" if count > 1 else "A row"
        odd = f"may not be what you want ({code.removeprefix('data-')})"
        what = f"{rows} {'cannot be trained on' if severity == 'error' else odd}."
    details = {str(place): detail for place, detail in places[:PLACES_SHOWN]}
    if count > PLACES_SHOWN:
        details["and"] = f"{count - PLACES_SHOWN} more"
    fixes = filter(None, (fix, FIX.get(code, MEND)))
    return problem(code, what, WHY[code], *fixes, details=details, severity=severity)
