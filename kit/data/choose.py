"""A stored data set -> what is trained on and what is measured on; every other row with the code of why it is not."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from envcheck.facts import Finding
from kit.data.encode import BAD_ANSWER
from kit.data.report import PLACES_SHOWN, Place, finding_on_rows
from kit.data.store import Samples, Stored, numpy_of
from kit.options import Rows
from kit.support.errors import problem

if TYPE_CHECKING:
    import numpy as np

LONG_ROWS_PCT = 1.0
HELD_OUT_PCT = 10.0
TOO_LONG, CUT_AWAY, LEAK, NOT_DRAWN = (
    "data-too-long",
    "data-answer-cut-away",
    "data-evaluation-leak",
    "data-not-drawn",
)


@dataclass
class Choice:
    """The rows of a store with a code for each that is left out ("" for the others), and the findings on them."""

    stored: Stored
    options: Rows
    files: tuple[dict[str, Any], ...]  # as in data.json; weight 0: rows to measure on
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        import numpy as np
        import pyarrow.compute as pc

        table = self.stored.rows
        self.source, self.samples = (numpy_of(table[name]) for name in ("source", "samples"))
        self.question, self.content = (numpy_of(table[name]) for name in ("question", "content"))
        codes = table["code"].combine_chunks().dictionary_encode()
        self.codes: list[str] = ["", *codes.dictionary.to_pylist()]
        self.left_out = np.zeros(len(self.samples), dtype=np.int16)
        bad = numpy_of(pc.indices_nonzero(codes.is_valid()))
        self.left_out[bad] = numpy_of(codes.indices.drop_null()) + 1
        self.weight = np.array([file["weight"] for file in self.files], dtype=float)[self.source]
        self.evaluation = self.weight == 0
        self.row_of_sample = np.repeat(np.arange(len(self.samples)), self.samples)
        self.cut = np.zeros(len(self.samples), dtype=bool)
        self.twice = self.cut.copy()

    @property
    def kept(self) -> "np.ndarray":
        return self.left_out == 0

    def leave_out(self, rows: "np.ndarray", code: str) -> None:
        """Give these rows the code, where they have none yet; rows: a mask."""
        if code not in self.codes:
            self.codes.append(code)
        self.left_out[rows & self.kept] = self.codes.index(code)

    def counts(self) -> dict[str, int]:
        """Rows left out by code."""
        import numpy as np

        counted = np.bincount(self.left_out, minlength=len(self.codes))
        return {code: int(count) for code, count in zip(self.codes, counted, strict=True) if code and count}

    def places(self, rows: "np.ndarray", most: int = PLACES_SHOWN) -> list[tuple[Place, str]]:
        """The first of these rows with what is wrong with them; rows: a mask."""
        import numpy as np

        return [(self.place(row), self.detail(row)) for row in np.flatnonzero(rows)[:most].tolist()]

    def place(self, row: int) -> Place:
        table = self.stored.rows
        file = self.files[int(self.source[row])]["name"]
        return Place(file, table["number"][row].as_py(), table["line"][row].as_py())

    def detail(self, row: int) -> str:
        said = self.stored.rows["detail"][row].as_py()
        return said or (self.stored.rows["asked"][row].as_py() or "")[:60]


def choose(stored: Stored, options: Rows, files: tuple[dict[str, Any], ...]) -> tuple[Choice, Samples, Samples]:
    """(what became of each row, samples to train on, samples to measure on); errors stand among choice.findings."""
    choice = Choice(stored, options, files)
    _unreadable(choice)
    _leaks(choice)
    samples = _within_length(choice)
    repeats = _drawn(choice)
    held_out = choice.kept & choice.evaluation
    if not choice.evaluation.any():
        held_out = _held_out(choice)
    _duplicates(choice, choice.kept & ~held_out)
    _warnings(choice)
    kept = choice.kept[samples.row]
    measured = kept & held_out[samples.row]
    return choice, _taken(samples, (kept & ~measured) * repeats[samples.row]), _taken(samples, measured)


def _taken(samples: Samples, times: "np.ndarray") -> Samples:
    """The samples, each so many times."""
    import numpy as np

    return samples.take(np.repeat(np.arange(len(samples)), times.astype(np.int64)))


def _unreadable(choice: Choice) -> None:
    """Findings on rows that could not be encoded: errors, or with --data-on-error skip a warning each."""
    severity = "error" if choice.options.data_on_error == "stop" else "warning"
    fix = "--data-on-error skip        (leaves them out and writes them down)" if severity == "error" else ""
    for index, code in enumerate(choice.codes):
        rows = choice.left_out == index
        if not code or code == BAD_ANSWER or not rows.any():
            continue
        count = int(rows.sum())
        what = "" if severity == "error" else f"{count} {'rows are' if count > 1 else 'row is'} left out."
        choice.findings.append(finding_on_rows(code, count, choice.places(rows), severity, fix, what))


def _leaks(choice: Choice) -> None:
    """Training rows whose question stands among the evaluation rows too."""
    import numpy as np

    asked = choice.question[choice.evaluation & choice.kept]
    leaked = choice.kept & ~choice.evaluation & np.isin(choice.question, asked)
    if not leaked.any():
        return
    skip = choice.options.data_on_error == "skip"
    count = int(leaked.sum())
    what = f"{count} training {'rows ask' if count > 1 else 'row asks'} what an evaluation row asks too."
    choice.findings.append(
        finding_on_rows(LEAK, count, choice.places(leaked), "warning" if skip else "error", "", what)
    )
    if skip:
        choice.leave_out(leaked, LEAK)


def _within_length(choice: Choice) -> Samples:
    """The samples of the kept rows, those beyond the limit dropped or cut as told."""
    import numpy as np

    limit = choice.options.max_length_tokens
    stored, rows = choice.stored, choice.row_of_sample
    lengths = stored.lengths
    longest = np.zeros(len(choice.samples), dtype=np.int64)
    np.maximum.at(longest, rows, lengths)
    too_long = choice.kept & (longest > limit)
    number = np.arange(len(lengths))
    whole = Samples(stored, number, np.zeros_like(number), lengths.astype(np.int64), rows)
    if not too_long.any():
        return whole
    if choice.options.long_rows == "cut":
        return _cut(choice, whole, too_long, limit)
    choice.findings.append(_too_long(choice, longest, too_long))
    choice.leave_out(too_long, TOO_LONG)
    return whole


def _too_long(choice: Choice, longest: "np.ndarray", too_long: "np.ndarray") -> Finding:
    """More than LONG_ROWS_PCT are an error with the choices, unless the choice was made."""
    import numpy as np

    limit, count = choice.options.max_length_tokens, int(too_long.sum())
    known = longest[choice.kept]
    share_pct = 100 * count / len(known)
    details = {
        "too long": f"{count} of {len(known)} rows ({share_pct:.1f} %)",
        "longest row": f"{known.max()} tokens",
        "first rows": ", ".join(str(place.number) for place, _ in choice.places(too_long)),
    }
    enough = int(np.quantile(known, 0.99, method="inverted_cdf"))
    if share_pct > LONG_ROWS_PCT and choice.options.long_rows == "stop":
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
        f"{count} {'rows are' if count > 1 else 'row is'} longer than {limit} tokens and left out.",
        "Nothing is cut; left_out.jsonl in the run folder names each.",
        f"--max-length-tokens {known.max()}",
        details=details,
        severity="warning",
    )


def _cut(choice: Choice, whole: Samples, too_long: "np.ndarray", limit: int) -> Samples:
    """All of plain text, in pieces of `limit` tokens; conversations up to the limit, if an answer begins there."""
    import numpy as np

    purposes = [file["purpose"] == "text" for file in choice.files]
    text = np.array(purposes)[choice.source][whole.row]
    begins = choice.stored.first_trained < limit
    pieces = np.where(text, -(-whole.stop // limit), begins.astype(np.int64))
    cut = _taken(whole, pieces)
    first_of_group = np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = (np.arange(len(cut)) - first_of_group) * limit
    cut = Samples(cut.stored, cut.number, start, np.minimum(start + limit, cut.stop), cut.row)
    without = too_long & (np.bincount(cut.row, minlength=len(too_long)) == 0)
    choice.cut = too_long & ~without
    lost = int((pieces == 0).sum())
    count = int(choice.cut.sum())
    if count:
        choice.findings.append(
            problem(
                "data-rows-cut",
                f"{count} {'rows are' if count > 1 else 'row is'} cut to samples of {limit} tokens.",
                "--long-rows cut says so: answers lose their end, plain text goes on in a further sample.",
                f"--max-length-tokens {int(whole.stop.max())}        (cuts nothing)",
                details={"answers cut away whole": lost} if lost else None,
                severity="warning",
            )
        )
    if without.any():
        choice.findings.append(finding_on_rows(CUT_AWAY, int(without.sum()), choice.places(without), "warning"))
    choice.leave_out(without, CUT_AWAY)
    return cut


def _drawn(choice: Choice) -> "np.ndarray":
    """How often each row is used in an epoch: its file's weight, a fraction of it drawn by content and seed."""
    import numpy as np

    chance = _mixed(choice.content, choice.options.seed) / 2.0**64
    times = np.floor(choice.weight).astype(np.int64) + (chance < choice.weight % 1)
    choice.leave_out((times == 0) & ~choice.evaluation, NOT_DRAWN)
    return times


