"""One training from beginning to end, of the kit or a peer: tokens/s, memory, what the plan said, held-out loss.

python -m benchmarks.gpu.whole_run JOB SPEC      prints one JSON object

JOB: a folder of benchmarks.gpu.shapes. SPEC, as JSON. tool: kit, unsloth or trl. steps. options: of kit.train, or
further arguments of the peer. loss: whether that of the held-out rows is measured, by one ruler for all. device.
"""

import itertools
import json
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measure
from benchmarks.flops import needed_flops_per_token
from benchmarks.gpu.shapes import ROWS
from kit import data, models, prompt
from kit.memory import Shape, trained_params
from kit.options import Run
from kit.run.layout import BEGUN, EVENTS, METRICS, OPTIONS, PLAN

LEFT_OUT_STEPS = 2  # of a run's beginning: kernels are made ready, caches fill
SAMPLES, MICRO_BATCH = 8, 4  # of a step; at once in the peers, as their pages have it
LOSS_ROWS = 32
LORA_RANK = 16  # of the peers


class Asked(NamedTuple):
    tool: str
    steps: int
    options: list[str]
    loss: bool
    device: str


def command(folder: Path, asked: Asked, output: Path) -> list[object]:
    """Module and arguments."""
    if asked.tool != "kit":
        peer = (folder, output, asked.steps, MICRO_BATCH, ROWS.longest_tokens, *asked.options)
        on_card = ("cuda",) if (asked.tool, asked.device) == ("trl", "cuda") else ()
        return [f"benchmarks.peer_{asked.tool}", *peer, *on_card]
    return ["kit.train", "--model", folder / "model", "--data", folder / "train.jsonl", "--output", output,
            "--max-steps", asked.steps, "--device", asked.device, "--long-rows", "cut", "--prompts", "a",
            "--sample-tokens", 1, "--json", *asked.options]  # fmt: skip


def speed(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Tokens without padding a second, the time they are of, the largest peak."""
    counted = steps[LEFT_OUT_STEPS:] or steps
    tokens, computed = (sum(step[name] for step in counted) for name in ("tokens", "computed"))
    seconds = sum(step["seconds"] for step in counted)
    return {
        "tokens_per_s": round(tokens / seconds, 1),
        "padding_pct": round(100 - 100 * tokens / computed, 1),
        "tokens_a_pass": round(computed / sum(step["passes"] for step in counted)),
        "window_s": [counted[0]["ended_s"] - counted[0]["seconds"], counted[-1]["ended_s"]],
        "peak_bytes": max(step["peak_bytes"] for step in steps),
    }


def of_the_kit(output: Path) -> dict[str, Any]:
    """What the run folder says: plan, preflight, what was given up for memory, loss of each step."""
    made = json.loads((output / PLAN).read_text("utf-8"))
    events = [json.loads(line) for line in (output / EVENTS).read_text("utf-8").splitlines()]
    lines = [json.loads(line) for line in (output / METRICS).read_text("utf-8").splitlines()]
    return {
        "plan": {name: made[name] for name in ("low_bytes", "high_bytes", "available_bytes", "verdict", "settings")},
        "begun": json.loads((output / BEGUN).read_text("utf-8")),
        "given_up": [event["text"] for event in events if event["kind"] == "out-of-memory"],
        "losses": [line["loss"] for line in lines if "loss" in line],
        "lora_rank": tomllib.loads((output / OPTIONS).read_text("utf-8"))["lora_rank"],
    }


def flops_per_token(folder: Path, lora_rank: int) -> float:
    shape = Shape.of(json.loads((folder / "model" / "config.json").read_text("utf-8")))
    chat = prompt.load(models.find(str(folder / "model")), "auto")
    rows = data.read(Run(data=(str(folder / "train.jsonl"),), held_out_rows=0, long_rows="cut"), chat).report
    adapter_params = trained_params(shape, Run(lora_rank=lora_rank))
    trained_share = rows.trained_tokens / rows.tokens
    return needed_flops_per_token(shape, adapter_params, rows.tokens / rows.samples, trained_share)


def held_out_loss(folder: Path, output: Path, device: str) -> float:
    lines = (folder / "held_out.jsonl").read_text("utf-8").splitlines(keepends=True)
    some = output / "held_out.jsonl"
    some.write_text("".join(itertools.islice(lines, LOSS_ROWS)), encoding="utf-8", newline="\n")
    on_card = ["cuda"] if device == "cuda" else []
    done = measure.must(measure.run("-m", "benchmarks.held_out", folder / "model", output / "adapter", some, *on_card))
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    folder, asked = Path(sys.argv[1]), Asked(**json.loads(sys.argv[2]))
    scratch = Path(tempfile.mkdtemp())
    try:
        output, took = scratch / "run", scratch / "steps.json"
        start_s = time.time()
        env = dict.fromkeys(("KIT_CACHE", "HF_DATASETS_CACHE"), str(scratch / "cache"))  # nothing is found again
        env |= {} if asked.tool == "kit" else measure.AS_INSTALLED
        measure.must(measure.run("-m", "benchmarks.ruler", took, 0, *command(folder, asked, output), env=env))
        steps = json.loads(took.read_text("utf-8"))[-asked.steps :]  # the kit's preflight has some before
        figures = speed(steps) | {"tool": asked.tool, "first_step_after_s": round(steps[0]["ended_s"] - start_s, 1)}
        if asked.tool == "kit":
            figures |= of_the_kit(output)
        figures["flops_per_token"] = flops_per_token(folder, figures.get("lora_rank", LORA_RANK))
        if asked.loss:
            figures["held_out_loss"] = held_out_loss(folder, output, asked.device)
        print(json.dumps(figures))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
