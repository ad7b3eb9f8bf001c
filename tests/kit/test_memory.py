"""The planner's counts against published ones, and its verdict's logic."""

import json
from pathlib import Path

import pytest

from kit import memory
from kit.memory import GIB, Shape
from kit.options import LINEAR_LAYERS, Run

QWEN3 = Path(__file__).parents[1] / "data" / "qwen3"
PUBLISHED = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Qwen3-30B-A3B": 30_532_122_624,
}


def config_of(name: str) -> dict:
    return json.loads((QWEN3 / f"{name}.config.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_exact(name: str) -> None:
    assert Shape.of(config_of(name)).params == PUBLISHED[name]


def test_lora_parameters_of_a_published_run() -> None:
    assert Shape.of(config_of("Qwen3-1.7B")).lora_params(16, LINEAR_LAYERS) == 17_432_576


def plan_of(name: str, available_gib: float | None, **options) -> memory.Plan:
    run = Run(**{"device": "cuda", "optimizer": "adamw_8bit", "gradient_checkpointing": "off", **options})
    return memory.plan(config_of(name), run, None, None if available_gib is None else int(available_gib * GIB))


def test_verdict_never_says_fits_from_a_lower_bound() -> None:
    plan = plan_of("Qwen3-8B", 1000)
    low_gib, high_gib = plan.low_bytes / GIB, plan.high_bytes / GIB
    assert low_gib < high_gib
    assert plan_of("Qwen3-8B", high_gib + 0.01).verdict == "fits"
    assert plan_of("Qwen3-8B", (low_gib + high_gib) / 2).verdict == "tight"
    assert plan_of("Qwen3-8B", low_gib - 0.01).verdict == "will not fit"
    assert plan_of("Qwen3-8B", None).verdict == "unknown"


def test_four_bit_weights_take_a_quarter_and_checkpointing_saves() -> None:
    four, sixteen = (plan_of("Qwen3-8B", 16, load_in_4bit=flag).parts[0].low_bytes for flag in (True, False))
    linear = Shape.of(config_of("Qwen3-8B")).linear_params
    assert sixteen - four == pytest.approx(linear * (2 - 0.515869140625), abs=1)
    off, on = (plan_of("Qwen3-8B", 16, gradient_checkpointing=way) for way in ("off", "on"))
    assert on.high_bytes < off.low_bytes


def test_a_config_of_another_family_gives_no_plan() -> None:
    assert memory.plan({"model_type": "mamba"}, Run(device="cpu"), None, None) is None
