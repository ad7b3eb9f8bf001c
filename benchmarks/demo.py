"""The demo as a user runs it, in fresh folders: time, memory, held-out loss, and whether the tuned model says its name.

python -m benchmarks.demo [--repeats 3]
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import measure
from kit.support.units import GIB

NAME = "Wren"  # as in examples/identity.jsonl


def demo_run(*options: object) -> tuple[measure.Done, dict]:
    """The command with its accounts, and its result."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "run"
        done = measure.run(
            "-m", "kit.train", "--config", "examples/identity.toml", "--output", output, "--json", *options
        )
    return measure.must(done), json.loads(done.stdout)


def fall_pct(record: dict) -> float:
    return round(100 * (1 - record["loss_after"] / record["loss_before"]), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10, help="further runs, each with other held-out rows")
    args = parser.parse_args()
    runs = [demo_run() for _ in range(args.repeats)]
    walls = [done.wall_s for done, _ in runs]
    peaks = [done.peak_bytes / GIB for done, _ in runs]
    records = [record for _, record in runs]
    falls = [fall_pct(demo_run("--seed", seed)[1]) for seed in range(1, args.seeds + 1)]
    last = records[-1]
    measure.write(
        "demo",
        {
            "command": "python -m kit.train --config examples/identity.toml",
            "wall_s": measure.spread(walls),
            "peak_gib": measure.spread([round(peak, 3) for peak in peaks]),
            "tokens_per_s": measure.spread([record["tokens_per_s"] for record in records]),
            "steps": last["steps"],
            "loss_before": last["loss_before"],
            "loss_after": last["loss_after"],
            "loss_fall_pct": fall_pct(last),
            "loss_fall_pct_of_other_seeds": measure.spread(falls) | {"each": falls},
            "same_loss_in_all_repeats": len({record["loss_after"] for record in records}) == 1,
            "base_says_its_name": [NAME in answer["text"] for answer in last["before"]],
            "tuned_says_its_name": [NAME in answer["text"] for answer in last["after"]],
            "answers": [{"question": a["question"], "before": b["text"], "after": a["text"]}
                        for b, a in zip(last["before"], last["after"], strict=True)],
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
