"""A stored data set -> what is trained on and what is measured on; every other row with the code of why it is not.

A mask is an array of True and False, one item a row. Each step takes masks and returns others; none is changed.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from envcheck.facts import Finding
from kit.data.encode import BAD_ANSWER
from kit.data.report import PLACES_SHOWN, Place, finding_on_rows
from kit.data.store import Samples, Stored, to_numpy
from kit.options import Rows
from kit.support.errors import problem

LONG_ROWS_PCT = 1.0
HELD_OUT_PCT = 10.0
DETAIL_CHARACTERS = 60
TOO_LONG, CUT_AWAY, NOT_DRAWN = "data-too-long", "data-answer-cut-away", "data-not-drawn"
LEAK, DUPLICATES = "data-evaluation-leak", "data-duplicates"


@dataclass(frozen=True)
class RowTable:
    """The rows of a store with their files (as in data.json; weight 0: rows to measure on); arrays with an item a row.

    file: index of its file; samples: how many it has; question, content: hashes of what it asks and of its token ids.
    """

    stored: Stored
    files: tuple[dict[str, Any], ...]
    file: np.ndarray
    samples: np.ndarray
    question: np.ndarray
    content: np.ndarray

    @classmethod
    def read(cls, stored: Stored, files: tuple[dict[str, Any], ...]) -> "RowTable":
        columns = (to_numpy(stored.rows[name]) for name in ("source", "samples", "question", "content"))
        return cls(stored, files, *columns)

    def of_file(self, key: str) -> np.ndarray:
        """What data.json says of its file, for each row."""
        return np.array([file[key] for file in self.files])[self.file]

    def encoding_errors(self) -> tuple[list[str], np.ndarray]:
        """Codes, "" first, and for each row the index of why it could not be encoded, 0 where it could."""
        import pyarrow.compute as pc

        column = self.stored.rows["code"].combine_chunks().dictionary_encode()
        index = np.zeros(len(column), dtype=np.int16)
        index[to_numpy(pc.indices_nonzero(column.is_valid()))] = to_numpy(column.indices.drop_null()) + 1
        return ["", *column.dictionary.to_pylist()], index

    def place(self, row: int) -> Place:
        rows = self.stored.rows
        name = self.files[int(self.file[row])]["name"]
        return Place(name, rows["number"][row].as_py(), rows["line"][row].as_py())

    def detail(self, row: int) -> str:
        """What is wrong with a row, or else the beginning of what it asks."""
        rows = self.stored.rows
        return rows["detail"][row].as_py() or (rows["asked"][row].as_py() or "")[:DETAIL_CHARACTERS]

    def findings(
        self, code: str, rows: np.ndarray, severity: str = "warning", what: str = "", fix: str = ""
    ) -> list[Finding]:
        """One finding on the rows of a mask; none where there are none."""
        count = int(rows.sum())
        if not count:
            return []
        places = [(self.place(row), self.detail(row)) for row in _first(rows)]
        return [finding_on_rows(code, count, places, severity, fix, what)]


@dataclass(frozen=True)
class Selection:
    """What became of each row: `left_out` holds the index in `codes` of why it is not used, 0 for a row that is.

    cut, repeated: masks of the rows that were cut, and of those that are token for token an earlier one.
    """

    table: RowTable
    codes: list[str]
    left_out: np.ndarray
    cut: np.ndarray
    repeated: np.ndarray
    findings: list[Finding]

    @property
    def kept(self) -> np.ndarray:
        return self.left_out == 0

    def counts(self) -> dict[str, int]:
        """Rows left out by code."""
        counted = np.bincount(self.left_out, minlength=len(self.codes))
        return {code: int(count) for code, count in zip(self.codes, counted, strict=True) if code and count}


def choose(stored: Stored, options: Rows, files: tuple[dict[str, Any], ...]) -> tuple[Selection, Samples, Samples]:
    """(what became of each row, samples to train on, samples to measure on); errors stand among the findings."""
    table = RowTable.read(stored, files)
    codes, errors = table.encoding_errors()
    weight = table.of_file("weight")
    evaluation = weight == 0
    kept = errors == 0
    leaked = kept & ~evaluation & np.isin(table.question, table.question[kept & evaluation])
    skipped = leaked & (options.data_on_error == "skip")
    kept = kept & ~skipped
    fitted = _fit(table, kept, options)
    kept = kept & ~fitted.left_out
    times = _times(table, weight, options.seed)
    not_drawn = kept & ~evaluation & (times == 0)
    kept = kept & ~not_drawn
    held_out = kept & evaluation if evaluation.any() else _held_out(table, kept, options)
    repeated = later_copies(table.content, kept & ~held_out)
    leak_text = f"{_counted(leaked, 'training row asks', 'training rows ask')} what an evaluation row asks too."
    copy_text = f"{_counted(repeated, 'row repeats', 'rows repeat')} an earlier one word for word."
    findings = [
        *_error_findings(table, codes, errors, options),
        *table.findings(LEAK, leaked, "warning" if options.data_on_error == "skip" else "error", leak_text),
        *fitted.findings,
        *table.findings(DUPLICATES, repeated, "warning", copy_text),
        *_warnings(table, kept),
    ]
    reasons = {LEAK: skipped, fitted.code: fitted.left_out, NOT_DRAWN: not_drawn}
    left_out = np.select(list(reasons.values()), range(len(codes), len(codes) + len(reasons)), errors)
    selection = Selection(table, [*codes, *reasons], left_out, fitted.cut, repeated, findings)
    samples = fitted.samples
    train, measured = (kept & ~held_out)[samples.row], held_out[samples.row]
    return selection, _repeat(samples, train * times[samples.row]), _repeat(samples, measured)


def _first(rows: np.ndarray) -> list[int]:
    """The first rows of a mask."""
    return np.flatnonzero(rows)[:PLACES_SHOWN].tolist()


def _counted(rows: np.ndarray, one: str, several: str) -> str:
    """How many rows of a mask, with the words for one or several."""
    count = int(rows.sum())
    return f"{count} {one if count == 1 else several}"


def _repeat(samples: Samples, times: np.ndarray) -> Samples:
    """The samples, each so many times."""
    return samples.take(np.repeat(np.arange(len(samples)), times.astype(np.int64)))


def _error_findings(table: RowTable, codes: list[str], errors: np.ndarray, options: Rows) -> list[Finding]:
    """On rows that could not be encoded: errors, or with --data-on-error skip a warning each."""
    findings: list[Finding] = []
    for index, code in enumerate(codes):
        if code in ("", BAD_ANSWER):
            continue
        rows = errors == index
        if options.data_on_error == "stop":
            fix = "--data-on-error skip        (leaves them out and writes them down)"
            findings += table.findings(code, rows, "error", fix=fix)
        else:
            findings += table.findings(code, rows, what=f"{_counted(rows, 'row is', 'rows are')} left out.")
    return findings


class Fitted(NamedTuple):
    """The samples within the limit; the rows that are left out for their length, and those that are cut, as masks."""

    samples: Samples
    code: str
    left_out: np.ndarray
    cut: np.ndarray
    findings: list[Finding]


def _fit(table: RowTable, kept: np.ndarray, options: Rows) -> Fitted:
    """All samples; those of kept rows beyond the limit are dropped or cut, as --long-rows says."""
    lengths = table.stored.lengths.astype(np.int64)
    number = np.arange(len(lengths))
    row_of_sample = np.repeat(np.arange(len(table.samples)), table.samples)
    whole = Samples(table.stored, number, np.zeros_like(number), lengths, row_of_sample)
    longest = np.zeros(len(table.samples), dtype=np.int64)
    np.maximum.at(longest, row_of_sample, lengths)
    too_long = kept & (longest > options.max_length_tokens)
    if too_long.any() and options.long_rows == "cut":
        return _cut(table, whole, too_long, options.max_length_tokens)
    findings = [_too_long(table, longest[kept], too_long, options)] if too_long.any() else []
    return Fitted(whole, TOO_LONG, too_long, np.zeros_like(too_long), findings)


def _too_long(table: RowTable, longest: np.ndarray, too_long: np.ndarray, options: Rows) -> Finding:
    """More than LONG_ROWS_PCT are an error with the choices, unless the choice was made.

    longest: of each row that could be used, the tokens of its longest sample.
    """
    limit, count = options.max_length_tokens, int(too_long.sum())
    share_pct = 100 * count / len(longest)
    details = {
        "too long": f"{count} of {len(longest)} rows ({share_pct:.1f} %)",
        "longest row": f"{longest.max()} tokens",
        "first rows": ", ".join(str(table.place(row).number) for row in _first(too_long)),
    }
    enough = int(np.quantile(longest, 0.99, method="inverted_cdf"))
    if share_pct > LONG_ROWS_PCT and options.long_rows == "stop":
        return problem(
            "data-rows-too-long",
            f"{share_pct:.1f} % of the rows are longer than {limit} tokens.",
            "Cutting them would teach answers without an end, leaving them out would change the data: your choice.",
            f"--max-length-tokens {enough}        (keeps 99 % of the rows, needs more memory)",
            f"--long-rows drop        (leaves {count} rows out)",
            "--long-rows cut         (answers lose their end; plain text goes on in a further sample)",
            details=details,
        )
    return problem(
        "data-rows-left-out",
        f"{_counted(too_long, 'row is', 'rows are')} longer than {limit} tokens and left out.",
        "Nothing is cut; left_out.jsonl in the run folder names each.",
        f"--max-length-tokens {longest.max()}",
        details=details,
        severity="warning",
    )


def _cut(table: RowTable, whole: Samples, too_long: np.ndarray, limit: int) -> Fitted:
    """All of plain text, in pieces of `limit` tokens; conversations up to the limit, if an answer begins there."""
    is_text = (table.of_file("purpose") == "text")[whole.row]
    begins = table.stored.first_trained < limit
    pieces = np.where(is_text, -(-whole.stop // limit), begins.astype(np.int64))
    repeated = _repeat(whole, pieces)
    first_of_group = np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = (np.arange(len(repeated)) - first_of_group) * limit
    samples = Samples(table.stored, repeated.number, start, np.minimum(start + limit, repeated.stop), repeated.row)
    without = too_long & (np.bincount(samples.row, minlength=len(too_long)) == 0)
    cut = too_long & ~without
    lost = int((pieces == 0).sum())
    cut_rows = problem(
        "data-rows-cut",
        f"{_counted(cut, 'row is', 'rows are')} cut to samples of {limit} tokens.",
        "--long-rows cut says so: answers lose their end, plain text goes on in a further sample.",
        f"--max-length-tokens {int(whole.stop.max())}        (cuts nothing)",
        details={"answers cut away whole": lost} if lost else None,
        severity="warning",
    )
    findings = [*([cut_rows] if cut.any() else []), *table.findings(CUT_AWAY, without)]
    return Fitted(samples, CUT_AWAY, without, cut, findings)


def _times(table: RowTable, weight: np.ndarray, seed: int) -> np.ndarray:
    """How often each row is used in an epoch: its file's weight, a fraction of it drawn by content and seed."""
    chance = _mixed(table.content, seed) / 2.0**64
    return np.floor(weight).astype(np.int64) + (chance < weight % 1)


