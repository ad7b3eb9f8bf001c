"""The rows of a spreadsheet as text, read by python-calamine in a process of its own.

The library lays a sheet out as one block of memory: a stray cell in the last corner asks for 512 GiB, and the process
that asks is ended by the system. So it is not the run's. This file is that program too; it imports nothing of the kit.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

ENDED = "The program that reads spreadsheets was ended. Is there a stray cell far below or right of the rows?"
LARGEST_EXACT = 1e15  # a spreadsheet keeps 15 digits


class Sheet(NamedTuple):
    """The sheet that is read: the first with cells in it, those that are not hidden before the others.

    others: the sheets that hold cells and are not read; rows: (number of the row in the sheet, text of its cells),
    without empty rows and columns.
    """

    name: str
    others: list[str]
    rows: Iterator[tuple[int, list[str]]]


@contextmanager
def open_sheet(path: Path) -> Iterator[Sheet | None]:
    """None: no sheet holds anything. Raises OSError for a file that is broken, protected or no spreadsheet."""
    command = [sys.executable, "-P", __file__, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8") as child:
        assert child.stdout
        lines = _complete_lines(child, child.stdout)
        head = next(lines)
        if head and "error" in head:
            raise OSError(head["error"])
        yield Sheet(**head, rows=lines) if head else None


def _complete_lines(child: subprocess.Popen, stdout: IO[str]) -> Iterator[Any]:
    yield from (json.loads(line) for line in stdout if line.endswith("\n"))
    if child.wait():
        raise OSError(ENDED)


def _print_rows(path: str) -> None:
    """As JSON, a line each: what is known of the sheet, {"error": ...} or null, then its rows."""
    from python_calamine import CalamineError, PasswordError

    try:
        sheet, *others = _sheets(path) or [None]
    except PasswordError:
        print(json.dumps({"error": "It is protected by a password."}))
    except (CalamineError, OSError) as error:
        print(json.dumps({"error": str(error)}))
    else:
        print(json.dumps(sheet and {"name": sheet.name, "others": [other.name for other in others]}))
        rows = [[_text(cell) for cell in row] for row in sheet.iter_rows()] if sheet else []
        filled = [column for column in range(len(rows[0]) if rows else 0) if any(row[column] for row in rows)]
        for number, row in enumerate(rows, start=1):
            if any(row):
                print(json.dumps([number, [row[column] for column in filled]]))


def _sheets(path: str) -> list[Any]:
    """Those that hold cells, hidden ones last."""
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    workbook = _workbook(path)
    listed = [about for about in workbook.sheets_metadata if about.typ == SheetTypeEnum.WorkSheet]
    listed.sort(key=lambda about: about.visible != SheetVisibleEnum.Visible)
    sheets = (workbook.get_sheet_by_name(about.name) for about in listed)
    return [sheet for sheet in sheets if sheet.height]


def _workbook(path: str) -> Any:
    """What its ending says, or what its content says where that is something else."""
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    try:
        return CalamineWorkbook.from_path(path)
    except PasswordError:
        raise
    except CalamineError:
        with Path(path).open("rb") as file:
            return CalamineWorkbook.from_filelike(file)


def _text(cell: object) -> str:
    """As a spreadsheet writes it into a CSV file: 4 and not 4.0, TRUE, 2024-01-31."""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < LARGEST_EXACT:
        return str(int(cell))
    return str(cell)


if __name__ == "__main__":
    _print_rows(sys.argv[1])
