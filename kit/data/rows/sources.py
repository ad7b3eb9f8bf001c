"""What was given as data -> the files it stands for, each with its kind and encoding and the reason for them."""

import codecs
import csv
import difflib
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePath
from typing import NamedTuple, TypeVar

from kit.data.rows import encodings, hub
from kit.data.rows.readers import (
    UNREADABLE,
    RawRow,
    Source,
    csv_reader,
    decode_json,
    key_of_rows,
    read_rows,
    sha256,
    start_of,
)
from kit.data.rows.spreadsheet import open_sheet
from kit.support.errors import KitError, RowError, did_you_mean, failure, for_each, problem
from kit.support.user_shell import quoted, shell

__all__ = ["RawRow", "Source", "find_files", "read_rows", "sha256"]

SAMPLE_BYTES = 1 << 20
FIRST_ROWS = 20
ENDINGS = {
    "json lines": ".jsonl .ndjson .json",
    "csv": ".csv",
    "tsv": ".tsv .tab",
    "text": ".txt",
    "parquet": ".parquet .pq",
    "arrow": ".arrow .feather",
    "spreadsheet": ".xlsx .xlsm .xlsb .xls .ods",
}
KINDS = {ending: kind for kind, endings in ENDINGS.items() for ending in endings.split()}
TABLE_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
SPREADSHEET_MAGIC = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
READ_FROM = f"Rows are read from {', '.join(KINDS)}."
# Files that lie beside data in its folder: they are read only when they are given themselves.
NOT_ROWS = re.compile(r"(readme|license|requirements.*|state|dataset_(infos?|dict)|(.*[._-])?config)\.(json|txt)", re.I)
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+){0,2}")
SURELY_JSON = re.compile(r'\s*(\[\s*)?\{\s*"')  # in a file whose ending says csv or text


AnyPath = TypeVar("AnyPath", bound=PurePath)


class NoData(NamedTuple):
    """Something that people give for data: known by its ending, or else by its first bytes."""

    what: str
    fix: str
    endings: str
    magic: tuple[bytes, ...]


