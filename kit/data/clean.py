"""A copy of the data without the rows that should not be trained on, and the list of what was removed and why."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.data import Data
from kit.data.choose import NOT_DRAWN, TOO_LONG, Choice
from kit.data.encode import BAD_ANSWER
from kit.data.rows import sources
from kit.options import Rows
from kit.support.errors import KitError, RowError, problem
from kit.support.files import write_whole


def clean(data: Data, rows: Rows, out: Path) -> tuple[Path, int, int]:
    """Write `out` (JSON lines, UTF-8) and beside it the removed rows; returns the list's path, rows kept, rows removed.

    Removed are rows with an error, later copies of a row, training rows that stand in the evaluation, and rows beyond
    the limit where --long-rows drop says so. Raises KitError: `out` is there already, or the files differ in format.
    """
    removed = out.with_suffix(".removed.jsonl")
    _check(data.choice, out, removed)
    codes = _codes(data.choice, rows)
    counts = {True: 0, False: 0}
    for code in codes:
        counts[not code] += 1
    try:
        write_whole(out, (_line(raw.value) for raw, code, _ in _rows(data.choice, rows, codes) if not code))
        write_whole(removed, (_removal(data.choice, *item) for item in _rows(data.choice, rows, codes) if item[1]))
    except OSError as error:
        why = f"{type(error).__name__}: {error}"
        raise KitError(
            problem(
                "output-cannot-be-written", f"{out} cannot be written.", why, "--fix a/folder/with/room/clean.jsonl"
            )
        ) from error
    return removed, counts[True], counts[False]


def _check(choice: Choice, out: Path, removed: Path) -> None:
    there = [path for path in (out, removed) if path.exists()]
    if there:
        raise KitError(
            problem("output-exists", f"{there[0]} is there already.", "It is not overwritten.", "--fix OTHER.jsonl")
        )
    if not out.parent.is_dir():
        raise KitError(
            problem("output-folder-missing", f"There is no folder {out.parent}.", "The copy goes there.", "mkdir it")
        )
    names = {file["format"] for file in choice.files}
    if len(names) > 1:
        raise KitError(
            problem(
                "data-mixed-formats",
                f"The files hold rows of several formats: {', '.join(sorted(names))}.",
                "Rows of one file must have one format.",
                "python -m kit.data ONE_FILE --fix OUT.jsonl",
            )
        )


def _codes(choice: Choice, rows: Rows) -> list[str]:
    """Why each row is removed; "" for those that stay."""
    stay = {BAD_ANSWER, NOT_DRAWN} | ({TOO_LONG} if rows.long_rows != "drop" else set())
    names = ["" if code in stay else code for code in choice.codes]
    twice = choice.twice.tolist()
    left_out = choice.left_out.tolist()
    return [names[code] or ("data-duplicates" if twice[row] else "") for row, code in enumerate(left_out)]


def _rows(choice: Choice, rows: Rows, codes: list[str]) -> Iterator[tuple[Any, str, int]]:
    """(raw row, why it is removed, its place in the store) of all files, read again."""
    files = itertools.chain.from_iterable(sources.find([name]) for name in (*rows.data, *rows.eval_data))
    raws = itertools.chain.from_iterable(map(sources.rows, files))
    return zip(raws, codes, range(len(codes)), strict=True)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) + "\n"


def _removal(choice: Choice, raw: Any, code: str, row: int) -> str:
    place = choice.place(row)
    value = None if isinstance(raw.value, RowError) else raw.value
    where = {"file": place.file, "row": place.number, "line": place.line or None}
    return _line(where | {"code": code, "why": choice.detail(row), "was": value})
