"""Measure what some options do on your own data.

    python -m kit.sweep --data my.jsonl --over lora_rank=4,16,64 --over lora_alpha=1r,2r
    python -m kit.sweep --data my.jsonl --over seed=1,2,3            how much is chance
    python -m kit.sweep --data my.jsonl --plan                       which trials, and do they fit? nothing written

The same command goes on where it was stopped. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import functools
import json
import sys

from rich.table import Table
from rich.text import Text

from envcheck import probe
from kit.support import console
from kit.support.errors import FAILED
from kit.support.units import gib
from kit.sweep import planning, running, showing
from kit.sweep.options import SweepCommand, load


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: command_line(sys.argv[1:] if argv is None else argv))


def command_line(argv: list[str]) -> int:
    command = load(argv, functools.cache(probe.collect))
    if command.plan:
        show_plans(command, planning.plans(command, probe.collect()))
        return 0
    done = running.sweep(command)
    if command.json_output:
        print(json.dumps(done.to_json(), ensure_ascii=False, indent=1, default=str))
    else:
        showing.show(console.stdout, done)
        for text in (*done.told(), f"{done.folder / showing.PAGE} shows it"):
            console.stdout.print(Text(text))
    return 0 if done.best else FAILED


def show_plans(command: SweepCommand, found: planning.Plans) -> None:
    """Each trial with the memory it takes."""
    if command.json_output:
        plans = {trial.folder.name: trial.plan.to_json() if trial.plan else None for trial in found.trials}
        print(json.dumps(plans, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for name in (*found.trials[0].values, "trained weights", "steps", "GiB", "verdict"):
        table.add_column(name, justify="left" if name in ("target_modules", "verdict") else "right", overflow="fold")
    for trial in found.trials:
        plan = trial.plan
        sizes = (
            (f"{plan.trained_params:,}", f"{gib(plan.low_bytes)} to {gib(plan.high_bytes)}")
            if plan
            else ("unknown", "unknown")
        )
        steps = f"{trial.steps:,}" if trial.steps else "–"
        cells = (*trial.values.values(), sizes[0], steps, sizes[1], plan.verdict if plan else "unknown")
        table.add_row(*map(Text, cells))
    showing.wide(console.stdout, table)
    for note in found.notes:
        console.note(note)


if __name__ == "__main__":
    sys.exit(main())
