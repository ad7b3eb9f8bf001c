"""Each family on a small model of random weights, from training to llama.cpp; the table in the docs says what is so."""

import json
from pathlib import Path

import pytest

from kit.export import gguf_file
from kit.models.families import FAMILIES, FUSED_LAYERS
from kit.support.errors import KitError
from tests.kit.test_untrainable import REFUSED
from tests.support.processes import run_kit, run_python

DOCS = Path(__file__).parents[2] / "docs" / "families.md"
PROVEN = ("qwen2", "mistral")  # here; the embedded model and the real one are proven in test_llama_cpp.py
PROVEN_ELSEWHERE = {"qwen3", "llama"}
ONLY_MERGED = {"llama"}  # the real model's run there changed nothing


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    done = run_python("-m", "tests.kit.small_families", folder, *PROVEN, libraries="hf")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.torch
@pytest.mark.parametrize("name", PROVEN)
def test_trained_merged_and_asked_in_llama_cpp(name: str, small: Path) -> None:
    """Was refused as GGUF."""
    done = run_kit("kit.train", "examples/identity.jsonl", "--preset", "cpu", "--model", small / name,
                   "--max-steps", 2, "--evaluations", 0, "--precision", "fp32", "-o", small / f"{name}-run",
                   libraries="unsloth")  # fmt: skip
    assert done.returncode == 0, done.stderr
    merged = run_kit("kit.merge", small / f"{name}-run", "-o", small / f"{name}-merged", "--to", "hf", "gguf",
                     "--quant", "f16", "--prove", "llama.cpp", "--json", libraries="hf")  # fmt: skip
    assert merged.returncode == 0, merged.stdout + merged.stderr
    rows = json.loads(merged.stdout)["rows"]
    assert {row["reader"] for row in rows} >= {"llama.cpp"}
    assert all(row["passed"] for row in rows)


def as_gguf(model_type: str) -> str:
    family = FAMILIES[model_type]
    try:
        gguf_file.check_config(
            {"model_type": model_type, "architectures": [family.architecture], "sliding_window": None}
        )
    except KitError:
        return "refused: not compared"
    return "works"


def table() -> str:
    lines = ["| model_type | plan | train (Unsloth), merge | GGUF | asked in llama.cpp |", "|---|---|---|---|---|"]
    for name in FAMILIES:
        proven = name in (*PROVEN, *PROVEN_ELSEWHERE)
        merge = "refused: experts in one tensor" if FAMILIES[name].is_mixture else ""
        trained = (
            "train not tried; merge works"
            if name in ONLY_MERGED
            else "works"
            if proven
            else f"not tried; merge {merge}"
            if merge
            else "not tried"
        )
        lines.append(f"| {name} | works | {trained} | {as_gguf(name)} | {'works' if proven else 'not tried'} |")
    for name, layers in FUSED_LAYERS.items():
        how = f"refused: fused layers, unless `--target-modules {' '.join(layers)}`"
        lines.append(f"| {name} | unknown | {how} | refused: family unknown | not tried |")
    for name, (reason, _) in REFUSED.items():
        if name not in FAMILIES:
            said = f"refused: {reason}"
            lines.append(f"| {name} | {said} | refused | refused | not tried |")
    lines.append("| every other decoder | unknown | not tried | refused: family unknown | not tried |")
    return "\n".join(lines)


def test_the_table_in_the_docs_is_what_the_code_says() -> None:
    assert table() in DOCS.read_text(encoding="utf-8")
