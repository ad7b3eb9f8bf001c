"""Optimiser steps that go wrong: memory, numbers, a kill - with the real libraries, each in a process of its own."""

import json
from itertools import accumulate
from pathlib import Path

import pytest

from tests.support.error_texts import CARD, KERNEL, MEMORY, ON_A_FULL_CARD
from tests.support.processes import run_python
from tests.support.results import record_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.torch


def play(scenario: str, backend: str, folder: Path, **options: object) -> dict:
    given = (scenario, backend, folder, json.dumps(options))
    return record_of(run_python("tests/kit/scenarios.py", *given, libraries=backend))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, dict]:
    """Of each backend the same steps when nothing goes wrong, in fp32 so that splitting shows no rounding."""
    folder = tmp_path_factory.mktemp("unbroken")
    return {name: play("unbroken", name, folder, **EXACT) for name in ("unsloth", "hf")}


@pytest.fixture(scope="module")
def unbroken(undisturbed) -> dict[str, list[float]]:
    return {name: got["losses"] for name, got in undisturbed.items()}


@pytest.fixture(scope="module")
def at_each_place(tmp_path_factory) -> dict[str, dict[str, str]]:
    """Place of a run -> text of an error -> what came of it."""
    done = run_python("tests/kit/error_places.py", tmp_path_factory.mktemp("places"), libraries="hf")
    return record_of(done)


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
    assert got["tokens"][0] == got["tokens"][1] > 0


def counted(lengths: list[list[int]]) -> list[int]:
    """Tokens of all steps so far, after each."""
    return list(accumulate(map(sum, lengths)))


@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_the_tokens_of_each_step_are_those_of_its_samples(undisturbed, backend) -> None:
    assert undisturbed[backend]["tokens"] == counted(undisturbed[backend]["lengths"])


@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_a_resumed_run_recomputes_activations_where_it_had_to_before(backend, tmp_path) -> None:
    got = play("resumed", backend, tmp_path, run_out=True, **EXACT)
    assert got["recomputes"]
    assert [event["kind"] for event in got["events"]] == ["checkpointing-stays-on"]
    assert (got["rest"], got["same_weights"]) == (got["whole"][2:], True)


@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_out_of_memory_splits_the_step_and_loses_nothing(backend, unbroken, undisturbed, tmp_path) -> None:
    got = play("out of memory", backend, tmp_path, most_tokens=200, **EXACT)
    assert got["losses"] == pytest.approx(unbroken[backend], rel=1e-5)
    assert got["tokens"] == undisturbed[backend]["tokens"], "none for the tries that were undone"
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


ENDS = {"loading": "out-of-memory-at-load", "adapting": "out-of-memory-at-load",
        "adapter_in_use": "out-of-memory-at-load", "chat": "out-of-memory-answering"}  # fmt: skip


@pytest.mark.parametrize(
    "place", ["forward", "backward", "optimizer_step", "held_out_loss", "answers", "checkpoint", *ENDS]
)
def test_every_text_of_memory_and_card_is_known_at_each_place(at_each_place, place) -> None:
    """Memory goes down the ladder where there is one, or is a finding; a card's failure is one everywhere."""
    expected = dict.fromkeys(MEMORY | ON_A_FULL_CARD, ENDS.get(place, "went on"))
    expected |= dict.fromkeys(CARD, "card-failed") | dict.fromkeys(KERNEL, "kernel-cannot-run")
    assert at_each_place[place] == expected


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
    lengths = [[*got["lengths"][0], -got["row_tokens"]], *got["lengths"][1:]]
    assert got["tokens"] == counted(lengths), "what is left out is not counted"


def test_bad_samples_are_searched_without_compiled_layers(tmp_path) -> None:
    """A hook that looks at numbers would end Unsloth's compiling for the rest of the process."""
    got = play("not a number", "unsloth", tmp_path, on_nan="retry")
    assert got["compiling"] == {"in the search": "0", "after": "1"}


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])  # torch's fused ones skip inside of a step
@pytest.mark.parametrize(("max_steps", "steps"), [(30, 20), (3, 3)])
def test_a_loss_scale_that_never_fits_ends_the_run(tmp_path, optimizer, max_steps, steps) -> None:
    """20 updates in a row that change nothing, or all that there are."""
    got = play("skipped", "hf", tmp_path, **EXACT, max_steps=max_steps, as_optimizer=optimizer)
    assert (got["finding"], got["steps"], got["in_a_row"], got["updates"]) == ("loss-not-finite", steps, steps, 0)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
def test_a_loss_scale_that_finds_its_size_goes_on(tmp_path, optimizer) -> None:
    """The preflight finds one with which the optimiser has its states, and leaves the scale as it was."""
    got = play("skipped", "hf", tmp_path, largest_scale=2.0**14, **EXACT, as_optimizer=optimizer)
    assert got.pop("events") == ["2 of 4 steps changed nothing: fp16's loss scale was too large"]
    assert got == {"in_preflight": 1, "scale": 2.0**16, "updates": 2, "steps": 4, "in_a_row": 0}
