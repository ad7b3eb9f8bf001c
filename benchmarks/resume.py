"""Runs killed at random moments and started again with the same command, against runs that nothing disturbed.

python -m benchmarks.resume [--kills 20] [--preset rtx5080]

The kills are spread over 4-bit and 16-bit base weights and both backends. On a CPU every loss must be equal to the last
bit; on a card, whose kernels add in another order each time, within a few times what two undisturbed runs differ by.
"""

import argparse
import itertools
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure

STEPS = 20
COMBINATIONS = list(itertools.product(("unsloth", "hf"), (True, False)))
# How far a run that went on may be from one that nothing disturbed, on a card: so many times what two of those differ
# by, and at least this, relative.
TIMES_REPEATS, LEAST_TOLERANCE = 3, 1e-3
OPTIONS = ("--model", "tiny", "--data", "examples/identity.jsonl", "--max-steps", STEPS, "--sample-tokens", 8,
           "--learning-rate", "2e-3", "--checkpoint-minutes", 0)  # fmt: skip


Losses = list[tuple[int, float]]  # step, loss in nats a token


@dataclass(frozen=True)
class Setup:
    """What is trained, again and again."""

    preset: str
    backend: str
    four_bit: bool

    def command(self, output: Path) -> list[str]:
        weights = "--load-in-4bit" if self.four_bit else "--no-load-in-4bit"
        own = ("--preset", self.preset, "--backend", self.backend, weights, "--output", str(output))
        return ["-m", "kit.train", *map(str, OPTIONS), *own]

    def undisturbed(self, output: Path) -> Losses:
        measure.must(measure.run(*self.command(output)))
        return losses(output)


def losses(output: Path) -> Losses:
    lines = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def apart(some: Losses, others: Losses) -> float:
    """The largest relative difference of a step's losses; infinite where the steps are not the same."""
    if [step for step, _ in some] != [step for step, _ in others]:
        return math.inf
    return max(abs(one - other) / abs(other) for (_, one), (_, other) in zip(some, others, strict=True))


def killed_once(setup: Setup, output: Path, seconds: float) -> int:
    """Start, kill so long after the first step, start again. Returns the step it went on after."""
    child = subprocess.Popen([sys.executable, *setup.command(output)], cwd=measure.ROOT,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while child.poll() is None and not (output / "metrics.jsonl").exists():
        time.sleep(0.05)
    time.sleep(seconds)
    child.kill()
    child.wait()
    measure.must(measure.run(*setup.command(output)))
    events = map(json.loads, (output / "events.jsonl").read_text(encoding="utf-8").splitlines())
    return next((event["step"] for event in events if event["kind"] == "resumed"), 0)


def lasted_s(output: Path) -> float:
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1])["elapsed_s"] if "elapsed_s" in lines[-1] else 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="cpu")
    args = parser.parse_args()
    chance, done, setups = random.Random(args.seed), [], [Setup(args.preset, *one) for one in COMBINATIONS]
    with tempfile.TemporaryDirectory() as scratch:
        plain, seconds, tolerance = {}, {}, dict.fromkeys(setups, 0.0)
        for number, setup in enumerate(setups):
            output = Path(scratch) / f"plain-{number}"
            plain[setup], seconds[setup] = setup.undisturbed(output), lasted_s(output)
            if args.preset != "cpu":
                again = setup.undisturbed(Path(scratch) / f"again-{number}")
                tolerance[setup] = max(LEAST_TOLERANCE, TIMES_REPEATS * apart(again, plain[setup]))
        for number, setup in zip(range(args.kills), itertools.cycle(setups), strict=False):
            output = Path(scratch) / f"kill-{number}"
            step = killed_once(setup, output, chance.uniform(0, seconds[setup]))
            difference = apart(losses(output), plain[setup])
            done.append(
                {
                    "backend": setup.backend,
                    "load_in_4bit": setup.four_bit,
                    "went_on_after_step": step,
                    "losses_equal": difference == 0,
                    "relative_difference": difference,
                    "tolerance": tolerance[setup],
                    "within_tolerance": difference <= tolerance[setup],
                }
            )
            print(json.dumps(done[-1]), flush=True)
    figures = {
        "command": " ".join(map(str, ("python -m kit.train --preset", args.preset, *OPTIONS))),
        "steps": STEPS,
        "kills": len(done),
        "kills_after_a_checkpoint": sum(one["went_on_after_step"] > 0 for one in done),
        "runs_with_all_losses_equal_to_the_last_bit": sum(one["losses_equal"] for one in done),
        "runs_within_tolerance": sum(one["within_tolerance"] for one in done),
        "each": done,
    }
    measure.write("resume" if args.preset == "cpu" else f"resume_{args.preset}", figures)


if __name__ == "__main__":
    main()
