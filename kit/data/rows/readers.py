"""One data file of a known kind -> its rows as they stand there, lazily: memory does not grow with the file.

There are two exceptions: spreadsheets, and a JSON file that is a single object around its list of rows.

A long JSON list is decoded by Python's own decoder, an element at a time. ijson is no substitute: it ends at NaN and at
the first wrong byte, makes "?" of half a character without a word, knows no lines, and takes memory that grows with the
square of the depth.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from envcheck.facts import Finding
from kit.data.rows.spreadsheet import open_sheet
from kit.support.errors import RowError

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_BYTES = 1 << 20
BATCH_ROWS = 1000
CELL_CHARACTERS = 1 << 24  # a quote that is never closed must not swallow a file of gigabytes
SHOWN_CHARACTERS = 60
LONGEST_LITERAL = 16  # characters of a JSON word or escape: an error nearer to the end may only mean that it is cut
DOES_NOT_PARSE, NOT_UTF8, UNREADABLE = "data-line-does-not-parse", "data-not-utf8", "data-file-unreadable"
JSON_COLUMNS = {"messages", "conversations", "tools", "chosen", "rejected"}
BETWEEN = re.compile(r"[\s,:]*")
DECODER = json.JSONDecoder()
OnBytes = Callable[[int], None]  # bytes of the file read so far
Lines = Iterator[tuple[int, Any]]  # (line, row)


@dataclass(frozen=True)
class Source:
    """One data file: what it is and why. `separator` stands between cells (csv, tsv) or between rows (text)."""

    name: str
    path: Path
    kind: str  # one of READERS
    reason: str
    size_bytes: int
    encoding: str = ""
    findings: tuple[Finding, ...] = ()
    separator: str = ""


class RawRow(NamedTuple):
    """A row: its number from 1, its first line (0 where there are none), what it holds or a RowError saying why not."""

    number: int
    line: int
    value: Any


def read_rows(source: Source, on_bytes: OnBytes | None = None) -> Iterator[RawRow]:
    """Every row of the file in order. Raises nothing for bad content."""
    number = 0
    try:
        rows = READERS[source.kind](source, on_bytes or (lambda read_bytes: None))
        for number, (line, value) in enumerate(rows, start=1):
            yield RawRow(number, line, value)
    except UnicodeDecodeError as error:
        text = f"the text is no {source.encoding.upper()} from here on ({error.reason}); nothing after this is read"
        yield RawRow(number + 1, 0, RowError(NOT_UTF8, text))
    except OSError as error:
        yield RawRow(number + 1, 0, RowError(UNREADABLE, f"{error.strerror or error}; nothing after this is read"))


def sha256(source: Source) -> str:
    """Of the file's bytes, in hexadecimal digits."""
    with source.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _ReportingFile(io.FileIO):
    """A file that reports how far it was read."""

    def __init__(self, path: Path, on_bytes: OnBytes):
        super().__init__(path)
        self.on_bytes = on_bytes

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self.on_bytes(self.tell())
        return count


def _open(source: Source, on_bytes: OnBytes, newline: str | None) -> io.TextIOWrapper:
    """As text; a byte that is no text becomes a lone surrogate, which `_not_utf8` finds in its row."""
    file = io.BufferedReader(_ReportingFile(source.path, on_bytes), CHUNK_BYTES)
    return io.TextIOWrapper(file, source.encoding, errors="surrogateescape", newline=newline)


def _not_utf8(text: str) -> RowError | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        return RowError(NOT_UTF8, f"byte 0x{byte:02X} at character {error.start + 1} is not UTF-8: {start_of(text)}")
    return None


