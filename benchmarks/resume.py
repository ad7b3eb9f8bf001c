"""Runs killed at random moments and started again with the same command, against runs that nothing disturbed.

python -m benchmarks.resume [--kills 20]

The kills are spread over 4-bit and 16-bit base weights and both backends. Every loss must be equal to the last bit.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measure

STEPS = 20
COMBINATIONS = list(itertools.product(("unsloth", "hf"), (True, False)))
OPTIONS = ("--preset", "cpu", "--data", "examples/identity.jsonl", "--max-steps", STEPS, "--sample-tokens", 8,
           "--learning-rate", "2e-3", "--checkpoint-minutes", 0)  # fmt: skip


def command(output: Path, backend: str, four_bit: bool) -> list[str]:
    weights = "--load-in-4bit" if four_bit else "--no-load-in-4bit"
    return ["-m", "kit.train", *map(str, OPTIONS), "--backend", backend, weights, "--output", str(output)]


def losses(output: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def killed_once(output: Path, backend: str, four_bit: bool, seconds: float) -> int:
    """Start, kill -9 so long after the first step, start again. Returns the step it went on after."""
    child = subprocess.Popen([sys.executable, *command(output, backend, four_bit)], cwd=measure.ROOT,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while child.poll() is None and not (output / "metrics.jsonl").exists():
        time.sleep(0.05)
    time.sleep(seconds)
    child.kill()
    child.wait()
    measure.must(measure.run(*command(output, backend, four_bit)))
    events = map(json.loads, (output / "events.jsonl").read_text("utf-8").splitlines())
    return next((event["step"] for event in events if event["kind"] == "resumed"), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance, done = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as scratch:
        undisturbed, lasted_s = {}, {}
        for backend, four_bit in COMBINATIONS:
            output = Path(scratch) / f"{backend}-{four_bit}"
            measure.must(measure.run(*command(output, backend, four_bit)))
            undisturbed[backend, four_bit] = losses(output)
            lines = (output / "metrics.jsonl").read_text("utf-8").splitlines()
            lasted_s[backend, four_bit] = json.loads(lines[-1])["elapsed_s"] if "elapsed_s" in lines[-1] else 5.0
        for number in range(args.kills):
            backend, four_bit = combination = COMBINATIONS[number % len(COMBINATIONS)]
            after_s = chance.uniform(0, lasted_s[combination])
            output = Path(scratch) / f"kill-{number}"
            step = killed_once(output, backend, four_bit, after_s)
            equal = losses(output) == undisturbed[combination]
            done.append(
                {"backend": backend, "load_in_4bit": four_bit, "went_on_after_step": step, "losses_equal": equal}
            )
            print(json.dumps(done[-1]), flush=True)
    figures = {
        "command": " ".join(map(str, ("python -m kit.train", *OPTIONS))),
        "steps": STEPS,
        "kills": len(done),
        "kills_after_a_checkpoint": sum(one["went_on_after_step"] > 0 for one in done),
        "runs_with_all_losses_equal_to_the_last_bit": sum(one["losses_equal"] for one in done),
        "each": done,
    }
    measure.write("resume", figures)


if __name__ == "__main__":
    main()
