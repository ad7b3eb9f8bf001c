"""The memory plan against what a training really loads and autograd really keeps, on the CPU: planned / measured.

python -m benchmarks.planner [--sizes 0.6B 1.7B]
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measure, qwen3_shape
from kit.memory import Shape, plan
from kit.memory.activations import padding_bytes_per_token, saved_bytes
from kit.models import TINY
from kit.options import Run

CPU = {
    "device": "cpu", "precision": "bf16", "optimizer": "adamw_torch_fused", "gradient_checkpointing": "off",
    "pin_memory": "off",
}  # fmt: skip
BATCHES = ((1, 128), (1, 512), (2, 256), (4, 256), (8, 64))
GRID = [
    *((samples, tokens, "off", padded) for samples, tokens in BATCHES for padded in ((False, True)[:samples])),
    *((samples, tokens, "on", False) for samples, tokens in BATCHES),
]
BACKENDS = ({"backend": "unsloth"}, {"backend": "hf"})
VARIANTS = (
    {}, {"attention": "eager"}, {"adapter_precision": "bf16"}, {"precision": "fp32"}, {"load_in_4bit": False},
    {"lora_rank": 64}, {"lora_dropout": 0.1}, {"target_modules": ["q_proj", "v_proj"]},
)  # fmt: skip
LLAMA = {  # the widths of a Llama with 1B weights
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "intermediate_size": 8192,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
FEW_LAYERS = 2


def build_few_layers(config: dict[str, Any], folder: Path) -> None:
    """A model of these widths with FEW_LAYERS blocks, random weights and the embedded model's tokenizer."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder)
    own = json.loads((TINY / "config.json").read_text("utf-8"))
    tokens = {name: own[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    small = config | tokens | {"num_hidden_layers": FEW_LAYERS, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(small), encoding="utf-8", newline="\n")
    measure.draw_weights(folder)


def compare(folder: Path, options: dict[str, Any], grid: list[tuple[int, int, str, bool]]) -> dict[str, Any]:
    """planned / measured of each part that stays, and of each micro-batch of the grid."""
    options = CPU | options
    done = measure.must(measure.run("-m", "benchmarks.inside", folder, json.dumps(options), json.dumps(grid)))
    real = json.loads(done.stdout.splitlines()[-1])
    config = json.loads((folder / "config.json").read_text("utf-8"))
    shape, run = Shape.of(config), Run(**options, micro_batch_size=1)
    parts = {part.name: part.low_bytes for part in plan(config, run, None, None).parts}
    parts["weights"] = sum(parts.get(name, 0) for name in ("4-bit weights", "weights", "embedding", "head", "norms"))
    loaded = {name: round(parts[name] / real[name], 4) for name in ("weights", "adapter", "gradients", "optimizer")}
    rows = []
    for row in real["grid"]:
        with_way = run.model_copy(update={"gradient_checkpointing": row["checkpointing"]})
        tokens = row["samples"] * row["tokens"]
        planned = saved_bytes(shape, with_way, tokens, row["tokens"])
        if row["padded"]:
            planned += shape.layers * tokens * padding_bytes_per_token(shape, run, row["tokens"])
        rows.append({**row, "ratio": round(planned / row["saved_bytes"], 4)})
    return {"options": options, "loaded_ratio": loaded, "grid": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=["0.6B", "1.7B"], help="Qwen3 shapes loaded whole")
    args = parser.parse_args()
    cases: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        cases["tiny"] = [compare(TINY, backend | variant, GRID) for variant in VARIANTS for backend in BACKENDS]
        widths = {f"Qwen3-{size}": qwen3_config(size) for size in ("0.6B", "1.7B")} | {"Llama-1B": LLAMA}
        for name, config in widths.items():
            folder = Path(scratch) / name
            build_few_layers(config, folder)
            cases[f"{name}, {FEW_LAYERS} layers"] = [compare(folder, backend, GRID) for backend in BACKENDS]
        for size in args.sizes:
            folder = Path(scratch) / f"whole-{size}"
            qwen3_shape.build_model(size, folder)
            cases[f"Qwen3-{size}, whole"] = [compare(folder, {"backend": "unsloth"}, [(1, 256, "off", False)])]
            shutil.rmtree(folder)
    every = [case for found in cases.values() for case in found]
    measure.write(
        "planner",
        {
            "what": "planned / measured bytes, 4 bit and random weights unless said, CPU",
            "loaded": spread([ratio for case in every for ratio in case["loaded_ratio"].values()]),
            "saved_off": spread(
                [row["ratio"] for case in every for row in case["grid"] if row["checkpointing"] == "off"]
            ),
            "saved_on": spread(
                [row["ratio"] for case in every for row in case["grid"] if row["checkpointing"] == "on"]
            ),
            "cases": cases,
        },
    )


def qwen3_config(size: str) -> dict[str, Any]:
    return json.loads((qwen3_shape.DATA / f"Qwen3-{size}.config.json").read_text("utf-8"))


def spread(ratios: list[float]) -> dict[str, float]:
    return {"min": min(ratios), "max": max(ratios), "figures": len(ratios)}


if __name__ == "__main__":
    main()
