"""A copy of the data without the rows that should not be trained on, and the list of what was removed and why."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.data.choose import DUPLICATES, NOT_DRAWN, TOO_LONG, RowTable, Selection
from kit.data.encode import BAD_ANSWER
from kit.data.pipeline import Data
from kit.data.rows import sources
from kit.data.rows.sources import RawRow
from kit.options import Rows
from kit.support.errors import RowError, describe_error, failure
from kit.support.files import write_whole
from kit.support.user_shell import shell


def clean(data: Data, rows: Rows, out: Path) -> tuple[Path, int, int]:
    """Write `out` (JSON lines, UTF-8) and beside it the removed rows; returns the list's path, rows kept, rows removed.

    Removed are rows with an error, later copies of a row, training rows that stand in the evaluation, and rows beyond
    the limit where --long-rows drop says so. Raises KitError: `out` is there already, or the files differ in format.
    """
    removed = out.with_suffix(".removed.jsonl")
    table = data.selection.table
    _check(table, out, removed)
    codes = _codes(data.selection, rows)
    try:
        write_whole(out, (_line(raw.value) for raw, code in zip(_raws(rows), codes, strict=True) if not code))
        removals = (
            table.place(row).to_json() | {"code": code, "why": table.detail(row), "was": _was(raw)}
            for row, (raw, code) in enumerate(zip(_raws(rows), codes, strict=True))
            if code
        )
        write_whole(removed, map(_line, removals))
    except OSError as error:
        fix = "--fix a/folder/with/room/clean.jsonl"
        raise failure("output-cannot-be-written", f"{out} cannot be written.", describe_error(error), fix) from error
    return removed, codes.count(""), len(codes) - codes.count("")


def _check(table: RowTable, out: Path, removed: Path) -> None:
    there = [path for path in (out, removed) if path.exists()]
    if there:
        raise failure("output-exists", f"{there[0]} is there already.", "It is not overwritten.", "--fix OTHER.jsonl")
    if not out.parent.is_dir():
        raise failure(
            "output-folder-missing",
            f"There is no folder {out.parent}.",
            "The copy goes there.",
            shell().make_folder(str(out.parent)),
        )
    names = {file["format"] for file in table.files}
    if len(names) > 1:
        raise failure(
            "data-mixed-formats",
            f"The files hold rows of several formats: {', '.join(sorted(names))}.",
            "Rows of one file must have one format.",
            "python -m kit.data ONE_FILE --fix OUT.jsonl",
        )


def _codes(selection: Selection, rows: Rows) -> list[str]:
    """Why each row is removed; "" for those that stay."""
    stay = {BAD_ANSWER, NOT_DRAWN} | ({TOO_LONG} if rows.long_rows != "drop" else set())
    names = ["" if code in stay else code for code in selection.codes]
    repeated = selection.repeated.tolist()
    left_out = selection.left_out.tolist()
    return [names[code] or (DUPLICATES if repeated[row] else "") for row, code in enumerate(left_out)]


def _raws(rows: Rows) -> Iterator[RawRow]:
    """The rows of all files, read again."""
    files = (file for name in (*rows.data, *rows.eval_data) for file in sources.find_files([name]))
    return itertools.chain.from_iterable(map(sources.read_rows, files))


def _line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"  # half of a character as JSON escapes it


def _was(raw: RawRow) -> Any:
    return None if isinstance(raw.value, RowError) else raw.value
