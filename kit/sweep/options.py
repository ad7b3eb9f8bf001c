"""The options of python -m kit.sweep, each written once; those of a run are kit.train's own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from envcheck.facts import Facts
from kit.options import resolve
from kit.options.commands import RunDoor
from kit.support.errors import USAGE, failure

DEFAULT_OVER = ("lora_rank=4,16,64", "lora_alpha=1r", "target_modules=attention,all")


class SweepCommand(RunDoor):
    """Measure what some options do on your own data.

      kit sweep my.jsonl --over lora_rank=4,16,64 --over lora_alpha=1r,2r
      kit sweep my.jsonl --over learning_rate=1e-5..1e-3 --trials 12
      kit sweep my.jsonl --over seed=1,2,3         how much is chance
      kit sweep my.jsonl --plan                    which trials, and do they fit? nothing written

    Every trial is a run of kit.train in the sweep's folder. The same command goes on where it was stopped; another
    --over adds its trials to the table. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

    door = "sweep"
    common = ("data", "over", "trials", "pruner", "into", "preset", "config", "plan", "json_output")

    over: tuple[str, ...] = ()
    """An option and its values, or a range of them: --over lora_rank=4,16,64 --over learning_rate=1e-5..1e-3. Again for
    each option; every combination is a trial. lora_alpha takes 2r for twice the rank; target_modules takes attention,
    mlp, all, or names joined by +; seed=1,2,3 shows what chance does. Where there is a range, all values are drawn.
    Default: rank x target_modules, with alpha = rank."""
    trials: PositiveInt | None = None
    """How many settings are tried, each with every seed. Default: every combination; 10 where there is a range."""
    pruner: Literal["halving", "median", "none"] = "halving"
    """Who is stopped early: halving (the worse half), median (those worse than the finished ones) or none. A setting is
    compared with those that came to the same evaluation (--evaluations) earlier; with halving at the first evaluation,
    the second, the fourth and so on, with median at each."""
    into: Path | None = None
    """Folder of the sweep. Default: sweeps/<data>-<model>."""


def load(argv: list[str], facts: Callable[[], Facts]) -> SweepCommand:
    """Flags over file over preset. Raises KitError (status 2) as resolve.load; --output, which is each trial's own."""
    return _checked(resolve.load(argv, facts, SweepCommand))


def given(options: Mapping[str, Any], facts: Callable[[], Facts]) -> SweepCommand:
    """The same of options given in Python: given(dict(data="my.jsonl", over=["lora_rank=4,16"]), probe.collect)."""
    over = options.get("over", ())
    lines = (over,) if isinstance(over, str) else tuple(over)
    return _checked(resolve.given({**options, "over": lines}, facts, SweepCommand))


def _checked(command: SweepCommand) -> SweepCommand:
    if command.origins.get("output") in ("flag", "call"):
        what = "Each trial has a folder of its own, so --output is not for a sweep."
        fix = f"--into {command.run.output}        (the folder of the whole sweep)"
        raise failure("sweep-has-no-output", what, "Two trials would overwrite each other.", fix, status=USAGE)
    return command
