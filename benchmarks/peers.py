"""One job in the kit, in Unsloth as its notebooks use it and in TRL as its documentation does, in turn, on a CPU.

python -m benchmarks.peers [--jobs J1 0.6B] [--repeats 3]

The first time the three tools train J1 for one epoch: every one has then seen the same trained tokens, and their losses
on held-out rows compare.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import jobs, measure
from benchmarks.flops import needed_flops_per_token
from kit.memory import Shape, trained_params
from kit.options import Run
from kit.support.units import GIB

FIRST_STEPS = 3  # left out: caches fill
EPOCH_STEPS = jobs.TRAIN_ROWS // 8
JOBS = {"J1": (40, 4, 512), "0.6B": (11, 1, 256)}  # steps, samples at once of the peers (twice as many a step), longest
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}


def kit_command(job: str, steps: int, folder: Path, output: Path, *options: object) -> list[object]:
    _, micro_batch, max_length = JOBS[job]
    return ["kit.train", "--preset", "cpu", "--model", folder / "model", "--data", folder / "train.jsonl",
            "--output", output, "--max-steps", steps, "--batch-size", 2 * micro_batch, "--held-out-rows", 0,
            "--max-length-tokens", max_length, "--long-rows", "cut", "--warmup-pct", 100 * 5 / steps,
            "--evaluations", 0, "--prompts", "a", "--sample-tokens", 1, *options]  # fmt: skip


def commands(job: str, steps: int, folder: Path, output: Path) -> dict[str, list[object]]:
    """The module and arguments of each tool; the first three are also compared by their loss."""
    peer = (folder, output, steps, *JOBS[job][1:])
    found = {"kit": kit_command(job, steps, folder, output), "unsloth": ["benchmarks.peer_unsloth", *peer]}
    if job == "J1":
        found["trl"] = ["benchmarks.peer_trl", *peer]
        found["kit, sdpa"] = kit_command(job, steps, folder, output, "--attention", "sdpa")
        found["kit, 16-bit base"] = kit_command(job, steps, folder, output, "--no-load-in-4bit")
    return found


def run_once(job: str, tool: str, steps: int, folder: Path, output: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:  # nothing tokenised is found again
        env: dict[str, str | None] = OFFLINE | {"HF_DATASETS_CACHE": cache, "KIT_CACHE": cache}
        took = Path(cache) / "steps.json"
        command = commands(job, steps, folder, output)[tool]
        env |= {} if tool.startswith("kit") else measure.AS_INSTALLED
        done = measure.must(measure.run("-m", "benchmarks.ruler", took, 0, *command, env=env))
        counted = json.loads(took.read_text("utf-8"))[-steps:][FIRST_STEPS:]  # the kit's preflight has one before
    return {
        "steps": steps,
        "tokens_per_s": round(sum(step["tokens"] for step in counted) / sum(step["seconds"] for step in counted), 1),
        "padding_pct": round(100 - 100 * sum(s["tokens"] for s in counted) / sum(s["computed"] for s in counted), 1),
        "peak_gib": round(done.peak_bytes / GIB, 2),
    }


def held_out_loss(folder: Path, output: Path) -> float:
    rows = folder / "held_out.jsonl"
    done = measure.must(measure.run("-m", "benchmarks.held_out", folder / "model", output / "adapter", rows))
    return float(done.stdout.splitlines()[-1])


def floor_tokens_per_s(folder: Path, length: int, trained_share: float) -> float:
    """If the products alone took time, each at the rate that torch reaches for the model's largest linear layer."""
    import torch

    shape = Shape.of(json.loads((folder / "model" / "config.json").read_text("utf-8")))
    x = torch.randn(1024, shape.hidden, dtype=torch.bfloat16)
    w = torch.randn(shape.intermediate, shape.hidden, dtype=torch.bfloat16)
    times = []
    for _ in range(50):
        start_s = time.perf_counter()
        torch.nn.functional.linear(x, w)
        times.append(time.perf_counter() - start_s)
    flops_per_s = 2 * x.numel() * shape.intermediate / statistics.median(times)
    return flops_per_s / needed_flops_per_token(shape, trained_params(shape, Run(lora_rank=16)), length, trained_share)


def compared(job: str, repeats: int, folder: Path) -> dict[str, Any]:
    jobs.build(job, folder)
    names = list(commands(job, 1, folder, folder))
    each: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    losses = {}
    for number in range(repeats):
        for name in names:
            whole = job == "J1" and number == 0 and name in names[:3]
            output = folder / f"{name}-{number}"
            each[name].append(run_once(job, name, EPOCH_STEPS if whole else JOBS[job][0], folder, output))
            if whole:
                losses[name] = held_out_loss(folder, output)
            print(job, name, each[name][-1], losses.get(name), flush=True)
    speeds = {name: [one["tokens_per_s"] for one in found] for name, found in each.items()}
    report = json.loads((folder / "kit-0" / "data.json").read_text("utf-8"))
    floor = floor_tokens_per_s(folder, report["median_tokens"], report["trained_tokens"] / report["tokens"])
    return {
        "speed_of_the_kit_over_that_of": {name: _ratios(speeds["kit"], speeds[name]) for name in names[1:]},
        "share_of_matrix_product_floor": {
            name: round(statistics.median(found) / floor, 3) for name, found in speeds.items()
        },
        "held_out_loss_after_the_same_epoch": losses,
        "each": each,
    }


def _ratios(mine: list[float], others: list[float]) -> dict[str, float]:
    return measure.spread([round(one / other, 3) for one, other in zip(mine, others, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", nargs="*", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = {job: compared(job, args.repeats, Path(scratch) / job) for job in args.jobs}
    measure.write("peers", {"what": "4-bit LoRA on a CPU; tokens/s without padding, ratios within one run", **figures})


if __name__ == "__main__":
    main()
