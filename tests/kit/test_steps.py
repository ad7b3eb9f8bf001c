"""Optimiser steps that go wrong: memory, numbers, a kill - with the real libraries, each in a process of its own."""

import json
from pathlib import Path

import pytest

from tests.support.processes import run_python
from tests.support.results import record_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.torch


def play(scenario: str, backend: str, folder: Path, **options: object) -> dict:
    given = (scenario, backend, folder, json.dumps(options))
    return record_of(run_python("tests/kit/scenarios.py", *given, libraries=backend))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict[str, list[float]]:
    """Losses of the same steps when nothing goes wrong, in fp32 so that splitting shows no rounding."""
    folder = tmp_path_factory.mktemp("unbroken")
    return {name: play("unbroken", name, folder, **EXACT)["losses"] for name in ("unsloth", "hf")}


EXACT = {"precision": "fp32", "load_in_4bit": False}


@pytest.mark.parametrize(
    ("backend", "options"),
    [("unsloth", {}), ("hf", {}), ("unsloth", {"load_in_4bit": False, "adapter_precision": "bf16"})],
    ids=["unsloth-4bit", "hf-4bit", "unsloth-16bit-bf16-adapter"],
)
def test_a_resumed_run_has_the_losses_and_weights_of_an_unbroken_one_to_the_last_bit(
    backend, options, tmp_path
) -> None:
    got = play("resumed", backend, tmp_path, **options)
    assert got["rest"] == got["whole"][2:]
    assert len(got["rest"]) == 2
    assert got["same_weights"]


@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_out_of_memory_splits_the_step_and_loses_nothing(backend, unbroken, tmp_path) -> None:
    got = play("out of memory", backend, tmp_path, most_tokens=200, **EXACT)
    assert got["losses"] == pytest.approx(unbroken[backend], rel=1e-5)
    assert {event["kind"] for event in got["events"]} == {"out-of-memory"}
    assert all("tokens at once" in event["text"] for event in got["events"])


@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_the_next_rung_recomputes_activations(backend, unbroken, tmp_path) -> None:
    got = play("out of memory", backend, tmp_path, **EXACT)
    assert got["losses"] == pytest.approx(unbroken[backend], rel=1e-5)
    assert "gradient checkpointing" in got["events"][-1]["text"]


@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_a_split_step_has_the_same_gradients_tensor_by_tensor(backend, tmp_path) -> None:
    """And averaging each sample's own mean, as was common until 2024, has not: the samples differ in length."""
    got = play("gradients", backend, tmp_path, max_steps=1, **EXACT)
    assert got["tensors"] == 56, "A and B of 7 layers in 4 blocks"
    assert got["4 x 2"] < 1e-4
    assert got["1 x 8"] < 1e-4
    assert got["mean of means"] > 1e-2


def test_memory_that_runs_out_in_the_update_is_tried_again(unbroken, tmp_path) -> None:
    got = play("out of memory in the update", "hf", tmp_path, **EXACT)
    assert got["losses"] == unbroken["hf"], "bit by bit as without"
    assert [event["kind"] for event in got["events"]] == ["out-of-memory"]


def test_an_update_that_was_cut_short_is_said_so(tmp_path) -> None:
    got = play("out of memory in the update", "hf", tmp_path, in_its_middle=True, **EXACT)
    assert got == {"finding": "update-cut-short", "events": []}


def test_the_last_rung_is_a_finding_and_the_weights_are_untouched(tmp_path) -> None:
    got = play("nothing left", "unsloth", tmp_path)
    assert got["finding"] == "out-of-memory"
    assert got["same_weights"]


@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_a_preflight_tries_the_worst_and_leaves_no_trace(backend, unbroken, tmp_path) -> None:
    got = play("preflight", backend, tmp_path, **EXACT)
    assert got["losses"] == unbroken[backend], "bit by bit as without a preflight"
    assert got["same_weights"]
    assert got["same_random"]
    assert got["optimizer_empty"]
    assert got["no_gradients"]
    assert got["tokens_counted"] == 0
    assert got["samples"] == 8
    assert got["tokens"] > 7 * got["longest"] * 0.6


@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_a_number_that_is_none_stops_before_the_update_and_names_row_and_layer(backend, tmp_path) -> None:
    got = play("not a number", backend, tmp_path)
    assert got["finding"] == "loss-not-finite"
    assert got["details"]["rows"] == str(got["row"])
    assert "layers.1.mlp" in got["details"]["first layer"]
    assert got["same_weights"]


def test_retry_goes_on_without_that_row(tmp_path) -> None:
    got = play("not a number", "unsloth", tmp_path, on_nan="retry")
    assert len(got["losses"]) == 4
    assert got["events"][0]["rows"] == [got["row"]]
