"""A model of real shape with random weights and rows for it, written layer by layer: no download, little main memory.

python -m benchmarks.gpu.shapes SIZE FOLDER      0.6B to 14B as Qwen3 has them, or J1, a small one
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks import jobs
from benchmarks.qwen3_shape import DATA
from kit.memory import Shape
from kit.support.units import GIB

ROWS = jobs.Lengths(median_tokens=350, longest_tokens=1024)
SMALL = "J1"
STDDEV = 0.02


def config_of(size: str) -> dict[str, Any]:
    return (
        jobs.COMMON | jobs.J1 if size == SMALL else json.loads((DATA / f"Qwen3-{size}.config.json").read_text("utf-8"))
    )


def disk_gib(size: str) -> float:
    """What its weights take in bf16."""
    return 2 * Shape.of(config_of(size)).params / GIB


def build(size: str, folder: Path) -> None:
    """See jobs.build. The folder has its name when all of it is there."""
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    jobs.build(size, beside, draw_layers, jobs.SHORT if size == SMALL else ROWS)
    beside.rename(folder)


def draw_layers(folder: Path) -> None:
    """One file of weights for each layer and one for the rest, beside the config.json there."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    files: dict[str, dict[str, torch.Size]] = {}
    for name, weight in model.named_parameters():  # a head that is the embedding comes once
        parts = name.split(".")
        file = f"layer-{int(parts[2]):02}" if parts[1] == "layers" else "rest"  # "model" would be taken for all
        files.setdefault(f"{file}.safetensors", {})[name] = weight.shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(jobs.SEED)
    for file, shapes in files.items():
        save_file(
            {name: _drawn(name, shape, device) for name, shape in shapes.items()}, folder / file, {"format": "pt"}
        )
    places = {name: file for file, shapes in files.items() for name in shapes}
    index = {"metadata": {"total_size": 2 * sum(weight.numel() for weight in model.parameters())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8", newline="\n")


def _drawn(name: str, shape: Any, device: str) -> Any:
    import torch

    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=STDDEV).cpu()


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]))
    print("{}")
