"""Published models by name, and the plan of a run on a card with them."""

import json
from pathlib import Path

from kit import memory
from kit.options import Run
from kit.support.units import GIB

QWEN3 = Path(__file__).parents[1] / "data" / "qwen3"
OTHERS = {
    "Llama-3.1-8B": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    },
    "Mistral-7B-v0.3": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768, "tie_word_embeddings": False,
    },
    "Qwen2.5-1.5B": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
}  # fmt: skip
ON_CARD = {"device": "cuda", "precision": "bf16", "optimizer": "adamw_8bit", "held_out_rows": 0}


def config_of(name: str) -> dict:
    return OTHERS.get(name) or json.loads((QWEN3 / f"{name}.config.json").read_text())


def plan_of(name: str, available_gib: float | None, **options) -> memory.Plan:
    run = Run(**{**ON_CARD, "gradient_checkpointing": "off", "micro_batch_size": 1, **options})
    return memory.plan(config_of(name), run, None, None if available_gib is None else int(available_gib * GIB))


def part(plan: memory.Plan, name: str) -> memory.Part:
    return next(part for part in plan.parts if part.name == name)
