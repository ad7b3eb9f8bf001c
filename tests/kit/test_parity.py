"""The gate: a merge of a real run with every file compared, a spoilt one refused, what the bounds let through."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kit.backend import candidates
from kit.backend.candidates import Candidate
from kit.export import parity
from kit.export.parity import BOUNDS, COARSE, Bound, Exported
from kit.export.parity_prompts import ParityPrompts
from kit.prompt import templates
from kit.run import layout
from kit.support.version import stamp
from tests.kit.exports import TINY, write_adapter
from tests.support.processes import run_kit, run_python


@pytest.fixture(scope="module")
def run(tmp_path_factory, kit_train) -> Path:
    """A short 4-bit run."""
    folder = tmp_path_factory.mktemp("parity") / "run"
    done = kit_train("--config", "examples/identity.toml", "--max-steps", 4, "--output", folder, "--evaluations", 0,
                     "--sample-tokens", 1, "--prompts", "Who are you?")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def merged(run, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    output = tmp_path_factory.mktemp("merged") / "model"
    return output, run_kit("kit.merge", run, "-o", output, "--to", "hf", "gguf", "--quant", "f16", "q8_0", "--json",
                           "--shard-gib", 0.004, libraries="hf")  # fmt: skip


@pytest.mark.torch
def test_a_run_becomes_a_model_and_a_file_that_answer_the_same(run, merged) -> None:
    output, done = merged
    assert done.returncode == 0, done.stderr
    assert "(NF4, dequantised): the run trained on the base in 4 bit" in done.stderr
    assert not (output / layout.NOT_VERIFIED).exists()
    record = json.loads(done.stdout)
    assert record == json.loads((output / layout.PARITY).read_text()) == json.loads((run / layout.PARITY).read_text())
    assert record["passed"]
    assert stamp().items() <= record.items()
    here = [row for row in record["rows"] if row["reader"] == "transformers"]
    assert [row["name"] for row in here] == ["merged model", "model-F16.gguf", "model-Q8_0.gguf"]
    assert all((row["template"], row["ids"], row["end"]) == (True, True, True) for row in here)
    assert "held-out rows" in record["prompts"]
    assert here[1]["top1_pct"] >= 99
    assert here[2]["top1_pct"] >= 97


@pytest.mark.torch
def test_what_lies_in_the_folder(merged) -> None:
    output, _ = merged
    config = json.loads((output / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["dtype"], config["eos_token_id"]) == ("bfloat16", 2)
    assert json.loads((output / "generation_config.json").read_text())["eos_token_id"] == 2
    template = (output / "chat_template.jinja").read_text()
    assert template == templates.switched_off((TINY / "chat_template.jinja").read_text()), "trained without thoughts"
    index = json.loads((output / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len(list(output.glob("model-*.safetensors"))) > 1
    modelfile = (output / "Modelfile").read_text()
    assert "FROM ./model-F16.gguf" in modelfile
    assert 'PARAMETER stop "<|im_end|>"' in modelfile


@pytest.mark.torch
def test_a_spoilt_model_is_named_with_its_first_layer_and_marked(run, tmp_path) -> None:
    output = tmp_path / "model"
    done = run_python("tests/kit/exports.py", "broken", run, output, libraries="hf")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "export-not-verified" in done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads((output / layout.PARITY).read_text())
    row, trained = record["rows"]
    assert (row["passed"], row["template"], row["end"]) == (False, False, True)
    assert (trained["name"], trained["precision"], trained["bound"]) == ("base of training", "nf4", None)
    assert trained["logit_share"] > 0.01, "--base-precision 16bit is another base than the one of training"
    assert row["first_layer"] == "layer 2"
    assert "layer 2" in (output / layout.NOT_VERIFIED).read_text()


# what the bounds let through


def compared(monkeypatch, expected, found, precision="bf16", words=(True, True, True)) -> parity.Row:
    def logits(candidate, prompts, last):
        return [expected] if candidate.folder == "base" else [found]

    monkeypatch.setattr(candidates, "logits", logits)
    monkeypatch.setattr(candidates, "layers", lambda candidate, ids: [np.ones((2, 3))] * 4)
    monkeypatch.setattr(parity, "words_of", lambda *_: words)
    exported = Exported("x", Path("merged"), "", precision)
    prompts = ParityPrompts(None, [], [], [], [], [[1, 2]], "")
    seen = parity.compare(Candidate("base"), "base", [exported], prompts, lambda *_: None)
    assert seen.passed == seen.rows[0].passed
    return seen.rows[0]


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (100, 50)).astype(np.float32)


@pytest.mark.parametrize("precision", [*BOUNDS, "q4_0"])
def test_equal_logits_pass(monkeypatch, logits, precision) -> None:
    row = compared(monkeypatch, logits, logits.copy(), precision)
    assert (row.passed, row.top1_pct, row.logit_share, row.first_layer) == (True, 100, 0, "")


@pytest.mark.parametrize("precision", list(BOUNDS))
def test_one_logit_beyond_the_bound_fails(monkeypatch, logits, precision) -> None:
    found = logits.copy()
    spread = logits[7].max() - logits[7].min()
    lowest = int(logits[7].argmin())
    found[7, lowest] += 0.9 * BOUNDS[precision].most_logit_share * spread
    assert compared(monkeypatch, logits, found, precision).passed
    found[7, lowest] += 0.3 * BOUNDS[precision].most_logit_share * spread
    assert not compared(monkeypatch, logits, found, precision).passed


def test_another_likeliest_token_fails(monkeypatch, logits) -> None:
    found = np.zeros_like(logits)
    row = compared(monkeypatch, logits, found, "q4_0")
    assert not row.passed
    assert row.top1_pct < COARSE.least_top1_pct


def test_no_number_fails(monkeypatch, logits) -> None:
    found = logits.copy()
    found[3, 4] = np.nan
    assert not compared(monkeypatch, logits, found, "q4_0").passed


@pytest.mark.parametrize("words", [(False, True, True), (True, False, True), (True, True, False)])
def test_other_words_fail_whatever_the_logits(monkeypatch, logits, words) -> None:
    row = compared(monkeypatch, logits, logits, words=words)
    assert not row.passed
    assert "words" in row.first_layer


def test_the_first_layer_beyond_the_bound_is_named(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    states = [rng.normal(size=(5, 8)) for _ in range(5)]
    for place, name in enumerate(("embedding", "layer 0", "layer 1", "layer 2", "layer 3 and the norm behind it")):
        other = [state + (0.5 if number >= place else 0.0) for number, state in enumerate(states)]
        monkeypatch.setattr(candidates, "layers", lambda one, _, other=other: states if one.folder == "a" else other)
        assert parity.first_layer(Candidate("a"), Candidate("b"), [1], Bound(99, 0.01)) == name


def test_arithmetic_in_bf16_widens_the_bounds() -> None:
    assert parity.bound_of("fp32", "fp32", 4) == BOUNDS["fp32"]
    wide = parity.bound_of("fp32", "bf16", 4)
    assert wide.most_logit_share > BOUNDS["bf16"].most_logit_share
    assert wide.least_top1_pct == BOUNDS["bf16"].least_top1_pct


def test_bounds_widen_with_the_root_of_the_layers() -> None:
    """The right merge of a real model of 30 layers was refused by the bounds of one of 4."""
    shallow, deep = (parity.bound_of("bf16", "fp32", layers) for layers in (4, 36))
    assert deep.most_logit_share == pytest.approx(3 * shallow.most_logit_share)
    assert 100 - deep.least_top1_pct == pytest.approx(3 * (100 - shallow.least_top1_pct))
    assert parity.bound_of("bf16", "fp32", 1) == shallow
    assert parity.bound_of("q4_0", "fp32", 36) == COARSE


@pytest.mark.torch
def test_two_adapters_in_one(tmp_path) -> None:
    """Compared with what PEFT makes of the two."""
    paths = [write_adapter(tmp_path / name, seed=seed, size=0.01) for seed, name in enumerate("ab")]
    done = run_kit("kit.merge", paths[0], "-o", tmp_path / "ab", "--add", f"{paths[1]}=0.5", "--combine", "ties",
                   "--precision", "fp32", "--json", libraries="hf")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["top1_pct"], row["template"], row["ids"], row["end"]) == (100, True, True, True)
