"""Tokens that a model cannot read, of all rows and before the first step: not learnt, or beyond its embedding."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kit import data, models, prompt
from kit.backend.embedding import check_tokens
from kit.options import Run
from tests.support.results import finding_of

TINY = Path(models.__file__).parent / "assets" / "tiny"
ROWS = "examples/identity.jsonl"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def samples() -> data.store.Samples:
    return data.read(Run(data=[ROWS], held_out_rows=0), prompt.load(models.find("tiny"), "auto")).train


def rare_token(samples: data.store.Samples) -> tuple[int, int]:
    """A token that is read in one row only, and the row."""
    held = Counter(token for sample in samples for token in set(sample.ids))
    return next((token, sample.row) for sample in samples for token in sample.ids[:-1] if held[token] == 1)


def with_vector(token: int, folder: Path, of: int | None = None) -> Path:
    """The embedded model with another vector for a token: that of the token `of`, or of noughts."""
    shutil.copytree(TINY, folder)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    about = json.loads(content[8:header])[EMBEDDING]
    first, end = about["data_offsets"]
    width_bytes = (end - first) // about["shape"][0]

    def place(number: int) -> slice:
        start = header + first + number * width_bytes
        return slice(start, start + width_bytes)

    content[place(token)] = bytes(width_bytes) if of is None else content[place(of)]
    file.write_bytes(content)
    return folder


@pytest.mark.torch
@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_a_token_that_the_model_never_learnt_is_a_finding_with_its_row(kit_train, samples, tmp_path, backend) -> None:
    token, row = rare_token(samples)
    model = with_vector(token, tmp_path / "base")
    run = ("--model", model, "--data", ROWS, "--held-out-rows", 0, "--backend", backend, "--output", tmp_path / "x")
    done = kit_train("--preset", "cpu", "--max-steps", 1, *run, libraries=backend)
    text = " ".join(done.stderr.split())
    assert done.returncode == 1, done.stderr
    assert "untrained-tokens" in text
    assert "1 rows hold tokens that this model has never learnt" in text
    assert f"({token})" in text
    assert f"rows {row}" in text
    assert "Traceback" not in text
    assert json.loads((tmp_path / "x" / "manifest.json").read_text())["status"] == "failed"


@pytest.mark.torch
def test_two_tokens_with_one_vector_are_a_finding(kit_train, samples, tmp_path) -> None:
    """As a word added to the vocabulary has that was given the mean of all: the model cannot tell them apart."""
    token, _ = rare_token(samples)
    other = samples[0].ids[0]
    model = with_vector(token, tmp_path / "base", of=other)
    run = ("--model", model, "--data", ROWS, "--held-out-rows", 0, "--backend", "hf", "--output", tmp_path / "x")
    done = kit_train("--preset", "cpu", "--max-steps", 1, *run, libraries="hf")
    assert done.returncode == 1, done.stderr
    assert all(text in done.stderr for text in ("untrained-tokens", f"({token})", f"({other})"))


@pytest.mark.torch
def test_who_trains_all_weights_may_begin_with_a_vector_of_noughts(kit_train, samples, tmp_path) -> None:
    model = with_vector(rare_token(samples)[0], tmp_path / "base")
    run = (
        "--model",
        model,
        "--data",
        ROWS,
        "--method",
        "full",
        "--no-load-in-4bit",
        "--output",
        tmp_path / "x",
        "--sample-tokens",
        1,
    )
    done = kit_train("--preset", "cpu", "--max-steps", 1, *run, libraries="hf")
    assert done.returncode == 0, done.stderr


class PaperTokenizer:
    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"token{number}" for number in ids]


def test_ids_beyond_the_embedding_are_a_finding_with_their_rows(samples) -> None:
    """An IndexError in the first step on a CPU, and a dead card."""
    last = max(max(sample.ids) for sample in samples)
    rows = sorted({sample.row for sample in samples if last in sample.ids})
    layer = SimpleNamespace(weight=np.zeros((last, 1)))
    model = SimpleNamespace(get_input_embeddings=lambda: layer, get_output_embeddings=lambda: layer)
    loaded = SimpleNamespace(model=model, tokenizer=PaperTokenizer())
    finding = finding_of(check_tokens, loaded, Run(method="full"), samples)
    assert finding.id == "tokens-beyond-embedding"
    details = dict(finding.details)
    assert details["tokens"] == f"token{last} ({last})"
    assert details["rows"].startswith(", ".join(map(str, rows[:3])))


@pytest.mark.parametrize(("but_last", "held"), [(False, [7, 9]), (True, [7])])
def test_the_last_token_of_a_sample_is_never_read(but_last, held) -> None:
    stored = SimpleNamespace(sample=lambda _: (np.array([7, 8, 9]), None))
    samples = data.store.Samples(stored, np.array([0]), np.array([0]), np.array([3]), np.array([41]))
    assert samples.tokens_by_row(np.array([7, 9]), but_last) == {41: held}
