"""Files that nobody would write, through the whole data stage: no traceback, no hang, and counts that always add up.

python -m benchmarks.fuzz_data [--inputs 102000]

Three kinds of input: raw bytes (mutated real files of every kind), JSON values of any shape, and turns in any order.
tests/kit/test_fuzz.py runs the same with few inputs.
"""

import argparse
import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks import measure
from kit import data, models, prompt
from kit.options import Rows
from kit.support.errors import KitError

LONGEST_S = 20  # an input that takes longer is a hang
SEEDS = (
    (
        ".jsonl",
        b'{"question": "How much is 2+2?", "answer": "4"}\n{"question": "\xe4\xbd\xa0\xe5\xa5\xbd", "answer": "hi"}\n',
    ),
    (
        ".json",
        b'[{"instruction": "Add", "input": "1 2", "output": "3"},\n {"instruction": "Say", "output": "so"}]',
    ),
    (".jsonl", b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'),
    (".csv", b'question,answer\n"a, b",c\nd,"e\nf"\n'),
    (".tsv", b"question\tanswer\na\tb\nc\td\n"),
    (".txt", b"One paragraph\nof text.\n\nAnother one.\n"),
    (".jsonl", b'\xff\xfe{\x00"\x00t\x00e\x00x\x00t\x00"\x00:\x00"\x00a\x00"\x00}\x00\n\x00'),
)
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow")

pieces = st.sampled_from(
    [b"\n", b"\r\n", b"\x00", b"{", b"}", b"[", b"]", b'"', b"\\", b",", b";", b"\t", b"\xff", b"\xef\xbb\xbf",
     b"\xed\xa0\x80", b"PAR1", b"ARROW1", b"null", b"NaN", b"1e999", b"9" * 5000, b"[" * 3000, b"\\ud800",
     b"<|im_end|>", b"\xe2\x80\xa8"]
)  # fmt: skip


@st.composite
def raw_bytes(draw: Callable) -> tuple[str, bytes]:
    """A real file with a few stretches of it taken out, put in or doubled; now and then bytes out of nowhere."""
    ending, content = draw(st.sampled_from(SEEDS) | st.tuples(st.sampled_from(ENDINGS), st.binary(max_size=200)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        end = draw(st.integers(place, min(len(content), place + 20)))
        put = draw(pieces | st.binary(max_size=6) | st.just(content[place:end] * 2))
        content = content[:place] + put + content[end:]
    return draw(st.just(ending) | st.sampled_from(ENDINGS)), content


texts = st.text(max_size=30) | st.sampled_from(
    ["", " ", "<|im_end|>", "aaaaaaaaaaaaaaaa", "\ud800", "{}", "</think>", "<think>x"]
)
keys = st.sampled_from(
    ["messages", "conversations", "question", "answer", "prompt", "completion", "instruction", "input", "output",
     "text", "chosen", "rejected", "label", "tools", "system", "history", "role", "content", "from", "value",
     "tool_calls", "function", "name", "type"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
json_rows = st.lists(st.dictionaries(keys, values, max_size=6) | values, min_size=1, max_size=6)

roles = st.sampled_from(
    ["system", "user", "assistant", "tool", "human", "gpt", "observation", "function_call", "boss", ""]
)
chat_turn = st.fixed_dictionaries(
    {"role": roles, "content": texts | values},
    optional={"reasoning_content": texts, "tool_calls": values, "name": texts},
)
sharegpt_turn = st.fixed_dictionaries({"from": roles, "value": texts | values})
more = {"tools": values, "label": st.booleans()}
chats = st.fixed_dictionaries({"messages": st.lists(chat_turn, max_size=7)}, optional=more)
sharegpts = st.fixed_dictionaries({"conversations": st.lists(sharegpt_turn, max_size=7)}, optional=more)
turns = st.lists(chats | sharegpts, min_size=1, max_size=5)


def as_lines(rows: list) -> tuple[str, bytes]:
    return ".jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()


SHARES = {
    "raw bytes": 0.5,
    "JSON shapes": 0.35,
    "orders of turns": 0.15,
}  # of the inputs; the last take longest to make
KINDS = {"raw bytes": raw_bytes(), "JSON shapes": json_rows.map(as_lines), "orders of turns": turns.map(as_lines)}


def check(folder: Path, chat: prompt.ChatFormat, ending: str, content: bytes) -> str:
    """What came of it: rows, or the first finding's id. AssertionError where the counts do not add up."""
    path = folder / f"input{ending}"
    path.write_bytes(content)
    try:
        seen = data.look(Rows(data=str(path), data_on_error="skip", long_rows="cut", max_length_tokens=64), chat)
    except KitError as error:
        return error.findings[0].id
    report = seen.report
    left_out = list(seen.left_out())
    assert report.rows_read == report.rows_trained + report.rows_held_out + sum(report.rows_left_out.values())
    assert len(left_out) == sum(report.rows_left_out.values())
    assert report.tokens == sum(len(sample.ids) for sample in seen.train)
    assert report.trained_tokens == sum(sample.trained_tokens for sample in seen.train)
    assert all(sample.trained_tokens and len(sample.ids) <= 64 for sample in seen.train)
    return "rows"


def fuzz(kind: str, inputs: int, told: Counter) -> None:
    """That many inputs of a kind; what came of each is counted in `told`. Raises at the first that fails."""
    chat = prompt.load(models.find("tiny"), "auto")
    phases = (Phase.generate, Phase.shrink)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["KIT_CACHE"] = str(Path(scratch) / "cache")

        @given(KINDS[kind])
        @settings(
            max_examples=inputs, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck)
        )
        def one(given_input: tuple[str, bytes]) -> None:
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
            told[check(Path(scratch), chat, *given_input)] += 1
            shutil.rmtree(Path(scratch) / "cache", ignore_errors=True)

        before = signal.signal(signal.SIGALRM, _hang) if hasattr(signal, "SIGALRM") else None
        try:
            one()
        finally:
            if before is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)


def _hang(*_: object) -> None:
    raise TimeoutError(f"an input took more than {LONGEST_S} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=102_000)
    args = parser.parse_args()
    figures = {}
    for kind in KINDS:
        told: Counter = Counter()
        start_s = time.perf_counter()
        fuzz(kind, round(args.inputs * SHARES[kind]), told)
        seconds = round(time.perf_counter() - start_s)
        figures[kind] = {"inputs": told.total(), "wall_s": seconds, "outcomes": dict(told.most_common())}
    total = sum(figure["inputs"] for figure in figures.values())
    measure.write("fuzz_data", {"inputs_without_a_failure": total, "kinds": figures})


if __name__ == "__main__":
    main()
