"""Encoded rows on disk: written in one pass, read through memory maps, found again by the hash of what they came from.

A stored data set is a folder of two Arrow files: `samples.arrow` (token ids and trained spans) and `rows.arrow` (what
became of each row). Memory therefore does not grow with the tokens.
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.prompt import IGNORED, Sample
from kit.support.cache import cache_folder
from kit.support.errors import KitError, describe_error, failure
from kit.support.files import delete_folder, replace_folder
from kit.support.user_shell import shell

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLES, ROWS, HEAD = "samples.arrow", "rows.arrow", "head.json"
CACHE_LIMIT_BYTES = 20 << 30  # the data sets used longest ago are deleted beyond this


def store_folder() -> Path:
    """Where encoded data sets are kept."""
    return cache_folder("data")


def samples_schema() -> "pa.Schema":
    """ids: the tokens; spans: start, stop, start, stop ... of the trained ones among them."""
    import pyarrow as pa

    return pa.schema([("ids", pa.list_(pa.int32())), ("spans", pa.list_(pa.int32()))])


def rows_schema() -> "pa.Schema":
    """One line a row, also for the rows that cannot be trained on; `code` and `detail` say why not."""
    import pyarrow as pa

    return pa.schema(
        [
            ("source", pa.int16()),
            ("number", pa.int64()),
            ("line", pa.int64()),
            ("samples", pa.int32()),
            ("question", pa.uint64()),  # hash of what is asked: rows of one question belong to one side of the split
            ("content", pa.uint64()),  # hash of the token ids
            ("asked", pa.string()),  # the text before the first answer, to show
            ("thinks", pa.bool_()),  # an answer holds reasoning
            ("code", pa.string()),
            ("detail", pa.string()),
            ("warnings", pa.list_(pa.string())),  # code, detail, code, detail ...
        ]
    )


def to_numpy(numbers: "pa.Array | pa.ChunkedArray") -> np.ndarray:
    """Numbers without nulls, not copied where they lie in one piece. pyarrow's own way imports pandas: 0.3 s."""
    if hasattr(numbers, "chunks"):
        parts = [to_numpy(chunk) for chunk in numbers.chunks]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, str(numbers.type)), *parts])
    if not len(numbers):
        return np.zeros(0, str(numbers.type))
    return np.frombuffer(numbers.buffers()[1], str(numbers.type))[numbers.offset : numbers.offset + len(numbers)]


class StoreWriter:
    """Two Arrow files under construction; `add` takes one batch of each."""

    def __init__(self, folder: Path):
        import pyarrow as pa

        self.opened = contextlib.ExitStack()  # the files by themselves: a writer that is closed leaves its file open
        samples, rows = (self.opened.enter_context(pa.OSFile(str(folder / name), "wb")) for name in (SAMPLES, ROWS))
        self.samples = self.opened.enter_context(pa.ipc.new_file(samples, samples_schema()))
        self.rows = self.opened.enter_context(pa.ipc.new_file(rows, rows_schema()))

    def add(self, samples: "pa.RecordBatch", rows: "pa.RecordBatch") -> None:
        self.samples.write_batch(samples)
        self.rows.write_batch(rows)

    def close(self) -> None:
        self.opened.close()


@contextmanager
def new_folder(key: str) -> Iterator[Path]:
    """A folder to write into; whole under its key in the cache afterwards, gone after an error.

    Raises KitError: the cache folder cannot be written to, or its disk is full. Errors of reading data pass through.
    """
    cache = store_folder()
    folder = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=cache))
        yield folder
        _put_in_place(folder, cache / key)
    except OSError as error:
        if folder and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise  # of the data's files, most likely
        raise _cannot_keep(cache, error) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    keep_within(cache, CACHE_LIMIT_BYTES, cache / key)


def _put_in_place(folder: Path, target: Path) -> None:
    """Also of one that could not be read. Raises KitError: it cannot have its name."""
    try:
        replace_folder(folder, target)
    except OSError as error:
        if not target.is_dir():  # else another process was first, or has it in use: its files are the same
            raise _cannot_keep(target.parent, error) from error


def _cannot_keep(cache: Path, error: OSError) -> KitError:
    return failure(
        "cache-cannot-be-written",
        f"Encoded data cannot be kept in {cache}.",
        describe_error(error),
        f"free some room on the disk of {cache}",
        shell().with_env("KIT_CACHE", "FOLDER", "python -m kit.train ...")
        + "       (a folder of yours on another disk)",
    )


def keep_within(cache: Path, limit_bytes: int, newest: Path) -> None:
    """Delete the data sets used longest ago; the newest one always stays, whatever the clock says of it.

    Other processes may delete in the same folder at the same time.
    """
    others: list[tuple[float, Path, int]] = []  # when it was used last, the folder, its size
    for folder in cache.iterdir():
        with contextlib.suppress(OSError):
            if folder != newest:
                others.append((folder.stat().st_mtime, folder, folder_size_bytes(folder)))
    total_bytes = folder_size_bytes(newest) + sum(size_bytes for *_, size_bytes in others)
    for _, folder, size_bytes in sorted(others):
        if total_bytes > limit_bytes:
            with contextlib.suppress(OSError):  # on Windows one that is in use stays, and whole
                delete_folder(folder)
                total_bytes -= size_bytes


