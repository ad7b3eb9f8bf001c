"""The way of all files: found, encoded or found again in the cache, chosen from, reported on."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from envcheck.facts import Finding
from kit.data import encode, store
from kit.data.choose import Selection, choose
from kit.data.report import DataReport
from kit.data.rows import formats, sources
from kit.data.rows.sources import Source
from kit.data.store import Samples, Stored, to_numpy
from kit.options import Rows
from kit.prompt import ChatFormat
from kit.support.errors import USAGE, failure, for_each, problem, stop_on_errors
from kit.support.progress import OnProgress

QUESTIONS = 3
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
    selection: Selection

    def left_out(self) -> Iterator[dict[str, Any]]:
        """Every row that is in neither, with its place and the reason."""
        selection, table = self.selection, self.selection.table
        for row, code in enumerate(selection.left_out.tolist()):
            if code:
                yield table.place(row).to_json() | {"code": selection.codes[code], "detail": table.detail(row)}


def read(rows: Rows, chat: ChatFormat, on_progress: OnProgress | None = None) -> Data:
    """Everything of rows.data that can be trained on.

    Raises KitError with all problems at once: a file that is missing, empty or in no known format, rows that cannot be
    trained on, too many rows beyond rows.max_length_tokens. Preference pairs are read and counted: see report.purpose.
    """
    data = look(rows, chat, on_progress)
    stop_on_errors(data.findings)
    return data


def look(rows: Rows, chat: ChatFormat, on_progress: OnProgress | None = None) -> Data:
    """The same, with every problem of a row among `findings` instead of raised."""
    formats.check_columns(rows.columns)
    files, weights = _files(rows)
    hashes = [sources.sha256(file) for file in files]
    key = encode.key_of(rows, files, hashes, chat)
    stored = store.load(key) or encode.encode(rows, files, chat, key, on_progress)
    described = tuple(
        {"name": file.name, "kind": file.kind, "kind_reason": file.reason, "sha256": sha256, "weight": weight} | content
        for file, weight, sha256, content in zip(files, weights, hashes, stored.head["files"], strict=True)
    )
    selection, train, held_out = choose(stored, rows, described)
    findings = [*chat.findings, *(finding for file in files for finding in file.findings), *selection.findings]
    if not len(train) and not any(finding.severity == "error" for finding in findings):
        what = "The data leaves no row to train on."
        why = "Every row was left out." if len(selection.left_out) else "The files hold no rows."
        fix = "give other data, or a larger --max-length-tokens"
        findings.append(problem("data-nothing-to-train", what, why, fix, details=selection.counts()))
    questions = _questions(stored, held_out if len(held_out) else train)
    report = _report(chat, selection, train, held_out)
    return Data(train, held_out, questions, report, tuple(findings), selection)


def _files(rows: Rows) -> tuple[list[Source], tuple[float, ...]]:
    """All files with the weight of each: those to train on, then those to measure on (weight 0)."""
    if not rows.data:
        fix = "--data examples/identity.jsonl"
        raise failure("no-data", "No data file was given.", "A run needs rows to learn from.", fix, status=USAGE)
    given = (*(rows.data_weights or (1.0,) * len(rows.data)), *(0.0 for _ in rows.eval_data))
    found = for_each(lambda name: sources.find_files([name]), (*rows.data, *rows.eval_data))
    weights = tuple(weight for files, weight in zip(found, given, strict=True) for _ in files)
    return [file for files in found for file in files], weights


def _questions(stored: Stored, samples: Samples) -> tuple[Question, ...]:
    """What the first rows ask that ask something."""
    questions: dict[int, Question] = {}
    for row, number in zip(map(int, samples.row), map(int, samples.number), strict=True):
        ids, spans = stored.sample(number)
        if row in questions or not len(spans) or not spans[0][0]:  # plain text asks nothing
            continue
        questions[row] = Question(stored.rows["asked"][row].as_py(), ids[: spans[0][0]].tolist())
        if len(questions) == QUESTIONS:
            break
    return tuple(questions.values())


def _report(chat: ChatFormat, selection: Selection, train: Samples, held_out: Samples) -> DataReport:
    files = selection.table.files
    lengths = np.concatenate([train.lengths, held_out.lengths])
    used = [[file["sha256"], file["weight"]] for file in files]
    measured = len(np.unique(held_out.row))
    return DataReport(
        files=files,
        sha256=hashlib.sha256(json.dumps(used).encode()).hexdigest(),
        template=chat.template_origin,
        purpose=" and ".join(sorted({file["purpose"] for file in files})),
        rows_read=len(selection.left_out),
        rows_trained=int(selection.kept.sum()) - measured,
        rows_held_out=measured,
        rows_left_out=selection.counts(),
        rows_cut=int(selection.cut.sum()),
        rows_twice=int(selection.repeated.sum()),
        rows_thinking=_thinking(selection.table.stored, train),
        samples=len(train),
        tokens=int(train.lengths.sum()),
        trained_tokens=train.trained_tokens(),
        median_tokens=int(np.median(lengths)) if len(lengths) else 0,
        longest_tokens=int(lengths.max(initial=0)),
        histogram=_histogram(lengths),
    )


def _thinking(stored: Stored, train: Samples) -> int:
    """Rows that are trained on and hold reasoning."""
    import pyarrow.compute as pc

    thinking = to_numpy(pc.indices_nonzero(stored.rows["thinks"].combine_chunks()))
    return int(np.isin(thinking, train.row).sum())


def _histogram(lengths: np.ndarray) -> tuple[tuple[int, int], ...]:
    """(longest length of the bin, samples in it), bins of equal width."""
    if not len(lengths):
        return ()
    width = max(1, -(-int(lengths.max()) // HISTOGRAM_BINS))
    counts = np.bincount((lengths - 1) // width, minlength=HISTOGRAM_BINS)
    return tuple(((number + 1) * width, int(count)) for number, count in enumerate(counts))
