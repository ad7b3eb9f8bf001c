"""What `make gpu` measures, on a paper card: Unsloth's own code for cards, memory figures of paper."""

import json

import pytest

from benchmarks.gpu.catalogue import CARD, SMALL_GRID
from kit.models import TINY


@pytest.mark.parametrize("ways", [["off", "on"], ["unsloth"]])
def test_micro_batches_are_measured_and_held_against_the_plan(on_cards, ways: list[str]) -> None:
    options = {**CARD, "device": "cuda", "backend": "unsloth"}
    spec = {"options": options, "ways": ways, "limits_gib": [12.0], "grid": SMALL_GRID}
    done = on_cards("-m", "benchmarks.gpu.micro_batches", TINY, json.dumps(spec))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["planned_over_loaded"].keys() == {"weights", "adapter", "gradients", "optimizer"}
    assert found["planned_over_loaded"]["adapter"] == pytest.approx(1, abs=1e-3)
    assert [(row["checkpointing"], row["samples"]) for row in found["rows"]] == [
        (way, samples) for way in ways for samples, *_ in SMALL_GRID
    ]
    assert all(row["seconds"] > 0 and row["low_bytes"] < row["high_bytes"] for row in found["rows"])
