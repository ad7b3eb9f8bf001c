"""Memory that runs out on a paper card: what is given up, that it stays given up, and that a resumed run knows it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kit.run import reading
from tests.support.results import losses_of

Watched = Callable[..., dict]
SHORT = ("--preset", "rtx5080", "--gradient-checkpointing", "off")
AFTER = 1  # steps; evaluations come after steps 2 and 4


@pytest.fixture(scope="module")
def whole(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run in which memory runs out in step 2 until nothing is left to give up."""
    folder = tmp_path_factory.mktemp("ladder") / "whole"
    return folder, watched(folder, *SHORT, out_of_memory_after=AFTER)


@pytest.fixture(scope="module")
def resumed(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """The same, stopped at its first evaluation; and what the same command does then, in a process of its own."""
    folder = tmp_path_factory.mktemp("ladder") / "resumed"
    first = watched(folder, *SHORT, out_of_memory_after=AFTER, stop_at_evaluation=True)
    return folder, first, watched(folder, *SHORT)


def trained(seen: dict, step: int) -> list[tuple[int, bool]]:
    """(tokens, activations computed anew) of each micro-batch of a step, also of tries that failed."""
    return [(tokens, recomputed) for found, tokens, recomputed in seen["micro_batches"] if found == step]


def longest_tokens(folder: Path) -> int:
    """Of one sample."""
    return reading.read(folder).data["longest_tokens"]


def test_first_fewer_samples_at_once_then_recomputed_activations(whole: tuple[Path, dict]) -> None:
    folder, seen = whole
    tries = trained(seen, AFTER + 1)
    tokens = [count for count, recomputed in tries if not recomputed]
    assert tokens == sorted(tokens, reverse=True)
    assert tokens[-1] <= longest_tokens(folder) < tokens[0]
    assert [recomputed for _, recomputed in tries].index(True) == len(tokens), "only when nothing else is left"
    texts = [event["text"] for event in reading.read(folder).events if event["kind"] == "out-of-memory"]
    assert "gradient checkpointing from now on" in texts[-1]
    assert all("tokens at once" in text for text in texts[:-1])


def test_evaluations_and_answers_leave_the_checkpointing_as_it_is(whole: tuple[Path, dict]) -> None:
    folder, seen = whole
    assert reading.read(folder).status == "finished"
    assert [step for step, _ in reading.read(folder).losses[1:]] == [2, 4, 6]
    for step in (3, 4, 5, 6):
        assert {recomputed for _, recomputed in trained(seen, step)} == {True}


def test_the_losses_are_those_of_the_run_that_had_enough_memory(whole: tuple[Path, dict], finished: Path) -> None:
    """Sums of fewer samples round otherwise in bf16."""
    assert losses_of(whole[0]) == [(step, pytest.approx(loss, abs=0.01)) for step, loss in losses_of(finished)]


def test_a_resumed_run_stands_where_the_ladder_stood(resumed: tuple[Path, dict, dict]) -> None:
    folder, first, rest = resumed
    assert first["steps"] == 2
    steps, tokens, recomputed = zip(*rest["micro_batches"], strict=True)
    assert min(steps) == 3
    assert max(tokens) <= longest_tokens(folder)
    assert set(recomputed) == {True}


def test_a_resumed_run_has_the_losses_of_an_unbroken_one(
    resumed: tuple[Path, dict, dict], whole: tuple[Path, dict]
) -> None:
    """To the last bit here: the arithmetic of a paper card is a CPU's."""
    assert losses_of(resumed[0]) == losses_of(whole[0])
    adapters = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (resumed[0], whole[0])]
    assert adapters[0] == adapters[1]
