"""The way of a row, from its file to the store, in one pass.

    RawRow       number, line and value, as its file holds it            rows/readers.py
    Example      conversations or plain text, checked                    rows/formats.py, rows/checks.py
    Segments     the template's text in pieces, trained or not           kit.prompt
    ids, spans   token ids, and which of them are trained                kit.prompt, in a worker thread
    Arrow        a line of rows.arrow, its samples in samples.arrow      store.py

A row that fails on the way keeps its line, with the code and the text of what is wrong. Rows are read and rendered
while the worker tokenises those before.
"""

import contextlib
import functools
import hashlib
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice, pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import kit
from kit.data import store
from kit.data.rows import checks, formats, sources
from kit.data.rows.formats import Conversation, Example, Format
from kit.data.rows.sources import RawRow, Source
from kit.options import Rows
from kit.prompt import ChatFormat, Segment, reasoning_and_text, thinks
from kit.support.errors import RowError, failure
from kit.support.progress import OnProgress

if TYPE_CHECKING:
    import pyarrow as pa

# A change of these makes older entries unknown.
CODE = ("data/rows/*.py", "prompt/*.py", "data/encode.py", "data/store.py")
CHUNK_ROWS = 1000
WAITING_CHUNKS = 2
DETECTED_ROWS = 100
QUIET_S = 1.0  # no progress is reported before
BAD_ANSWER = "data-marked-bad"  # no error: the row says itself that its answer is not to be learnt
# as a ParsedRow has them
ROW_COLUMNS = ("source", "number", "line", "question", "asked", "thinks", "code", "detail", "warnings")
Batches = tuple["pa.RecordBatch", "pa.RecordBatch"]  # of samples, of rows


@dataclass(slots=True)
class ParsedRow:
    """A row on its way: what is known of it, and its samples as pieces of text."""

    source: int
    number: int
    line: int
    samples: list[list[Segment]]
    question: int = 0
    asked: str | None = None
    thinks: bool = False
    code: str | None = None
    detail: str | None = None
    warnings: list[str] | None = None


