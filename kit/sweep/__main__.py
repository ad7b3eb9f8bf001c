"""The command kit.sweep; its examples and exit status stand with its options."""

import functools
import json
import sys

from rich.text import Text

from envcheck import probe
from kit.support import console
from kit.support.errors import FAILED
from kit.support.units import gib
from kit.sweep import running, showing, trials
from kit.sweep.options import SweepCommand, load


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: command_line(sys.argv[1:] if argv is None else argv))


def command_line(argv: list[str]) -> int:
    command = load(argv, functools.cache(probe.collect))
    if command.plan:
        show_plans(command, trials.plans(command, probe.collect()))
        return 0
    done = running.sweep(command)
    if command.json_output:
        print(json.dumps(done.to_json(), ensure_ascii=False, indent=1, default=str))
    else:
        showing.show(console.stdout, done)
        for text in (*done.outcome(), f"{done.folder / showing.PAGE} shows it"):
            console.stdout.print(Text(text))
    return 0 if done.best else FAILED


def show_plans(command: SweepCommand, plans: trials.Plans) -> None:
    """Each trial with the memory it takes."""
    if command.json_output:
        by_name = {trial.folder.name: trial.plan.to_json() if trial.plan else None for trial in plans.trials}
        print(json.dumps(by_name, indent=1))
        return
    rows = []
    for trial in plans.trials:
        params = room = verdict = "unknown"
        if plan := trial.plan:
            params, verdict = f"{plan.trained_params:,}", plan.verdict
            room = f"{gib(plan.low_bytes)} to {gib(plan.high_bytes)}"
        steps = f"{trial.steps:,}" if trial.steps else "–"
        rows.append([*trial.point.values.values(), params, steps, room, verdict])
    names = [*plans.space, "trained weights", "steps", "GiB", "verdict"]
    showing.show_table(console.stdout, names, rows, [False] * len(rows))
    for note in plans.notes:
        console.note(note)


if __name__ == "__main__":
    sys.exit(main())
