"""A data file -> rows -> conversations -> training and held-out samples, with a report whose counts add up.

Nothing is cut, and nothing is left out without being counted. The tokenizer is an argument; no torch here.
"""

import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit import formats
from kit.config import Run
from kit.errors import USAGE, KitError, RowError, problem
from kit.formats import Conversation
from kit.prompt import ChatFormat, Sample, TemplateError

LONG_ROWS_PCT = 1.0
HELD_OUT_PCT = 10.0
PLACES_SHOWN = 5
WHY = {
    "data-row-format": "Rows of one file must have one form, or a row is learnt as something it is not.",
    "data-no-answer": "Only answers are trained: such a row teaches nothing.",
    "data-field-empty": "The model would learn to say nothing.",
    "data-field-not-text": "Only text can be put into the template.",
    "data-field-not-json": "Tools and calls are JSON inside the row.",
    "data-preference-pair": "This command trains on answers; training on preferences is not there yet.",
    "data-role-unknown": "The template has no place for that role.",
    "data-template": "The chat template refuses this conversation.",
    "data-line-does-not-parse": "A broken line is often half of a row: what stands around it may be wrong too.",
}


@dataclass(frozen=True)
class DataReport:
    """What became of every row. rows_read = rows_trained + rows_held_out + the sum of rows_left_out; lengths in tokens.

    A conversation gives several samples where the template renders earlier answers differently (see kit.prompt).
    """

    file: str
    sha256: str
    format: str
    format_reason: str
    template: str
    rows_read: int
    rows_trained: int
    rows_held_out: int
    rows_left_out: dict[str, int]
    left_out_lines: dict[str, list[int]]
    samples: int
    tokens: int
    trained_tokens: int
    median_tokens: int
    longest_tokens: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Data:
    """Samples to train on and to measure on; `questions`: those of the held-out rows, or of the first rows."""

    train: list[Sample]
    held_out: list[Sample]
    questions: list[Conversation]
    report: DataReport
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Row:
    number: int  # its line in a .jsonl file, its place in a .json list; from 1
    conversation: Conversation


def read(run: Run, chat: ChatFormat) -> Data:
    """Everything of run.data that can be trained on.

    Raises KitError with all problems at once: a file that is missing, empty or does not parse, rows in no known format,
    rows that cannot be trained on, too many rows beyond run.max_length_tokens.
    """
    path = _file(run.data)
    raw = path.read_bytes()
    numbered = list(_rows(path, raw))
    rows, form, marked_bad = _conversations(path, numbered)
    samples = _encode(path, rows, chat)
    kept, too_long, findings = _within_length(run, samples, path)
    test = _held_out(run, [row for row in rows if row.number in kept])
    train = [sample for number, group in kept.items() if number not in test for sample in group]
    held_out = [sample for number, group in kept.items() if number in test for sample in group]
    if not train:
        raise KitError(
            problem(
                "data-nothing-to-train",
                f"{path} leaves no row to train on.",
                "Every row was left out.",
                "give another file, or a larger --max-length-tokens",
                details={"marked as a bad answer": len(marked_bad), "too long": len(too_long)},
            )
        )
    lengths = [len(sample.ids) for sample in (*train, *held_out)]
    report = DataReport(
        file=str(path),
        sha256=hashlib.sha256(raw).hexdigest(),
        format=form.name,
        format_reason=f"the first row has {' and '.join(form.keys)}",
        template=chat.template_origin,
        rows_read=len(numbered),
        rows_trained=len(kept) - len(test),
        rows_held_out=len(test),
        rows_left_out={"marked as a bad answer": len(marked_bad), "too long": len(too_long)},
        left_out_lines={"marked as a bad answer": marked_bad, "too long": too_long},
        samples=len(train),
        tokens=sum(len(sample.ids) for sample in train),
        trained_tokens=sum(sample.trained_tokens for sample in train),
        median_tokens=int(statistics.median(lengths)),
        longest_tokens=max(lengths),
    )
    aloud = [row for row in rows if row.number in test] or rows[:3]
    return Data(train, held_out, [_question(row.conversation) for row in aloud], report, findings)