def key_of(rows: Rows, files: list[Source], hashes: list[str], chat: ChatFormat) -> str:
    """The hash of all that decides what is stored: the files' bytes, what encodes them, how they are read, the code."""
    parts = [_code(), chat.fingerprint, rows.data_format, rows.columns, rows.system_texts]
    parts += [[file.kind, file.encoding, sha256] for file, sha256 in zip(files, hashes, strict=True)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> list[str]:
    """The source of everything that decides what is stored."""
    return [path.read_text("utf-8") for pattern in CODE for path in sorted(Path(kit.__file__).parent.glob(pattern))]


def encode(
    rows: Rows, files: list[Source], chat: ChatFormat, key: str, on_progress: OnProgress | None = None
) -> store.Stored:
    """Every row of the files, encoded or with the reason why not. Raises KitError for a file in no known format."""
    progress = _Progress(files, on_progress)
    with store.new_folder(key) as folder:
        with contextlib.closing(store.StoreWriter(folder)) as writer:
            head = [_encode_file(rows, index, file, chat, writer, progress) for index, file in enumerate(files)]
        (folder / store.HEAD).write_text(json.dumps({"files": head}), encoding="utf-8", newline="\n")
    stored = store.load(key)
    if stored is None:
        why = "Another program deleted or changed it at this moment."
        raise failure("cache-gone", f"The encoded data in {store.store_folder()} is gone.", why, "try again")
    return stored


def _encode_file(
    rows: Rows, index: int, file: Source, chat: ChatFormat, writer: store.StoreWriter, progress: "_Progress"
) -> dict[str, Any]:
    """Write the file's rows; returns what its content turned out to be."""
    raws = sources.read_rows(file, progress.on_bytes)
    first = list(islice(raws, DETECTED_ROWS))
    if rows.data_format == "auto":
        form, reason = formats.detect([raw.value for raw in first], rows.columns, file.name)
    else:
        form, reason = formats.by_name(rows.data_format), "named by --data-format"
    parsed = (_parse(index, raw, form, rows, chat) for raw in chain(first, raws))
    count = 0
    for samples, table in _tokenised(parsed, chat):
        writer.add(samples, table)
        count += len(table)
        progress.show(count)
    progress.next_file(count)
    return {"format": form.name, "format_reason": reason, "purpose": form.purpose, "rows": count}


def _parse(source: int, raw: RawRow, form: Format, rows: Rows, chat: ChatFormat) -> ParsedRow:
    row = ParsedRow(source, raw.number, raw.line, [])
    try:
        if isinstance(raw.value, RowError):
            raise raw.value
        example = formats.convert(raw.value, form, rows.columns)
        warnings = _check(example, chat) + _folded(example.conversations, rows, chat)
        row.asked = _asked(example)
        row.question = _hash(" ".join(row.asked.split()).casefold().encode("utf-8", "surrogatepass"))
        answers = (turn for talk in example.conversations for turn in talk.messages if turn["role"] == "assistant")
        row.thinks = any(map(thinks, answers))
        if example.good:
            row.samples = _segments(example, chat)
            warnings += _not_rendered(example.conversations, row.samples)
            warnings += _typed_special_tokens(example.conversations, row.samples, chat)
        else:
            row.code = BAD_ANSWER
        row.warnings = list(chain.from_iterable(warnings)) or None
    except RowError as error:
        detail = str(error).encode("utf-8", "replace").decode("utf-8")  # JSON may hold half of a character
        row.code, row.detail, row.samples = error.code, detail, []
    return row


def _tokenised(parsed: Iterable[ParsedRow], chat: ChatFormat) -> Iterator[Batches]:
    """Batches in order; the tokenizer works outside Python's lock: one chunk is encoded while the next is rendered."""
    with ThreadPoolExecutor(1) as worker:
        waiting: deque[Future[Batches]] = deque()
        while chunk := list(islice(parsed, CHUNK_ROWS)):
            waiting.append(worker.submit(_tokenise, chunk, chat))
            if len(waiting) > WAITING_CHUNKS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _tokenise(chunk: list[ParsedRow], chat: ChatFormat) -> Batches:
    """Token ids and trained spans of the samples of a chunk, and the lines of its rows."""
    import pyarrow as pa

    samples = [sample for row in chunk for sample in row.samples]
    encoded = chat.encoder.encode(samples)
    tokens = [_join(sample, ids) for sample, ids in zip(samples, encoded, strict=True)]
    ids, id_ends = _flatten([ids for ids, _ in tokens])
    spans, span_ends = _flatten([spans for _, spans in tokens])
    row_ends = id_ends[np.cumsum([0, *(len(row.samples) for row in chunk)])].tolist()
    columns = {name: [getattr(row, name) for row in chunk] for name in ROW_COLUMNS} | {
        "samples": [len(row.samples) for row in chunk],
        "content": [_hash(ids[begin:end].tobytes()) for begin, end in pairwise(row_ends)],
    }
    lists = [pa.ListArray.from_arrays(pa.array(id_ends), ids), pa.ListArray.from_arrays(pa.array(span_ends), spans)]
    schema = store.rows_schema()
    rows = pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    return pa.record_batch(lists, schema=store.samples_schema()), rows


def _join(sample: list[Segment], encoded: list[list[int]]) -> tuple[list[int], list[int]]:
    """Token ids of a sample, and start, stop, start, stop ... of the trained ones among them."""
    ids: list[int] = []
    spans: list[int] = []
    for piece, piece_ids in zip(sample, encoded, strict=True):
        start = len(ids)
        ids += piece_ids
        if piece.trained:
            spans += (start, len(ids))
    return ids, spans


def _flatten(lists: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """All numbers in one array, and where each list ends, after a 0."""
    ends = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    return np.fromiter(chain.from_iterable(lists), np.int32, count=int(ends[-1])), ends


class _Progress:
    """How far the files are read, in percent of all their bytes."""

    def __init__(self, files: list[Source], on_progress: OnProgress | None):
        self.on_progress = on_progress
        self.total_bytes = sum(file.size_bytes for file in files) or 1
        self.start_s = time.monotonic()
        self.bytes_before = self.rows_before = 0  # of the files that are done
        self.file_bytes = 0

    def on_bytes(self, count_bytes: int) -> None:
        self.file_bytes = count_bytes

    def show(self, rows: int) -> None:
        """rows: so many of this file are encoded."""
        if self.on_progress and time.monotonic() - self.start_s > QUIET_S:
            percent = min(100, 100 * (self.bytes_before + self.file_bytes) // self.total_bytes)
            self.on_progress("data", percent, 100, f"{self.rows_before + rows:,} rows")

    def next_file(self, rows: int) -> None:
        self.bytes_before += self.file_bytes
        self.rows_before += rows
        self.file_bytes = 0


def _check(example: Example, chat: ChatFormat) -> list[tuple[str, str]]:
    """Warnings as (code, detail). Raises RowError."""
    warnings = []
    for conversation in example.conversations:
        warnings += checks.check(conversation)
    if example.text is not None:
        checks.check_text(example.text)
        if token := chat.encoder.first_special_token(example.text):
            warnings.append(("data-text-with-markers", f"holds {token}"))
    return warnings


def _folded(conversations: Iterable[Conversation], rows: Rows, chat: ChatFormat) -> list[tuple[str, str]]:
    """A warning on a system text that the template has no place for. Raises RowError: it is not to be moved."""
    if not chat.folds_system or all(talk.messages[0]["role"] != "system" for talk in conversations):
        return []
    if rows.system_texts == "stop":
        raise RowError("data-system-not-taken", f"{chat.template_origin} takes no system turn")
    return [("data-system-folded", "the system text stands in front of the first question")]


def _segments(example: Example, chat: ChatFormat) -> list[list[Segment]]:
    samples = [] if example.text is None else [chat.text_segments(example.text)]
    for conversation in example.conversations:
        samples += chat.segments(conversation.messages, conversation.tools)
    if any(piece.text.strip() in ("", chat.end_token) for pieces in samples for piece in pieces if piece.trained):
        raise RowError("data-nothing-trained", f"{chat.template_origin} leaves nothing of an answer but its end")
    return samples


def _not_rendered(conversations: Iterable[Conversation], samples: list[list[Segment]]) -> list[tuple[str, str]]:
    """Warnings on what a row holds and the template leaves out."""
    text = "".join(piece.text for sample in samples for piece in sample)
    warnings = []
    for conversation in conversations:
        last = max(index for index, message in enumerate(conversation.messages) if message["role"] == "assistant")
        for number, message in enumerate(conversation.messages[: last + 1], start=1):
            warnings += [(code, f"turn {number}: {what}") for code, what in _left_out(message, text)]
        for tool in conversation.tools or ():
            if (name := tool.get("function", tool).get("name")) not in text:
                warnings.append(("data-tools-not-rendered", f"tool {name} is left out"))
                break
    return warnings


def _left_out(message: dict[str, Any], text: str) -> Iterator[tuple[str, str]]:
    """What of a message is not in the text, as (code, what). Some templates write the answers of tools as JSON."""
    reasoning, content = reasoning_and_text(message) if message["role"] == "assistant" else ("", message["content"])
    if content.strip() not in text and json.dumps(content, ensure_ascii=False)[1:-1] not in text:
        what = f"the {message['role']}'s text is left out"
        yield "data-system-not-rendered" if message["role"] == "system" else "data-turn-not-rendered", what
    if reasoning.strip() not in text:
        yield "data-reasoning-not-rendered", "the reasoning is left out"
    for call in message.get("tool_calls", ()):
        if (name := call["function"]["name"]) not in text:
            yield "data-tools-not-rendered", f"the call of {name} is left out"


def _typed_special_tokens(
    conversations: Iterable[Conversation], samples: list[list[Segment]], chat: ChatFormat
) -> list[tuple[str, str]]:
    """A warning where special tokens were typed into a row."""
    if not any(piece.has_typed_special_tokens for sample in samples for piece in sample):
        return []
    tokens = (chat.encoder.first_special_token(str(conversation.messages)) for conversation in conversations)
    return [("data-special-token-typed", f"holds {next(filter(None, tokens), 'one')}")]


def _asked(example: Example) -> str:
    """What is asked first: the message before the first answer, or the plain text."""
    if example.text is not None:
        return example.text
    messages = example.conversations[0].messages
    before = list(takewhile(lambda message: message["role"] != "assistant", messages))
    return before[-1]["content"] if before else ""


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
