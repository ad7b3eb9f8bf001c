"""A whole run on a paper card, through Unsloth's code for cards: what it leaves in its folder."""

import json
from pathlib import Path

import pytest

from kit.run import reading
from tests.support.processes import run_kit
from tests.support.results import losses_of


def test_it_runs_on_the_card_with_unsloth(finished: Path) -> None:
    record = reading.read(finished)
    assert record.status == "finished"
    assert (record.options["device"]["value"], record.options["backend"]["value"]) == ("cuda", "unsloth")
    assert record.unread == ()
    assert (finished / "report.html").is_file()


def test_the_plan_is_for_the_card_and_its_free_memory(finished: Path) -> None:
    plan = json.loads((finished / "plan.json").read_text())
    assert plan["verdict"] == "fits"
    assert 12 << 30 < plan["available_bytes"] < 14.75 * (1 << 30), "of 15.92 GiB the desktop has 1.17"


def test_tokens_are_counted_and_so_is_the_speed(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    tokens = [line["tokens"] for line in lines if "loss" in line]
    assert tokens == sorted(set(tokens))
    assert tokens[0] > 0
    assert all(line["tokens_per_s"] > 0 for line in lines if "loss" in line)
    result = reading.read(finished).result
    assert result["tokens"] == tokens[-1]
    assert result["tokens_per_s"] > 0


def test_the_losses_are_those_of_the_plain_backend(finished: Path, tmp_path: Path) -> None:
    """Of transformers and PEFT on the CPU, in bf16 as here: other sums round otherwise, by less than a hundredth."""
    done = run_kit("kit.train", "--config", finished / "run.toml", "--device", "cpu", "--backend", "hf",
                   "--optimizer", "adamw_torch_fused", "--output", tmp_path / "plain", libraries="hf")  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain = losses_of(tmp_path / "plain")
    assert losses_of(finished) == [(step, pytest.approx(loss, abs=0.01)) for step, loss in plain]
    measured = [loss for _, loss in reading.read(finished).losses]
    assert measured == pytest.approx([loss for _, loss in reading.read(tmp_path / "plain").losses], abs=0.01)
    assert reading.read(finished).result["tokens"] == reading.read(tmp_path / "plain").result["tokens"]
