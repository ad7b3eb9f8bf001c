"""Rank, targets, alpha and dropout of LoRA, each over the same three seeds: what notebook 04 shows besides its sweep.

python -m benchmarks.rank

Sweeps of kit.sweep without an early stop (--pruner none) on examples/identity.jsonl and the small Qwen3.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measure

SEEDS = "seed=1,2,3"
SWEEPS = {
    "rank_and_targets": ("lora_rank=1,4,16,64", "lora_alpha=1r", "target_modules=attention,mlp,all"),
    "alpha": ("lora_rank=16", "lora_alpha=0.5r,1r,2r,4r"),
    "dropout": ("lora_dropout=0,0.05,0.1",),
}
EPOCHS = 4
OF_SETTING = ("values", "status", "loss", "is_within_spread_of_best")
OF_TRIAL = ("values", "loss", "trained_params")


def sweep(over: tuple[str, ...], folder: Path) -> dict[str, Any]:
    words = [word for one in (*over, SEEDS) for word in ("--over", one)]
    measure.must(
        measure.run("-m", "kit.sweep", "--config", "examples/identity.toml", "--epochs", EPOCHS, "--pruner",
                    "none",
                    "--evaluations", 0, "--sample-tokens", 1, *words, "--into", folder)
    )  # fmt: skip
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {
        "over": over,
        "settings": [{name: setting[name] for name in OF_SETTING} for setting in found["settings"]],
        "trials": [{name: trial[name] for name in OF_TRIAL} for trial in found["trials"]],
        "outcome": [text for text in found["outcome"] if "runs/" not in text and "trials/" not in text],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: sweep(over, Path(scratch) / name) for name, over in SWEEPS.items()}
    measure.write("rank", {"data": "examples/identity.jsonl", "epochs": EPOCHS, "seeds": SEEDS, "sweeps": found})


if __name__ == "__main__":
    main()
