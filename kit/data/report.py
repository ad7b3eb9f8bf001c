"""What data turned out to be: records, and the findings on its rows."""

from dataclasses import asdict, dataclass
from typing import Any

from envcheck.facts import Finding
from kit.data.rows.checks import ADVICE, WHY
from kit.support.errors import problem

PLACES_SHOWN = 5
FURTHER_WHY = {
    "data-line-does-not-parse": "A broken line is often half of a row: what stands around it may be wrong too.",
    "data-not-utf8": "Text is read as UTF-8: other bytes would become other characters.",
    "data-nul-character": "The character that ends text in many programs: what stands behind it would be lost there.",
    "data-value-unreadable": "The table holds a value that is no text, number, list or record.",
    "data-file-unreadable": "The file is damaged here: what follows was not read.",
    "data-nested-too-deep": "Templates write lists and objects by going into them, and there is an end to that.",
    "data-csv-cells": "A row with another number of cells has its texts in the wrong columns.",
    "data-template": "The chat template refuses this conversation.",
    "data-nothing-trained": "Every label would be masked: the row costs time and teaches nothing.",
    "data-text-with-markers": "The text seems rendered by a template already: all of it is trained, questions too.",
    "data-special-token-typed": "Typed into a message it could end the turn and speak for somebody else.",
    "data-reasoning-not-rendered": "The template has no place for it: what the model thought would be lost.",
    "data-tools-not-rendered": "The template has no place for them: the model would call what it was never told of.",
    "data-duplicates": "A row that stands twice is learnt twice.",
    "data-evaluation-leak": "A question that was trained on says nothing when it is asked in the evaluation.",
    "data-answer-cut-away": "Nothing of the answer stands before the limit: such a row teaches nothing.",
}
FURTHER_ADVICE = {
    "data-file-unreadable": "make or download the file again",
    "data-csv-cells": "put cells with a comma or a line break in double quotes, or save the table as .jsonl",
    "data-text-with-markers": "give chat messages instead, and only the answers are trained",
    "data-special-token-typed": "nothing: it is encoded as plain text, here and when the model is asked",
    "data-reasoning-not-rendered": "--template qwen3-thinking        (keeps it), or nothing, if it shall not be learnt",
    "data-tools-not-rendered": "--template NAME        (one with tools, such as qwen3)",
    "data-duplicates": "python -m kit.data FILE --fix clean.jsonl        (keeps the first of each)",
    "data-evaluation-leak": "--data-on-error skip        (leaves these rows out of training)",
    "data-answer-cut-away": "--max-length-tokens N       (longer), or --long-rows drop",
    "data-template": "--template NAME             (another one), or mend the rows",
}


@dataclass(frozen=True)
class Place:
    """Where a row stands: number from 1 in its file, its first line (0 in a file without lines)."""

    file: str
    number: int
    line: int

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
    """One finding for all rows with that code; `places`: the first of them."""
    rows = f"{count} rows" if count > 1 else "A row"
    said = "cannot be trained on" if severity == "error" else f"may not be what you want ({code.removeprefix('data-')})"
    what = what or f"{rows} {said}."
    return problem(
        code,
        what,
        (WHY | FURTHER_WHY)[code],
        *(text for text in (fix, (ADVICE | FURTHER_ADVICE).get(code, "mend or delete these rows")) if text),
        details={str(place): text for place, text in places[:PLACES_SHOWN]}
        | ({"and": f"{count - PLACES_SHOWN} more"} if count > PLACES_SHOWN else {}),
        severity=severity,
    )
