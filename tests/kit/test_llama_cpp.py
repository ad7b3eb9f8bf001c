"""Exports asked in llama.cpp itself, from its wheel: prompts, ids and answers are those of the tuned model."""

import json
import shutil
from pathlib import Path

import pytest

from kit.export import llama_cpp
from kit.export.job import prepare
from kit.export.options import MergeCommand
from kit.support.errors import USAGE, KitError
from tests.support.processes import run_kit

QUESTIONS = ("Who are you?", "你是谁？", "Who made you?", "Hello!", "What is 2 + 2?", "Bist du ein Mensch?")
ANSWER_TOKENS = 24
NEAR_TIE = 0.05  # of the logarithm of a probability, between two ways of computing in 16 bit


def ask(path: Path, questions: tuple[str, ...]) -> list[dict]:
    """The server's own answers to chats, greedy, with nothing said of thinking: text and each token's likeliest."""
    with llama_cpp._serving(path, 512) as address:
        return [
            llama_cpp._post(address, "/v1/chat/completions", messages=[{"role": "user", "content": question}],
                            temperature=0, max_tokens=ANSWER_TOKENS, logprobs=True, top_logprobs=2)
            ["choices"][0] for question in questions
        ]  # fmt: skip


def is_near_tie(step: dict) -> bool:
    first, second = (token["logprob"] for token in step["top_logprobs"][:2])
    return first - second < NEAR_TIE


def assert_same_answers(answers: list[str], found: list[dict]) -> None:
    """Equal texts, or apart from where the engine's two likeliest tokens were as good as one."""
    equal = 0
    for ours, theirs in zip(answers, found, strict=True):
        text = theirs["message"]["content"].strip()
        steps = theirs["logprobs"]["content"]
        assert ours == text or any(map(is_near_tie, steps)), (ours, text)
        equal += ours == text
    assert equal >= len(answers) - 2, "ties are rare"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, list[str], dict]:
    """A run of the small Qwen3 without thoughts, merged into GGUF files; its own answers; the record of the proof."""
    folder = tmp_path_factory.mktemp("llama_cpp")
    done = run_kit("kit.train", "examples/identity.jsonl", "--preset", "cpu", "--model", "tiny", "--max-steps", 60,
                   "--evaluations", 0, "--precision", "fp32", "-o", folder / "run", libraries="unsloth")  # fmt: skip
    assert done.returncode == 0, done.stderr
    merged = run_kit("kit.merge", folder / "run", "-o", folder / "merged", "--to", "gguf", "--quant", "f16", "q8_0",
                     "--prove", "llama.cpp", "--json", libraries="hf")  # fmt: skip
    assert merged.returncode == 0, merged.stdout + merged.stderr
    prompts = folder / "questions.jsonl"
    rows = [{"messages": [{"role": "user", "content": question}]} for question in QUESTIONS]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = run_kit("kit.chat", folder / "run", "--prompts", prompts, "--precision", "fp32", "--json",
                    "--max-tokens", ANSWER_TOKENS, libraries="hf")  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    answers = [json.loads(line)["answer"] for line in asked.stdout.splitlines()]
    return folder / "merged", answers, json.loads(merged.stdout)


@pytest.mark.torch
def test_the_proof_asks_llama_cpp_too(exported) -> None:
    _, _, record = exported
    rows = [row for row in record["rows"] if row["reader"] == "llama.cpp"]
    assert len(rows) == 2
    assert all(row["passed"] and row["template"] and row["ids"] for row in rows)


@pytest.mark.torch
@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
def test_chats_in_llama_cpp_are_answered_as_in_the_kit(exported, quant: str) -> None:
    folder, answers, _ = exported
    (path,) = folder.glob(f"*{quant}.gguf")
    assert_same_answers(answers, ask(path, QUESTIONS))


@pytest.fixture(scope="module")
def real_export(smollm2: Path, tmp_path_factory) -> tuple[Path, dict]:
    """The real model as a run of `full` that changed nothing, as GGUF files, with the record of the proof."""
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(smollm2, folder / "run" / "model")
    (folder / "run" / "run.toml").write_text('model = "smollm2-135m"\nmethod = "full"\nload_in_4bit = false\n')
    (folder / "run" / "manifest.json").write_text(json.dumps({"status": "finished", "options": {
        "method": {"value": "full", "origin": "command line"}}, "chosen": {}}))  # fmt: skip
    merged = run_kit("kit.merge", folder / "run", "-o", folder / "merged", "--to", "gguf", "--quant", "f16", "q8_0",
                     "--prove", "llama.cpp", "--json", libraries="hf")  # fmt: skip
    assert merged.returncode == 0, merged.stdout + merged.stderr
    return folder / "merged", json.loads(merged.stdout)


@pytest.mark.torch
def test_a_real_model_is_proven_in_llama_cpp(real_export) -> None:
    _, record = real_export
    rows = [row for row in record["rows"] if row["reader"] == "llama.cpp"]
    assert len(rows) == 2
    assert all(row["passed"] and row["template"] and row["ids"] for row in rows)


def test_without_llama_cpp_the_proof_is_refused_before_anything_is_done(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(llama_cpp, "PACKAGE", "no_such_package")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KitError) as error:
        prepare(MergeCommand(source=tmp_path / "no-run", output=tmp_path / "out", prove="llama.cpp"))
    (finding,) = error.value.findings
    assert (finding.id, error.value.status) == ("llama-cpp-not-here", USAGE)
