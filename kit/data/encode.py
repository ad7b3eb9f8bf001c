"""Files -> a stored data set, in one pass: rows are read and rendered while a worker thread tokenises those before."""

import functools
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kit
from kit.data import store
from kit.data.rows import checks, formats, sources
from kit.data.rows.formats import Conversation, Example, Format
from kit.data.rows.sources import Raw, Source
from kit.options import Rows
from kit.prompt import ChatFormat, Segment
from kit.support.errors import KitError, RowError, problem

if TYPE_CHECKING:
    import pyarrow as pa

# A change of these makes older entries unknown.
CODE = ("data/rows/*.py", "prompt/*.py", "data/encode.py", "data/store.py")
CHUNK_ROWS = 1000
WAITING_CHUNKS = 2
DETECTED_ROWS = 100
BAD_ANSWER = "data-marked-bad"  # no error: the row says itself that its answer is not to be learnt
Told = Callable[[int, int], None]  # bytes read, rows read


@dataclass(slots=True)
class Parsed:
    """A row on its way: what is known of it, and its samples as pieces of text."""

    source: int
    number: int
    line: int
    samples: list[list[Segment]]
    question: int = 0
    asked: str | None = None
    code: str | None = None
    detail: str | None = None
    warnings: list[str] | None = None


def key_of(rows: Rows, files: list[Source], hashes: list[str], chat: ChatFormat) -> str:
    """The hash of all that decides what is stored: the files' bytes, what encodes them, how they are read, the code."""
    parts = [_code(), chat.fingerprint, rows.data_format, rows.columns]
    parts += [[file.kind, file.encoding, sha256] for file, sha256 in zip(files, hashes, strict=True)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> list[str]:
    """The source of everything that decides what is stored."""
    return [path.read_text("utf-8") for pattern in CODE for path in sorted(Path(kit.__file__).parent.glob(pattern))]


def encode(rows: Rows, files: list[Source], chat: ChatFormat, key: str, told: Told) -> store.Stored:
    """Every row of the files, encoded or with the reason why not. Raises KitError for a file in no known format."""
    with store.new(key) as folder:
        writer = store.Writer(folder)
        head = []
        try:
            for number, file in enumerate(files):
                head.append(_encode_file(rows, number, file, chat, writer, told))
        finally:
            writer.close()
        (folder / store.HEAD).write_text(json.dumps({"files": head}), encoding="utf-8")
    stored = store.find(key)
    if stored is None:
        why = "Another program deleted or changed it at this moment."
        raise KitError(problem("cache-gone", f"The encoded data in {store.cache_folder()} is gone.", why, "try again"))
    return stored


def _encode_file(
    rows: Rows, number: int, file: Source, chat: ChatFormat, writer: store.Writer, told: Told
) -> dict[str, Any]:
    """Write the file's rows; returns what its content turned out to be."""
    read_bytes = 0

    def hear(count_bytes: int) -> None:
        nonlocal read_bytes
        read_bytes = count_bytes

    raws = sources.rows(file, hear)
    first = list(islice(raws, DETECTED_ROWS))
    form, reason = _format(rows, file, first)
    parsed = (_parse(number, raw, form, rows.columns, chat) for raw in chain(first, raws))
    count = 0
    for samples, table in _in_worker(parsed, chat):
        writer.add(samples, table)
        count += len(table)
        told(read_bytes, count)
    return {"format": form.name, "format_reason": reason, "purpose": form.purpose, "rows": count}


def _format(rows: Rows, file: Source, first: list[Raw]) -> tuple[Format, str]:
    if rows.data_format != "auto":
        return formats.by_name(rows.data_format), "named by --data-format"
    return formats.detect([raw.value for raw in first], rows.columns, file.name)


def _in_worker(parsed: Iterable[Parsed], chat: ChatFormat) -> Iterator[tuple["pa.RecordBatch", "pa.RecordBatch"]]:
    """Batches in order; the tokenizer works outside Python's lock: one chunk is encoded while the next is rendered."""
    with ThreadPoolExecutor(1) as worker:
        waiting: deque = deque()
        while chunk := list(islice(parsed, CHUNK_ROWS)):
            waiting.append(worker.submit(_batch, chunk, chat))
            if len(waiting) > WAITING_CHUNKS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _parse(source: int, raw: Raw, form: Format, columns: dict[str, str], chat: ChatFormat) -> Parsed:
    row = Parsed(source, raw.number, raw.line, [])
    try:
        if isinstance(raw.value, RowError):
            raise raw.value
        example = formats.convert(raw.value, form, columns)
        warnings = _checked(example, chat)
        row.asked = _asked(example)
        row.question = _hash(" ".join(row.asked.split()).casefold().encode("utf-8", "surrogatepass"))
        if example.good:
            row.samples = _samples(example, chat)
            warnings += _not_rendered(example.conversations, row.samples)
            warnings += _typed(example.conversations, row.samples, chat)
        else:
            row.code = BAD_ANSWER
        row.warnings = list(chain.from_iterable(warnings)) or None
    except RowError as error:
        row.code, row.detail, row.samples = error.code, str(error), []
    return row


def _checked(example: Example, chat: ChatFormat) -> list[tuple[str, str]]:
    """Warnings as (code, detail). Raises RowError."""
    found = []
    for conversation in example.conversations:
        found += checks.check(conversation)
    if example.text is not None:
        checks.check_text(example.text)
        if token := chat.first_special_token(example.text):
            found.append(("data-text-with-markers", f"holds {token}"))
    return found


def _not_rendered(conversations: Iterable[Conversation], samples: list[list[Segment]]) -> list[tuple[str, str]]:
    """Warnings on what a row holds and the template leaves out: reasoning, tools."""
    found = []
    for conversation in conversations:
        reasoning = [message.get("reasoning_content") for message in conversation.messages]
        if not (conversation.tools or any(reasoning)):
            continue
        text = "".join(piece.text for sample in samples for piece in sample)
        if any(thought and thought.strip() not in text for thought in reasoning):
            found.append(("data-reasoning-not-rendered", "reasoning_content is left out"))
        if conversation.tools and "name" in (tool := conversation.tools[0]).get("function", tool):
            name = tool.get("function", tool)["name"]
            found += [] if name in text else [("data-tools-not-rendered", f"tool {name} is left out")]
    return found


def _typed(
    conversations: Iterable[Conversation], samples: list[list[Segment]], chat: ChatFormat
) -> list[tuple[str, str]]:
    """A warning where special tokens were typed into a row."""
    if not any(piece.has_typed_special_tokens for sample in samples for piece in sample):
        return []
    token = next(
        filter(None, (chat.first_special_token(str(conversation.messages)) for conversation in conversations)), "one"
    )
    return [("data-special-token-typed", f"holds {token}")]


def _samples(example: Example, chat: ChatFormat) -> list[list[Segment]]:
    found = [] if example.text is None else [chat.text_segments(example.text)]
    for conversation in example.conversations:
        found += chat.segments(conversation.messages, conversation.tools)
    trained = {piece.text.strip() for pieces in found for piece in pieces if piece.trained}
    if trained <= {"", chat.end_token}:
        raise RowError("data-nothing-trained", f"{chat.template_origin} leaves nothing of the answers but their end")
    return found


def _asked(example: Example) -> str:
    """What is asked first: the message before the first answer, or the plain text."""
    if example.text is not None:
        return example.text
    before = ""
    for message in example.conversations[0].messages:
        if message["role"] == "assistant":
            break
        before = message["content"]
    return before


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _batch(chunk: list[Parsed], chat: ChatFormat) -> tuple["pa.RecordBatch", "pa.RecordBatch"]:
    """Token ids and trained spans of the samples of a chunk, and the lines of its rows."""
    import numpy as np
    import pyarrow as pa

    pieces = [piece for row in chunk for sample in row.samples for piece in sample]
    encoded = iter(chat.encode(pieces))
    ids: list[int] = []
    spans: list[int] = []
    id_ends, span_ends, contents = [0], [0], []
    for row in chunk:
        begin = len(ids)
        for sample in row.samples:
            start = len(ids)
            for piece in sample:
                before = len(ids) - start
                ids += next(encoded)
                if piece.trained:
                    spans += (before, len(ids) - start)
            id_ends.append(len(ids))
            span_ends.append(len(spans))
        contents.append((begin, len(ids)))
    flat = np.array(ids, dtype=np.int32)
    samples = pa.record_batch(
        [_lists(id_ends, flat), _lists(span_ends, np.array(spans, dtype=np.int32))], schema=store.samples_schema()
    )
    columns = {
        "source": [row.source for row in chunk],
        "number": [row.number for row in chunk],
        "line": [row.line for row in chunk],
        "samples": [len(row.samples) for row in chunk],
        "question": [row.question for row in chunk],
        "content": [_hash(flat[begin:end].tobytes()) for begin, end in contents],
        "asked": [None if row.asked is None else _storable(row.asked) for row in chunk],
        "code": [row.code for row in chunk],
        "detail": [None if row.detail is None else _storable(row.detail) for row in chunk],
        "warnings": [row.warnings for row in chunk],
    }
    schema = store.rows_schema()
    return samples, pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _lists(ends: list[int], values: Any) -> "pa.ListArray":
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values, pa.int32()))


def _storable(text: str) -> str:
    """Without lone surrogates, which JSON may hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
