"""The demo as a user runs it, in fresh folders: time, memory, held-out loss, and whether the tuned model says its name.

python -m benchmarks.demo [--repeats 3]
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import measure

NAME = "Wren"  # as in examples/identity.jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    walls, peaks, records = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            command = (
                "-m",
                "kit.train",
                "--config",
                "examples/identity.toml",
                "--output",
                Path(scratch) / "run",
                "--json",
            )
            done = measure.must(measure.run(*command))
        walls.append(done.wall_s)
        peaks.append(done.peak_bytes / measure.GIB)
        records.append(json.loads(done.stdout))
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
            "loss_fall_pct": round(100 * (1 - last["loss_after"] / last["loss_before"]), 1),
            "same_loss_in_all_repeats": len({record["loss_after"] for record in records}) == 1,
            "base_says_its_name": [NAME in answer["text"] for answer in last["before"]],
            "tuned_says_its_name": [NAME in answer["text"] for answer in last["after"]],
            "answers": [{"question": a["question"], "before": b["text"], "after": a["text"]}
                        for b, a in zip(last["before"], last["after"], strict=True)],
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