NO_DATA = (
    NoData("a file of Office", "give it its own ending, such as .xls", "", (b"\xd0\xcf\x11\xe0",)),
    NoData("a document", "save its text as .txt in UTF-8", ".pdf .docx .doc .odt .rtf", (b"%PDF",)),
    NoData(
        "an archive",
        "unpack it and give the files inside",
        ".zip .gz .tgz .tar .bz2 .xz .zst .7z",
        (b"PK\x03\x04", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ", b"(\xb5/\xfd", b"7z\xbc\xaf"),
    ),
    NoData("an image", "give rows of text", ".png .jpg .jpeg .gif .webp", (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")),
    NoData("a database", "export the table as CSV", ".db .sqlite", (b"SQLite format 3",)),
    NoData("a Git-LFS pointer, not the data", "git lfs pull", "", (b"version https://git-lfs",)),
    NoData(
        "a web page", "download the file itself, not the page that shows it", "", (b"<!DOCTYPE", b"<!doctype", b"<html")
    ),
)


def find_files(given: Sequence[str]) -> list[Source]:
    """The data files that the names stand for: files, folders (searched to the bottom), patterns, data sets on the hub.

    In a folder, hidden files and those of NOT_ROWS (README.txt, config.json) are no data. Raises one KitError with the
    problems of all names.
    """
    return list(chain.from_iterable(for_each(lambda name: for_each(_source, _files(name)), given)))


def _files(name: str) -> list[tuple[str, Path]]:
    """(name for messages, path) of each file that a given name stands for."""
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return _in_folder(name, path)
        if path.exists():
            return [(name, path)]
        if matches := _matches(name, path):
            return [file for match in matches for file in _files(str(match))]
        if HUB_NAME.fullmatch(name) and path.suffix.lower() not in KINDS:
            files = hub.find_split(name)
            return [(name if len(files) == 1 else f"{name}/{file.name}", file) for file in files]
        raise _missing(name, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~somebody who has no home
        raise _unreadable(name, error) from None


def in_order(paths: Iterable[AnyPath]) -> list[AnyPath]:
    """The same on every system, as the order of rows comes of it; paths of Windows ignore capitals by themselves."""
    return sorted(paths, key=lambda path: path.parts)


def _matches(name: str, path: Path) -> list[Path]:
    """What fits a pattern that the shell left as it was; like the shell's, it does not find hidden files."""
    if not any(sign in name for sign in "*?["):
        return []
    try:
        paths = in_order(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except (ValueError, NotImplementedError):  # no pattern at all, such as a**
        return []
    return [match for match in paths if not any(part.startswith(".") for part in {*match.parts} - {*path.parts})]


def _in_folder(name: str, folder: Path) -> list[tuple[str, Path]]:
    files = []
    for path in in_order(folder.rglob("*")):
        inside = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in inside.parts)
        if _is_data(path.name) and not is_hidden and path.is_file():
            files.append((f"{name.rstrip('/' + os.sep)}/{inside.as_posix()}", path))
    if files:
        return files
    raise failure(
        "data-file-missing",
        f"There is no data file in the folder {name}.",
        f"{READ_FROM} Hidden files and those such as README.txt and config.json are passed over.",
        f"--data {quoted(Path(name) / 'FILE')}",
        details={"files there": _listed(path.name for path in folder.iterdir())},
    )


def _is_data(name: str) -> bool:
    is_lock = name.startswith("~$")  # beside a workbook that is open in Excel
    return Path(name).suffix.lower() in KINDS and not is_lock and not NOT_ROWS.fullmatch(name)


def _missing(name: str, path: Path) -> KitError:
    folder = path.parent
    there = sorted(item.name for item in folder.iterdir() if _is_data(item.name)) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, there) or there
    return failure(
        "data-file-missing",
        f"There is no file {name}. {did_you_mean(path.name, there)}".rstrip(),
        "The path is taken as it is typed, from the folder you are in."
        if folder.is_dir()
        else f"There is no folder {folder} either.",
        *(f"--data {quoted(folder / other)}" for other in near[:3]),
        "--data examples/identity.jsonl",
        details={"data files there": _listed(there)},
    )


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return (", ".join(names[:5]) or "none") + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _unreadable(name: str, error: Exception | str, *fix: str) -> KitError:
    return failure(
        UNREADABLE,
        f"{name} cannot be read.",
        getattr(error, "strerror", None) or str(error),
        f"{shell().show_rights(name)}        (may you read it, and is it whole?)",
        *(fix or ("make or download the file again",)),
    )


def _empty(name: str, what: str) -> KitError:
    return failure("data-file-empty", f"{name} {what}.", "There is nothing to learn from.", "make the file again")


def _source(named: tuple[str, Path]) -> Source:
    """The file (name for messages, path) with its kind, by its first bytes, its ending and its text."""
    name, path = named
    try:
        if not path.is_file():
            raise OSError("It is a pipe or a device, and the rows are read twice.")
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(SAMPLE_BYTES)
    except OSError as error:
        raise _unreadable(name, error) from None
    if not head:
        raise _empty(name, "is empty")
    ending = path.suffix.lower()
    by_magic = next((kind for magic, kind in TABLE_MAGIC.items() if head.startswith(magic)), "")
    kind = by_magic or KINDS.get(ending, "")
    if not (kind == "spreadsheet" and head.startswith(SPREADSHEET_MAGIC)):
        _refuse_no_data(name, ending, head)
    source = Source(name, path, kind, "its first bytes" if by_magic else "its ending", size_bytes)
    if kind == "spreadsheet":
        source = _sheet(source)
    elif not by_magic:
        source = _text_source(source, head)
    first = next(read_rows(source), None)
    if first is None:
        raise _empty(name, "holds no row")
    if isinstance(first.value, RowError) and first.value.code == UNREADABLE:
        raise _unreadable(name, str(first.value))
    return source


def _refuse_no_data(name: str, ending: str, head: bytes) -> None:
    known = next((known for known in NO_DATA if ending and ending in known.endings.split()), None)
    known = known or next((known for known in NO_DATA if head.startswith(known.magic)), None)
    if known:
        raise failure("data-file-unknown", f"{name} is {known.what}.", READ_FROM, known.fix)


def _text_source(source: Source, head: bytes) -> Source:
    whole = len(head) < SAMPLE_BYTES
    encoding, findings = encodings.detect(source.name, source.path, head, whole)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head, whole)
    source = replace(source, encoding=encoding, findings=findings)
    if source.kind == "text" and not SURELY_JSON.match(text):
        if "" in map(str.strip, text.strip().split("\n")):
            return replace(source, separator="\n\n", reason="its ending; blank lines part the rows")
        return replace(source, separator="\n", reason="its ending; there is no blank line, so every line is a row")
    if source.kind in ("csv", "tsv") and not SURELY_JSON.match(text):
        return _cells(source, text, whole)
    first = text.lstrip()[:1]
    if first == "[":
        return replace(source, kind="json list", reason="the first character is [")
    if first == "{":
        return _objects(source, text, whole)
    if source.kind:
        return source
    what = f"{source.name} has no ending of a data file, and its content does not tell what it is."
    fix, details = "give it the ending of its kind: .txt for plain text", {"it begins with": start_of(text)}
    raise failure("data-file-unknown", what, READ_FROM, fix, details=details)


def _objects(source: Source, text: str, whole: bool) -> Source:
    """One object a line; or one object in all, which is a row or holds the list of them."""
    lines = replace(source, kind="json lines", reason="the first character is {")
    first, end, is_cut = decode_json(text, text.index("{"))
    is_one = is_cut and not whole if isinstance(first, Exception) else not text[end:].strip()
    if not is_one:
        return lines
    try:
        content = json.loads(source.path.read_text(source.encoding))
    except (ValueError, RecursionError):
        return lines
    key = key_of_rows(content)
    if key is not None:
        return replace(source, kind="json list", reason=f"the file is one object, and its list {key!r} holds the rows")
    if "\n" in text.strip():
        return replace(source, kind="json list", reason="the file is one object, which is the only row")
    return lines


def _sheet(source: Source) -> Source:
    """With the sheet that is read, and a warning that names the others."""
    try:
        with open_sheet(source.path) as sheet:
            _, names = next(sheet.rows) if sheet else (0, None)
    except OSError as error:
        fix = "open it and save it as CSV UTF-8, or as .xlsx without a password"
        raise _unreadable(source.name, error, fix) from None
    if not (sheet and names):
        raise _empty(source.name, "holds no row")
    _check_header(source, [name.strip() for name in names])
    source = replace(source, reason=f"its ending; the rows are those of the sheet {sheet.name!r}")
    if not sheet.others:
        return source
    warning = problem(
        "data-sheets-not-read",
        f"Of {source.name} the sheet {sheet.name!r} is read and no other.",
        "Rows are taken from the first sheet that holds any; hidden ones come last.",
        "save each sheet as a file of its own and give all of them to --data",
        "or move the sheet that is meant to the first place",
        details={"not read": ", ".join(sheet.others)},
        severity="warning",
    )
    return replace(source, findings=(warning,))


def _cells(source: Source, text: str, whole: bool) -> Source:
    """With the separator that splits the header, and a warning where it is not the usual one."""
    usual = "\t" if source.kind == "tsv" else ","
    separator, first = usual, _first_rows(text, usual, whole)
    if first and len(first[0]) == 1:
        for separator in (*SEPARATORS, usual):
            first = _first_rows(text, separator, whole)
            if len(first) > 1 and len(first[0]) > 1 and len(set(map(len, first))) == 1:
                break
    _check_header(source, [name.strip() for name in first[0]] if first else [])
    if separator == usual:
        return replace(source, separator=separator)
    warning = problem(
        "data-csv-separator",
        f"{source.name} is read with {SEPARATORS[separator]} between its cells.",
        f"With {SEPARATORS[usual]}, as its ending says, every row would be a single cell.",
        f"save it with {SEPARATORS[usual]} between the cells",
        details={"columns": ", ".join(first[0])},
        severity="warning",
    )
    return replace(source, separator=separator, findings=(*source.findings, warning))


def _first_rows(text: str, separator: str, whole: bool) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for cells in filter(None, csv_reader(io.StringIO(text, newline=""), separator)):
            rows.append(cells)
            if len(rows) == FIRST_ROWS:
                return rows
    except csv.Error:
        return rows  # the line is named when it is read
    return rows if whole else rows[:-1]


def _check_header(source: Source, names: list[str]) -> None:
    odd = sorted({name or "(no name)" for name in names if not name or names.count(name) > 1})
    if names and not odd:
        return
    writer = "to_excel" if source.kind == "spreadsheet" else "to_csv"
    raise failure(
        "data-csv-header",
        f"The first row of {source.name} does not name the columns.",
        "Rows are read by the names of their columns: each needs one of its own.",
        "write the names into the first row, such as question,answer",
        f"df.{writer}(FILE, index=False)        (pandas writes its index as a column without a name)",
        details={"missing or twice": ", ".join(odd) or "all: a quote in the first row is not closed"},
    )
