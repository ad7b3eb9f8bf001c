"""Other paper cards than the RTX 5080: less memory, no bf16, two that are unlike."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.run import reading
from tests.support.results import losses_of

Watched = Callable[..., dict]


@pytest.fixture(scope="module")
def t4(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """In a process of its own: Unsloth asks once, at its import, whether the card has bf16. Short, as a CPU is slow in
    fp16."""
    folder = tmp_path_factory.mktemp("t4") / "run"
    return folder, watched(folder, "--max-steps", 2, "--evaluations", 0, cards="t4", fresh=True)


@pytest.fixture(scope="module")
def rtx4060(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("rtx4060") / "run"
    return folder, watched(folder, "--gradient-checkpointing", "unsloth", cards="rtx4060")


def available_gib(folder: Path) -> float:
    return json.loads((folder / "plan.json").read_text())["available_bytes"] / (1 << 30)


def test_a_card_of_8_gib_is_planned_as_one(rtx4060: tuple[Path, dict]) -> None:
    folder, seen = rtx4060
    assert seen["card"] == ["NVIDIA GeForce RTX 4060", 1]
    assert 5 < available_gib(folder) < 7
    assert reading.read(folder).status == "finished"


def test_checkpointing_is_as_planned_after_each_evaluation(rtx4060: tuple[Path, dict], finished: Path) -> None:
    """And offloaded activations leave the losses what they are."""
    folder, seen = rtx4060
    assert [step for step, _ in reading.read(folder).losses[1:]] == [2, 4, 6]
    assert {recomputed for _, _, recomputed in seen["micro_batches"]} == {True}
    assert losses_of(folder) == [(step, pytest.approx(loss, abs=0.01)) for step, loss in losses_of(finished)]


def test_batches_have_their_padding_and_a_mask(rtx4060: tuple[Path, dict]) -> None:
    """Unsloth would join the samples of a batch to one row, and finds out for itself whether it may."""
    assert rtx4060[1]["trainer"]["padding_free"] == [False, False]


def test_a_card_without_bf16_trains_in_fp16_and_scales_its_loss(t4: tuple[Path, dict]) -> None:
    folder, seen = t4
    assert seen["card"] == ["Tesla T4", 1]
    assert seen["trainer"]["precision"] == ["fp16"]
    assert seen["trainer"]["scaler"]
    assert reading.read(folder).options["precision"]["value"] == "fp16"


def test_losses_in_fp16_are_those_in_bf16_but_for_the_rounding(t4: tuple[Path, dict], finished: Path) -> None:
    expected = [(step, pytest.approx(loss, abs=0.02)) for step, loss in losses_of(finished)[:2]]
    assert losses_of(t4[0]) == expected
    assert reading.read(t4[0]).loss_before == pytest.approx(reading.read(finished).loss_before, abs=0.02)


@pytest.mark.parametrize("cards", ["rtx5080 rtx3090", "rtx3090 rtx5080"])
def test_of_two_unlike_cards_the_planned_one_is_used(cards: str, watched: Watched, tmp_path: Path) -> None:
    """The one with more memory, wherever it is plugged in; CUDA of itself counts the faster one as the first."""
    seen = watched(tmp_path / "run", "--max-steps", 1, "--evaluations", 0, cards=cards)
    assert seen["card"] == ["NVIDIA GeForce RTX 3090", 1]
    assert 20 < available_gib(tmp_path / "run") < 24