def start_of(text: str) -> str:
    """The first characters, fit to be shown."""
    return text.strip()[:SHOWN_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def _json_lines(source: Source, on_bytes: OnBytes) -> Lines:
    with _open(source, on_bytes, newline="\n") as file:
        for line, text in enumerate(file, start=1):
            if not text.isspace():
                yield line, _not_utf8(text) or _parsed(text)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _does_not_parse(error, text)


def _does_not_parse(error: Exception, text: str, at: int = 0) -> RowError:
    """`text` from `at` on does not parse."""
    if isinstance(error, RecursionError):
        return RowError(DOES_NOT_PARSE, "brackets nested too deeply")
    reason = str(error)
    if isinstance(error, json.JSONDecodeError):
        reason = f"{error.msg} at character {error.pos - at + 1}"
    return RowError(DOES_NOT_PARSE, f"{reason}: {start_of(text[at : at + 2 * SHOWN_CHARACTERS])}")


def _json_list(source: Source, on_bytes: OnBytes) -> Lines:
    with _open(source, on_bytes, newline="\n") as file:
        text = file.read(CHUNK_BYTES)
        start = len(text) - len(text.lstrip())
        if text[start : start + 1] == "{":
            text += file.read()
            content = _parsed(text)
            key = key_of_rows(content)
            if key is None:
                yield 1 + text.count("\n", 0, start), _not_utf8(text) or content
                return
            start, end = _extent(text, start, key)
            text = text[:end]
        yield from _elements(file, text, start + 1, 1 + text.count("\n", 0, start))


def key_of_rows(content: Any) -> str | None:
    """The one key of an object whose value is a list of objects, unless the object is itself a row with its turns."""
    if not isinstance(content, dict) or JSON_COLUMNS & content.keys():
        return None
    keys = [key for key, value in content.items() if _is_list_of_objects(value)]
    return keys[0] if len(keys) == 1 else None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _extent(text: str, at: int, key: str) -> tuple[int, int]:
    """Where the list under `key` begins and ends in the text of an object that is known to hold it."""
    at += 1
    while True:
        name, at = DECODER.raw_decode(text, _next_token(text, at))
        start = _next_token(text, at)
        value, at = DECODER.raw_decode(text, start)
        if name == key and _is_list_of_objects(value):
            return start, at


def _next_token(text: str, at: int) -> int:
    """Where blanks, commas and colons end."""
    match = BETWEEN.match(text, at)
    return match.end() if match else at


def _elements(file: io.TextIOWrapper, text: str, at: int, line: int) -> Lines:
    """The elements of a list whose text goes on in the file; after a broken one nobody knows where the next begins."""
    while True:
        start = _next_token(text, at)
        line += text.count("\n", at, start)
        if text.startswith("]", start):
            rest = text[start + 1 :] + file.read(CHUNK_BYTES)
            if rest.strip():
                yield line, RowError(DOES_NOT_PARSE, f"the list has ended, and this is not read: {start_of(rest)}")
            return
        value, end, is_cut = decode_json(text, start)
        if is_cut and (more := file.read(max(CHUNK_BYTES, len(text) - start))):
            text, at = text[start:] + more, 0
        elif isinstance(value, Exception):
            ended = start == len(text)
            why = "the file ends before the list does" if ended else str(_does_not_parse(value, text, start))
            yield line, RowError(DOES_NOT_PARSE, f"{why}; nothing after this is read")
            return
        else:
            yield line, _not_utf8(text[start:end]) or value
            line += text.count("\n", start, end)
            at = end


def decode_json(text: str, start: int) -> tuple[Any, int, bool]:
    """The value that begins there or the error of decoding it, where it ends, and whether more text may change that."""
    try:
        value, end = DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        near_the_end = error.pos > len(text) - LONGEST_LITERAL
        return error, start, near_the_end or error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError) as error:
        return error, start, False
    return value, end, end > len(text) - LONGEST_LITERAL  # 1.5 may go on as 1.5e-7


def csv_reader(file: io.TextIOBase, separator: str) -> Any:
    """`csv.reader` that takes long cells and refuses quotes that do not fit."""
    csv.field_size_limit(CELL_CHARACTERS)
    return csv.reader(file, delimiter=separator, strict=True)


def _csv(source: Source, on_bytes: OnBytes) -> Lines:
    with _open(source, on_bytes, newline="") as file:
        reader = csv_reader(file, source.separator)
        header = [name.strip() for name in next(filter(None, reader), [])]
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, RowError(DOES_NOT_PARSE, f"{error} (a quote that is not closed or not doubled?)")
                continue
            if cells:
                yield line, _csv_row(header, cells)