def _held_out(table: RowTable, kept: np.ndarray, options: Rows) -> np.ndarray:
    """The rows kept out of training: those whose question has the smallest hashes under the run's seed; a mask.

    Chosen by content, so the same questions stay held out when rows are added or moved, and a question that stands in
    several rows is on one side only.
    """
    rows = np.flatnonzero(kept)
    wanted = min(options.held_out_rows, int(len(rows) * HELD_OUT_PCT / 100))
    hashes = _mixed(table.question[rows], options.seed)
    questions, counts = np.unique(hashes, return_counts=True)
    chosen, total = [], 0
    for question, count in zip(questions, counts, strict=True):
        if total == wanted:
            break
        if total + count <= wanted:
            chosen.append(question)
            total += count
    mask = np.zeros(len(kept), dtype=bool)
    mask[rows[np.isin(hashes, np.array(chosen, dtype=np.uint64))]] = True
    return mask


def _mixed(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Other hashes for another seed (the finaliser of SplitMix64, Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def later_copies(content: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Those rows whose content stands in an earlier one too; content: hashes, among: a mask."""
    rows = np.flatnonzero(among)
    _, first = np.unique(content[rows], return_index=True)
    mask = among.copy()
    mask[rows[first]] = False
    return mask


def _warnings(table: RowTable, kept: np.ndarray) -> list[Finding]:
    """What is odd about rows that are trained all the same."""
    import pyarrow.compute as pc

    places: dict[str, list[tuple[Place, str]]] = {}
    counts: dict[str, int] = {}
    lists = table.stored.rows["warnings"]
    with_warnings = to_numpy(pc.indices_nonzero(lists.is_valid()))
    for row in with_warnings[kept[with_warnings]].tolist():
        warnings = lists[row].as_py()
        for code, detail in zip(warnings[::2], warnings[1::2], strict=True):
            counts[code] = counts.get(code, 0) + 1
            if counts[code] <= PLACES_SHOWN:
                places.setdefault(code, []).append((table.place(row), detail))
    return [finding_on_rows(code, count, places[code], "warning") for code, count in counts.items()]