def folder_size_bytes(folder: Path) -> int:
    """Of the files in it that are there."""
    total_bytes = 0
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(OSError):
                total_bytes += file.stat().st_size
    return total_bytes


def load(key: str) -> "Stored | None":
    """The data set of that key, if it is in the cache and can be read."""
    import pyarrow as pa

    folder = store_folder() / key
    try:
        head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        with pa.memory_map(str(folder / ROWS)) as rows_file, pa.memory_map(str(folder / SAMPLES)) as samples_file:
            rows = pa.ipc.open_file(rows_file).read_all()
            reader = pa.ipc.open_file(samples_file)
            pairs = [reader.get_batch(number).columns for number in range(reader.num_record_batches)]
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):  # a cache that may only be read is one, too
        os.utime(folder)
    parts = ((part for column in pair for part in (column.offsets, column.values)) for pair in pairs)
    return Stored(folder, head, rows, [tuple(map(to_numpy, batch)) for batch in parts])


@dataclass(frozen=True)
class Stored:
    """An encoded data set, its files mapped into memory.

    head: what the content of each file turned out to be, whatever its name; rows: as in rows_schema; batches: (offsets
    and values of the ids, offsets and values of the spans) of each batch of samples.
    """

    folder: Path
    head: dict[str, Any]
    rows: "pa.Table"
    batches: list[tuple[np.ndarray, ...]]

    @cached_property
    def first_of_batch(self) -> list[int]:
        """Number of the first sample of each batch."""
        firsts = [0]
        for offsets, *_ in self.batches:
            firsts.append(firsts[-1] + len(offsets) - 1)
        return firsts

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample."""
        return np.concatenate([np.diff(offsets) for offsets, *_ in self.batches] or [np.zeros(0, np.int32)])

    @cached_property
    def token_ids(self) -> np.ndarray:
        """Every token id in it, each once, in order."""
        found = [np.flatnonzero(np.bincount(ids)) for _, ids, *_ in self.batches]
        return np.unique(np.concatenate(found or [np.zeros(0, np.int64)]))

    def sample(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, spans as [start, stop] pairs) of a sample."""
        batch = bisect_right(self.first_of_batch, number) - 1
        place = number - self.first_of_batch[batch]
        id_offsets, ids, span_offsets, spans = self.batches[batch]
        pairs = spans[span_offsets[place] : span_offsets[place + 1]].reshape(-1, 2)
        return ids[id_offsets[place] : id_offsets[place + 1]], pairs

    @cached_property
    def first_trained(self) -> np.ndarray:
        """Place of the first trained token of each sample."""
        return np.concatenate([spans[offsets[:-1]] for _, _, offsets, spans in self.batches] or [np.zeros(0, np.int32)])

    @cached_property
    def trained(self) -> np.ndarray:
        """Trained tokens of each sample."""
        counts = []
        for _, _, offsets, spans in self.batches:
            ends = np.concatenate([[0], np.cumsum(spans[1::2] - spans[0::2])])
            counts.append(ends[offsets[1:] // 2] - ends[offsets[:-1] // 2])
        return np.concatenate(counts or [np.zeros(0, np.int64)])


@dataclass(frozen=True)
class Samples:
    """Chosen samples, or stretches of them, read when they are asked for.

    number, start, stop, row (arrays of one length): the sample's number in the store, the tokens taken of it, its row.
    """

    stored: Stored
    number: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    row: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return self.stop - self.start

    def __len__(self) -> int:
        return len(self.number)

    def take(self, index: np.ndarray | list[int]) -> "Samples":
        """Those at these places, in this order."""
        return Samples(self.stored, *(column[index] for column in (self.number, self.start, self.stop, self.row)))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        start, stop = self.start[index], self.stop[index]
        ids, spans = self.stored.sample(int(self.number[index]))
        labels = np.full(len(ids), IGNORED, np.int64)
        for first, last in spans:
            labels[first:last] = ids[first:last]
        return Sample(int(self.row[index]), ids[start:stop].tolist(), labels[start:stop].tolist())

    def tokens_by_row(self, wanted: np.ndarray, but_last: bool) -> dict[int, list[int]]:
        """Row -> those of the wanted token ids that it holds, of rows that hold any; but_last: a sample's last token
        does not count."""
        found: dict[int, list[int]] = {}
        places = zip(self.number, self.start, self.stop - but_last, self.row, strict=True)
        for number, start, stop, row in places:
            held = np.intersect1d(self.stored.sample(number)[0][start:stop], wanted)
            if len(held):
                found[int(row)] = [*found.get(int(row), []), *held.tolist()]
        return found

    def trained_tokens(self) -> int:
        """Trained tokens of all of them."""
        total = int(self.stored.trained[self.number].sum())
        shortened = np.flatnonzero(self.lengths != self.stored.lengths[self.number])
        for index in shortened:  # few: the rows that were cut
            total -= int(self.stored.trained[self.number[index]])
            total += self[int(index)].trained_tokens
        return total
