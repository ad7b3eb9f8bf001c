"""The memory plan against the peak of a graphics card: random weights, capped at what a 16 GB card has.

python -m benchmarks.gpu_memory [--sizes 0.6B 1.7B 4B 8B]       needs a CUDA device; has not run yet

The peak is what torch's allocator reserved over both passes of one micro-batch. Rows that ran out of memory are kept.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import measure, qwen3_shape
from kit.memory import plan
from kit.options import Run
from kit.support.units import GIB

CAP_GIB = 15.9
CARD = {
    "device": "cuda", "precision": "bf16", "optimizer": "adamw_8bit", "gradient_checkpointing": "off",
    "pin_memory": "off", "held_out_rows": 0, "vram_limit_gib": CAP_GIB,
}  # fmt: skip
BATCHES = [(samples, tokens) for tokens in (512, 1024, 2048, 4096, 8192) for samples in (1, 2, 4, 8)]


def compare(folder: Path, backend: str, way: str) -> list[dict[str, Any]]:
    """One process for each way of checkpointing: how a model is adapted depends on it."""
    options = CARD | {"backend": backend, "gradient_checkpointing": way}
    grid = [
        (samples, tokens, "off", samples > 1) for samples, tokens in BATCHES
    ]  # as adapted: nothing is switched in between
    done = measure.must(measure.run("-m", "benchmarks.inside", folder, json.dumps(options), json.dumps(grid)))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    rows = []
    for row in json.loads(done.stdout.splitlines()[-1])["grid"]:
        run = Run(**options, micro_batch_size=row["samples"])
        lengths = SimpleNamespace(longest_tokens=row["tokens"], samples=1, tokens=row["tokens"])
        planned = plan(config, run, lengths, int(CAP_GIB * GIB))
        bounds = {"low_bytes": planned.low_bytes, "high_bytes": planned.high_bytes, "verdict": planned.verdict}
        rows.append({**row, "checkpointing": way, "backend": backend, **bounds})
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the bounds are from the peaks, and what became of the rows that ran out of memory."""
    fitted = [row for row in rows if "peak_bytes" in row]
    lost = [row for row in rows if "peak_bytes" not in row]
    high = [row["high_bytes"] / row["peak_bytes"] for row in fitted]
    return {
        "high_over_peak": {"min": round(min(high), 3), "max": round(max(high), 3)},
        "high_below_peak": sum(ratio < 1 for ratio in high),
        "low_above_peak": sum(row["low_bytes"] > row["peak_bytes"] for row in fitted),
        "said_fits_and_ran_out": sum(row["verdict"] == "fits" for row in lost),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=["0.6B", "1.7B", "4B", "8B"])
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in args.sizes:
            folder = Path(scratch) / size
            qwen3_shape.build_model(size, folder)
            pairs = [(backend, way) for backend in ("unsloth", "hf") for way in ("off", "on")] + [
                ("unsloth", "unsloth")
            ]
            found[f"Qwen3-{size}"] = [row for backend, way in pairs for row in compare(folder, backend, way)]
            shutil.rmtree(folder)
    rows = [row for part in found.values() for row in part]
    measure.write("gpu_memory", {"what": f"one micro-batch, capped at {CAP_GIB} GiB", **summary(rows), "rows": found})


if __name__ == "__main__":
    main()