def _file(path: Path | None) -> Path:
    if path is None:
        raise KitError(
            problem(
                "no-data",
                "No data file was given.",
                "A run needs rows to learn from.",
                "python -m kit.train --data examples/identity.jsonl",
            ),
            status=USAGE,
        )
    if not path.is_file():
        what = f"{path} is a folder." if path.is_dir() else f"There is no file {path}."
        near = sorted(item.name for item in path.parent.glob("*.json*"))[:5] if path.parent.is_dir() else []
        raise KitError(
            problem(
                "data-file-missing",
                what,
                "The path is taken as it is typed, from the folder you are in.",
                "--data examples/identity.jsonl",
                details={"files there": ", ".join(near) or "none"},
            )
        )
    if path.stat().st_size == 0:
        raise KitError(
            problem(
                "data-file-empty",
                f"{path} is empty.",
                "It holds no bytes: a download or an export that failed?",
                "make the file again",
            )
        )
    return path


def _rows(path: Path, raw: bytes) -> Iterator[tuple[int, Any]]:
    """(number, row) of a JSON list or of one JSON object a line; blank lines are no rows."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise KitError(
            problem(
                "data-not-utf8",
                f"{path} is not UTF-8.",
                f"Line {line}, byte {error.start}: {error.reason}.",
                f"iconv -f GB18030 -t UTF-8 {path} > utf8-{path.name}     (with the file's real encoding)",
            )
        ) from None
    if text.lstrip().startswith("["):
        yield from enumerate(_json_list(path, text), start=1)
    else:
        yield from _json_lines(path, text)


def _json_list(path: Path, text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise KitError(_does_not_parse(path, [(getattr(error, "lineno", 1), str(error))])) from None
    except RecursionError:
        raise KitError(_does_not_parse(path, [(1, "brackets nested too deeply")])) from None
    if not rows:
        raise KitError(
            problem("data-file-empty", f"{path} holds an empty list.", "There is no row in it.", "make the file again")
        )
    return rows


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    broken, found = [], False
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            broken.append((number, f"{error}: {line.strip()[:60]}"))
        except RecursionError:
            broken.append((number, "brackets nested too deeply"))
        else:
            found = True
            yield number, row
    if broken:
        raise KitError(_does_not_parse(path, broken))
    if not found:
        raise KitError(
            problem(
                "data-file-empty", f"{path} holds only blank lines.", "There is no row in it.", "make the file again"
            )
        )


def _does_not_parse(path: Path, broken: list[tuple[int, str]]) -> Finding:
    count = f"{len(broken)} lines do" if len(broken) > 1 else "A line does"
    return problem(
        "data-line-does-not-parse",
        f"{count} not parse as JSON in {path}.",
        WHY["data-line-does-not-parse"],
        f"sed -n {broken[0][0]}p {path}        (look at the line, then mend or delete it)",
        details={f"{path.name}:{line}": text for line, text in broken[:PLACES_SHOWN]},
    )


def _conversations(path: Path, numbered: list[tuple[int, Any]]) -> tuple[list[Row], formats.Format, list[int]]:
    """The rows as conversations, their format, and the numbers of rows marked as bad answers."""
    form = formats.detect(numbered[0][1])
    if form is None:
        first = numbered[0][1]
        keys = ", ".join(map(str, first)) if isinstance(first, dict) else type(first).__name__
        raise KitError(
            problem(
                "data-format-unknown",
                f"The rows of {path} are in no known format.",
                "The first row decides, by its keys.",
                *(f"{known.name}: {{{', '.join(known.keys)}}}" for known in formats.FORMATS),
                details={"the first row has": keys},
            )
        )
    rows, marked_bad, problems = [], [], defaultdict(list)
    for number, row in numbered:
        try:
            if not isinstance(row, dict):
                raise RowError("data-row-format", f"{type(row).__name__} where an object should be")
            conversation = formats.convert(row, form)
        except RowError as error:
            problems[error.code].append((number, str(error)))
            continue
        if conversation is None:
            marked_bad.append(number)
        else:
            rows.append(Row(number, conversation))
    _stop_on(problems, path)
    return rows, form, marked_bad


def _stop_on(problems: dict[str, list[tuple[int, str]]], path: Path) -> None:
    """Raise every kind of problem at once, each with its first places."""
    if problems:
        raise KitError(*(_row_finding(code, places, path) for code, places in problems.items()))


def _row_finding(code: str, places: list[tuple[int, str]], path: Path) -> Finding:
    rows = f"{len(places)} rows of {path} cannot" if len(places) > 1 else f"A row of {path} cannot"
    lines = ", ".join(str(number) for number, _ in places[:PLACES_SHOWN])
    return problem(
        code,
        f"{rows} be trained on.",
        WHY[code],
        f"mend or delete row {lines}{' ...' if len(places) > PLACES_SHOWN else ''}",
        details={f"{path.name}:{number}": text for number, text in places[:PLACES_SHOWN]},
    )


def _encode(path: Path, rows: Iterable[Row], chat: ChatFormat) -> dict[int, list[Sample]]:
    """Row number -> its samples."""
    pieces, problems = [], defaultdict(list)
    for row in rows:
        try:
            pieces += [
                (row.number, sample) for sample in chat.segments(row.conversation.messages, row.conversation.tools)
            ]
        except TemplateError as error:
            problems["data-template"].append((row.number, str(error)))
    _stop_on(problems, path)
    samples = defaultdict(list)
    for sample in chat.encode(pieces):
        samples[sample.row].append(sample)
    return samples


def _within_length(
    run: Run, samples: dict[int, list[Sample]], path: Path
) -> tuple[dict[int, list[Sample]], list[int], tuple]:
    """Rows that fit run.max_length_tokens, the numbers of those that do not, and what to say about them."""
    limit = run.max_length_tokens
    longest = {number: max(len(sample.ids) for sample in group) for number, group in samples.items()}
    too_long = [number for number, length in longest.items() if length > limit]
    kept = {number: group for number, group in samples.items() if longest[number] <= limit}
    share_pct = 100 * len(too_long) / max(1, len(longest))
    if not too_long:
        return kept, [], ()
    enough = sorted(longest.values())[int(0.99 * (len(longest) - 1))]
    details = {
        "too long": f"{len(too_long)} of {len(longest)} rows ({share_pct:.1f} %)",
        "longest row": f"{max(longest.values())} tokens",
        "first rows": ", ".join(map(str, too_long[:PLACES_SHOWN])),
    }
    if share_pct > LONG_ROWS_PCT and run.long_rows == "stop":
        raise KitError(
            problem(
                "data-rows-too-long",
                f"{share_pct:.1f} % of the rows of {path} are longer than {limit} tokens.",
                "Cutting them would teach answers without an end, leaving them out would change the data: your choice.",
                f"--max-length-tokens {enough}        (keeps 99 % of the rows, needs more memory)",
                f"--long-rows drop        (leaves {len(too_long)} rows out)",
                details=details,
            )
        )
    note = problem(
        "data-rows-left-out",
        f"{len(too_long)} rows are longer than {limit} tokens and are left out.",
        "Nothing is cut; data.json lists their numbers.",
        f"--max-length-tokens {max(longest.values())}",
        details=details,
        severity="warning",
    )
    return kept, too_long, (note,)


def _held_out(run: Run, rows: list[Row]) -> set[int]:
    """Numbers of the rows kept out of training: those whose question has the smallest hashes.

    Chosen by content (and the run's seed), so the same questions stay held out when rows are added or moved, and a
    question that stands in several rows is on one side only.
    """
    wanted = min(run.held_out_rows, int(len(rows) * HELD_OUT_PCT / 100))
    by_question = defaultdict(list)
    for row in rows:
        question = next((m["content"] for m in row.conversation.messages if m["role"] == "user"), "")
        by_question[hashlib.sha256(f"{run.seed} {question}".encode()).digest()].append(row.number)
    chosen: set[int] = set()
    for _, numbers in sorted(by_question.items()):
        if len(chosen) + len(numbers) <= wanted:
            chosen.update(numbers)
    return chosen


def _question(conversation: Conversation) -> Conversation:
    """The conversation up to its first answer."""
    end = next(index for index, message in enumerate(conversation.messages) if message["role"] == "assistant")
    return Conversation(conversation.messages[:end], conversation.tools)
