"""Other paper cards than the RTX 5080: less memory, no bf16."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.run import reading

Watched = Callable[..., dict]


@pytest.fixture(scope="module")
def t4(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """In a process of its own: Unsloth asks once, at its import, whether the card has bf16."""
    folder = tmp_path_factory.mktemp("t4") / "run"
    return folder, watched(folder, cards="t4", fresh=True)


def test_a_card_of_8_gib_is_planned_as_one(watched: Watched, tmp_path: Path) -> None:
    seen = watched(tmp_path / "run", cards="rtx4060")
    assert seen["card"] == ["NVIDIA GeForce RTX 4060", 1]
    assert reading.read(tmp_path / "run").status == "finished"
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert 5 << 30 < plan["available_bytes"] < 7 << 30


def test_a_card_without_bf16_trains_in_fp16_and_scales_its_loss(t4: tuple[Path, dict]) -> None:
    folder, seen = t4
    assert seen["card"] == ["Tesla T4", 1]
    assert seen["trainer"]["precision"] == ["fp16"]
    assert seen["trainer"]["scaler"]
    assert reading.read(folder).options["precision"]["value"] == "fp16"