def _csv_row(header: list[str], cells: list[str]) -> dict[str, Any] | RowError:
    text = " ".join(cells)
    if len(cells) != len(header):
        counts = f"{len(cells)} cells where the header has {len(header)} (a separator in a text without quotes?)"
        return RowError("data-csv-cells", f"{counts}: {start_of(text)}")
    if "\0" in text:
        return RowError("data-nul-character", f"a NUL character stands in it: {start_of(text.replace(chr(0), ' '))}")
    if error := _not_utf8(text):
        return error
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in JSON_COLUMNS & row.keys():
        if row[name].lstrip().startswith(("[", "{")):
            row[name] = _parsed(row[name])
            if isinstance(row[name], RowError):
                return RowError("data-field-not-json", f"{name} does not parse: {row[name]}")
    return row


def _sheet(source: Source, on_bytes: OnBytes) -> Lines:
    with open_sheet(source.path) as sheet:
        header: list[str] | None = None
        for number, cells in sheet.rows if sheet else ():
            if header:
                yield number, _csv_row(header, cells)
            header = header or [name.strip() for name in cells]
    on_bytes(source.size_bytes)


def _text(source: Source, on_bytes: OnBytes) -> Lines:
    with _open(source, on_bytes, newline=None) as file:
        first = 0
        lines: list[str] = []
        for number, line in enumerate(chain(file, ("",)), start=1):
            if line.strip():
                first = first if lines else number
                lines.append(line)
            if lines and (source.separator == "\n" or not line.strip()):
                text = "".join(lines).rstrip("\n")
                yield first, _not_utf8(text) or {"text": text}
                lines = []


def _table(source: Source, on_bytes: OnBytes) -> Lines:
    import pyarrow as pa

    batches = _parquet_batches if source.kind == "parquet" else _arrow_batches
    try:
        for batch, share in batches(source.path):
            for start in range(0, len(batch), BATCH_ROWS):
                for row in _plain(batch.slice(start, BATCH_ROWS)):
                    yield 0, row
            on_bytes(int(share * source.size_bytes))
    except pa.ArrowException as error:
        raise OSError(str(error)) from None


def _parquet_batches(path: Path) -> Iterator[tuple["pa.RecordBatch", float]]:
    """Batches with the share of the file that has been read; streamed, as a row group may be the whole file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, buffer_size=CHUNK_BYTES, pre_buffer=False) as file:
        done = 0
        for batch in file.iter_batches(BATCH_ROWS):
            done += len(batch)
            yield batch, min(1.0, done / max(1, file.metadata.num_rows))  # a broken file may say that it has none


def _arrow_batches(path: Path) -> Iterator[tuple["pa.RecordBatch", float]]:
    """The same for an Arrow file (or Feather) and for an Arrow stream, the form in which `datasets` keeps its cache."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            count = reader.num_record_batches
            yield from ((reader.get_batch(index), (index + 1) / count) for index in range(count))
        else:
            file.seek(0)
            yield from ((batch, file.tell() / file.size()) for batch in pa.ipc.open_stream(file))


def _plain(batch: "pa.RecordBatch") -> list[Any]:
    """Rows of plain Python values; one that has none (text that is not UTF-8, a date before year 1) fails alone."""
    try:
        batch.validate(full=True)  # or a broken file would point anywhere in memory, and Python would crash
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            is_text = isinstance(error, UnicodeError) or "UTF8" in str(error)
            return [RowError(NOT_UTF8 if is_text else "data-value-unreadable", str(error))]
        return [_plain(batch.slice(index, 1))[0] for index in range(len(batch))]


READERS: dict[str, Callable[[Source, OnBytes], Lines]] = {
    "json lines": _json_lines,
    "json list": _json_list,
    "csv": _csv,
    "tsv": _csv,
    "parquet": _table,
    "arrow": _table,
    "text": _text,
    "spreadsheet": _sheet,
}
