"""Data files -> the samples to train on and to measure on, with a report whose counts add up.

files -> rows -> conversations (kit.data.rows) -> text and masks (kit.prompt) -> stored data set (encode, store) ->
choice (choose). Nothing is cut or left out without being counted; no torch here.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from envcheck.facts import Finding
from kit.data import encode, store
from kit.data.choose import Choice, choose
from kit.data.report import DataReport
from kit.data.rows import formats, sources
from kit.data.rows.sources import Source
from kit.data.store import Samples
from kit.options import Rows
from kit.prompt import ChatFormat
from kit.support.errors import USAGE, KitError, problem, stop_on_errors
from kit.support.progress import OnProgress

__all__ = ["Data", "DataReport", "Question", "look", "read"]

QUESTIONS = 3
QUIET_S = 1.0  # nothing is said of progress before
HISTOGRAM_BINS = 12


@dataclass(frozen=True)
class Question:
    """Something to ask the model: its text for people, and the token ids up to its answer."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Data:
    """Samples to train on and to measure on; `questions`: of the first held-out rows, or of the first rows."""

    train: Samples
    held_out: Samples
    questions: tuple[Question, ...]
    report: DataReport
    findings: tuple[Finding, ...]
    choice: Choice

    def left_out(self) -> Iterator[dict[str, Any]]:
        """Every row that is in neither, with its place and the reason."""
        choice = self.choice
        for row, code in enumerate(choice.left_out.tolist()):
            if code:
                place = choice.place(row)
                yield {
                    "file": place.file,
                    "row": place.number,
                    "line": place.line or None,
                    "code": choice.codes[code],
                    "detail": choice.detail(row),
                }


def read(rows: Rows, chat: ChatFormat, show: OnProgress | None = None) -> Data:
    """Everything of rows.data that can be trained on.

    Raises KitError with all problems at once: a file that is missing, empty or in no known format, rows that cannot be
    trained on, too many rows beyond rows.max_length_tokens. Preference pairs are read and counted: see report.purpose.
    """
    data = look(rows, chat, show)
    stop_on_errors(data.findings)
    return data


def look(rows: Rows, chat: ChatFormat, show: OnProgress | None = None) -> Data:
    """The same, with every problem of a row among `findings` instead of raised."""
    formats.check_columns(rows.columns)
    files, weights = _files(rows)
    hashes = [sources.sha256(file) for file in files]
    key = encode.key_of(rows, files, hashes, chat)
    stored = store.find(key) or encode.encode(rows, files, chat, key, _teller(files, show))
    named = zip(files, weights, hashes, stored.head["files"], strict=True)
    choice, train, held_out = choose(stored, rows, tuple(_described(*item) for item in named))
    findings = [*chat.findings, *(finding for file in files for finding in file.findings), *choice.findings]
    if not len(train) and not any(finding.severity == "error" for finding in findings):
        findings.append(_nothing(choice))
    return Data(
        train,
        held_out,
        _questions(choice, train, held_out),
        _report(chat, choice, train, held_out),
        tuple(findings),
        choice,
    )


def _files(rows: Rows) -> tuple[list[Source], tuple[float, ...]]:
    """All files with the weight of each: those to train on, then those to measure on (weight 0)."""
    if not rows.data:
        raise KitError(
            problem(
                "no-data",
                "No data file was given.",
                "A run needs rows to learn from.",
                "python -m kit.train --data examples/identity.jsonl",
            ),
            status=USAGE,
        )
    found, weights, problems = [], [], []
    given = rows.data_weights or (1.0,) * len(rows.data)
    for name, weight in [*zip(rows.data, given, strict=True), *((name, 0.0) for name in rows.eval_data)]:
        try:
            files = sources.find([name])
        except KitError as error:
            problems += error.findings
            continue
        found += files
        weights += [weight] * len(files)
    if problems:
        raise KitError(*problems)
    return found, tuple(weights)


def _described(file: Source, weight: float, sha256: str, content: dict[str, Any]) -> dict[str, Any]:
    """What data.json says of a file."""
    named = {"name": file.name, "kind": file.kind, "kind_reason": file.reason, "sha256": sha256, "weight": weight}
    return named | content


def _teller(files: list[Source], show: OnProgress | None) -> encode.Told:
    """Progress over all files, in percent of their bytes."""
    total_bytes = sum(file.size_bytes for file in files) or 1
    done = {"bytes": 0, "file": 0, "rows": 0, "before": 0}
    start_s = time.monotonic()

    def told(count_bytes: int, rows: int) -> None:
        if count_bytes < done["file"]:  # the next file has begun
            done["bytes"] += done["file"]
            done["before"] += done["rows"]
        done["file"], done["rows"] = count_bytes, rows
        percent = min(100, 100 * (done["bytes"] + count_bytes) // total_bytes)
        if show and time.monotonic() - start_s > QUIET_S:
            show("data", percent, 100, f"{done['before'] + rows:,} rows")

    return told


def _nothing(choice: Choice) -> Finding:
    return problem(
        "data-nothing-to-train",
        "The data leaves no row to train on.",
        "Every row was left out." if len(choice.samples) else "The files hold no rows.",
        "give other data, or a larger --max-length-tokens",
        details=choice.counts(),
    )


def _questions(choice: Choice, train: Samples, held_out: Samples) -> tuple[Question, ...]:
    asked, seen = [], set()
    samples = held_out if len(held_out) else train
    for index in range(len(samples)):
        row, number = int(samples.row[index]), int(samples.number[index])
        ids, spans = choice.stored.sample(number)
        if row in seen or not len(spans) or not spans[0][0]:  # plain text asks nothing
            continue
        seen.add(row)
        asked.append(Question(choice.stored.rows["asked"][row].as_py(), ids[: spans[0][0]].tolist()))
        if len(asked) == QUESTIONS:
            break
    return tuple(asked)


def _report(chat: ChatFormat, choice: Choice, train: Samples, held_out: Samples) -> DataReport:
    import numpy as np

    lengths = np.concatenate([train.lengths, held_out.lengths])
    used = [[file["sha256"], file["weight"]] for file in choice.files]
    digest = hashlib.sha256(json.dumps(used).encode()).hexdigest()
    measured = len(np.unique(held_out.row))
    return DataReport(
        files=choice.files,
        sha256=digest,
        template=chat.template_origin,
        purpose=" and ".join(sorted({file["purpose"] for file in choice.files})),
        rows_read=len(choice.samples),
        rows_trained=int(choice.kept.sum()) - measured,
        rows_held_out=measured,
        rows_left_out=choice.counts(),
        rows_cut=int(choice.cut.sum()),
        rows_twice=int(choice.twice.sum()),
        samples=len(train),
        tokens=int(train.lengths.sum()),
        trained_tokens=train.trained_tokens(),
        median_tokens=int(np.median(lengths)) if len(lengths) else 0,
        longest_tokens=int(lengths.max(initial=0)),
        histogram=_histogram(lengths),
    )


def _histogram(lengths: Any) -> tuple[tuple[int, int], ...]:
    """(longest length of the bin, samples in it), bins of equal width."""
    import numpy as np

    if not len(lengths):
        return ()
    width = max(1, -(-int(lengths.max()) // HISTOGRAM_BINS))
    counts = np.bincount((lengths - 1) // width, minlength=HISTOGRAM_BINS)
    return tuple(((number + 1) * width, int(count)) for number, count in enumerate(counts))