def _held_out(choice: Choice) -> "np.ndarray":
    """The rows kept out of training: those whose question has the smallest hashes under the run's seed; a mask.

    Chosen by content, so the same questions stay held out when rows are added or moved, and a question that stands in
    several rows is on one side only.
    """
    import numpy as np

    kept = np.flatnonzero(choice.kept)
    wanted = min(choice.options.held_out_rows, int(len(kept) * HELD_OUT_PCT / 100))
    hashes = _mixed(choice.question[kept], choice.options.seed)
    questions, counts = np.unique(hashes, return_counts=True)
    chosen, total = [], 0
    for question, count in zip(questions, counts, strict=True):
        if total == wanted:
            break
        if total + count <= wanted:
            chosen.append(question)
            total += count
    mask = np.zeros(len(choice.samples), dtype=bool)
    mask[kept[np.isin(hashes, np.array(chosen, dtype=np.uint64))]] = True
    return mask


def _mixed(hashes: "np.ndarray", seed: int) -> "np.ndarray":
    """Other hashes for another seed (the finaliser of SplitMix64, Steele, Lea and Flood 2014)."""
    import numpy as np

    with np.errstate(over="ignore"):
        mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _duplicates(choice: Choice, trained: "np.ndarray") -> None:
    """Rows that are token for token the same as an earlier one: told, and trained as they are."""
    choice.twice = later_copies(choice, trained)
    count = int(choice.twice.sum())
    if count:
        what = f"{count} {'rows repeat' if count > 1 else 'row repeats'} an earlier one word for word."
        finding = finding_on_rows("data-duplicates", count, choice.places(choice.twice), "warning", "", what)
        choice.findings.append(finding)


def later_copies(choice: Choice, among: "np.ndarray") -> "np.ndarray":
    """Those rows whose content stands in an earlier one too; masks."""
    import numpy as np

    rows = np.flatnonzero(among)
    _, first = np.unique(choice.content[rows], return_index=True)
    mask = among.copy()
    mask[rows[first]] = False
    return mask


def _warnings(choice: Choice) -> None:
    """What is odd about rows that are trained all the same."""
    import pyarrow.compute as pc

    told: dict[str, Any] = {}
    lists = choice.stored.rows["warnings"]
    told_of = numpy_of(pc.indices_nonzero(lists.is_valid()))
    for row in told_of[choice.kept[told_of]].tolist():
        said = lists[row].as_py()
        for code, detail in zip(said[::2], said[1::2], strict=True):
            count, places = told.get(code, (0, []))
            if len(places) < PLACES_SHOWN:
                places.append((choice.place(row), detail))
            told[code] = (count + 1, places)
    for code, (count, places) in told.items():
        choice.findings.append(finding_on_rows(code, count, places, "warning"))
