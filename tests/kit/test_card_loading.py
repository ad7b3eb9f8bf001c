"""What the loader for cards is told, without a card."""

import pytest

from envcheck.facts import Facts, Gpu
from kit import train
from kit.backend import Backend, Loading
from kit.backend.loading import _own_positions
from kit.models import Model
from kit.options import resolve
from kit.run.notes import collect_notes

LINEAR = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("config", "tokens", "said"),
    [
        ({"max_position_embeddings": 1024}, 1024, {}),
        ({"max_position_embeddings": 1024}, 1025, {"rope_scaling": {"rope_type": "default"}}),
        ({"max_position_embeddings": 1024, "rope_scaling": LINEAR}, 1025, {"rope_scaling": LINEAR}),
        ({"max_position_embeddings": 1024, "rope_parameters": LINEAR}, 1025, {"rope_scaling": LINEAR}),
        ({}, 1 << 20, {}),
    ],
)
def test_positions_are_the_models_own_also_beyond_the_last(config, tokens, said) -> None:
    loading = Loading("cuda", "bf16", load_in_4bit=True, max_length_tokens=tokens)
    assert _own_positions(Model("m", "m", config, {}), loading) == said


@pytest.mark.parametrize(
    ("model_type", "device", "backend", "is_said"),
    [
        ("qwen3", "cuda", "unsloth", False),
        ("gemma2", "cuda", "unsloth", False),
        ("qwen3_moe", "cuda", "unsloth", True),
        ("phi3", "cuda", "unsloth", True),
        ("qwen3_moe", "cuda", "hf", False),
        ("qwen3_moe", "cpu", "unsloth", False),
    ],
)
def test_layers_that_unsloth_compiles_are_said(model_type, device, backend, is_said, monkeypatch) -> None:
    facts = Facts(gpu=(Gpu(name="NVIDIA GeForce RTX 5080", vram_gib=15.9, vram_free_gib=14.5),))
    planned = train.plan(resolve.load(["--model", "tiny", "--device", device, "--plan"], lambda: facts), facts)
    architecture = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}.get(model_type, "Other")
    monkeypatch.setitem(planned.model.config, "model_type", model_type)
    monkeypatch.setitem(planned.model.config, "architectures", [architecture])
    notes = collect_notes(planned, Backend(backend, ""), None)
    assert any("compiles those of transformers" in note for note in notes) is is_said
