"""Each method of kit.train on the same rows: which learning rate suits it, and what it then reaches over several seeds.

python -m benchmarks.methods [--seeds 3]

Three learning rates are tried with the first seed; the best of each method is then trained with every seed. The small
Qwen3 and 82 rows: what is compared is how far each method gets in as many steps, not what it is worth on a large model.
All train with plain transformers and PEFT. Times are in notebook 05, where the runs follow one another.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measure
from kit.support.units import GIB

SEEDS = (3407, 1, 2, 3, 4)
FOUR_BIT, SIXTEEN_BIT = "--load-in-4bit", "--no-load-in-4bit"
FACTORS, VIRTUAL = (2e-3, 5e-3, 2e-2), (1e-1, 3e-1, 1.0)
METHODS: dict[str, tuple[str, str, tuple[float, ...]]] = {  # --method, the base, learning rates to try
    "full": ("full", SIXTEEN_BIT, (2e-4, 1e-3, 5e-3)),
    "lora": ("lora", SIXTEEN_BIT, FACTORS),
    "qlora": ("lora", FOUR_BIT, FACTORS),
    "rslora": ("rslora", FOUR_BIT, FACTORS),
    "dora": ("dora", FOUR_BIT, FACTORS),
    "miss": ("miss", FOUR_BIT, FACTORS),
    "ia3": ("ia3", FOUR_BIT, (5e-3, 2e-2, 1e-1)),
    "prefix": ("prefix", FOUR_BIT, FACTORS),
    "p-tuning-v2": ("p-tuning-v2", FOUR_BIT, VIRTUAL),
    "prompt": ("prompt", FOUR_BIT, VIRTUAL),
}
EPOCHS = 4
DIVERGED = "loss-not-finite"  # the finding of a run that the kit stopped


def train(name: str, learning_rate: float, seed: int) -> dict[str, Any] | None:
    """One run in a process of its own; None: the kit stopped it, because its loss jumped or was no number."""
    method, base, _ = METHODS[name]
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "run"
        options = {
            "--config": "examples/identity.toml",
            "--method": method,
            "--backend": "hf",
            "--output": output,
            "--epochs": EPOCHS,
            "--evaluations": 0,
            "--sample-tokens": 1,
            "--learning-rate": learning_rate,
            "--seed": seed,
        }
        words = [word for pair in options.items() for word in pair]
        done = measure.run("-m", "kit.train", *words, base, "--json")
        if DIVERGED in done.stderr:
            return None
        result = json.loads(measure.must(done).stdout)
        plan = json.loads((output / "plan.json").read_text(encoding="utf-8"))
    return {
        "loss_before": round(result["loss_before"], 4),
        "loss_after": round(result["loss_after"], 4),
        "peak_gib": round(result["peak_memory_bytes"] / GIB, 3),
        "trained_params": plan["trained_params"],
        "params": plan["params"],
    }


def compare(name: str, seeds: tuple[int, ...]) -> dict[str, Any]:
    tried = {rate: train(name, rate, seeds[0]) for rate in METHODS[name][2]}
    best = min((rate for rate, run in tried.items() if run), key=lambda rate: tried[rate]["loss_after"])
    runs = list(filter(None, [tried[best], *(train(name, best, seed) for seed in seeds[1:])]))
    losses = [run["loss_after"] for run in runs]
    print(f"{name:<14}{best:<8g}{statistics.median(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})", flush=True)
    return {
        "learning_rate": best,
        "loss_of_each_learning_rate": {f"{rate:g}": run and run["loss_after"] for rate, run in tried.items()},
        "loss_before": runs[0]["loss_before"],
        "loss_after": measure.spread(losses),
        "peak_gib": measure.spread([run["peak_gib"] for run in runs]),
        "trained_params": runs[0]["trained_params"],
        "params": runs[0]["params"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = SEEDS[: parser.parse_args().seeds]
    found = {name: compare(name, seeds) for name in METHODS}
    measure.write("methods", {"data": "examples/identity.jsonl", "epochs": EPOCHS, "seeds": seeds, "methods": found})


if __name__ == "__main__":
    main()
