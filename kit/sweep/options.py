"""The options of python -m kit.sweep, each written once; those of a run are kit.train's own."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from envcheck.facts import Facts
from kit.options import resolve
from kit.options.commands import RunDoor
from kit.support.errors import USAGE, KitError, problem

DEFAULT_OVER = ("lora_rank=4,16,64", "lora_alpha=1r", "target_modules=attention,all")


class SweepCommand(RunDoor):
    """Measure what some options do on your own data.

      kit sweep my.jsonl --over lora_rank=4,16,64 --over lora_alpha=1r,2r
      kit sweep my.jsonl --over seed=1,2,3         how much is chance
      kit sweep my.jsonl --plan                    which trials, and do they fit? nothing written

    Every trial is a run of kit.train in the sweep's folder. The same command goes on where it was stopped; another
    --over adds its trials to the table. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

    door = "sweep"
    common = ("data", "over", "into", "rungs", "preset", "config", "plan", "json_output")

    over: tuple[str, ...] = ()
    """An option and its values: --over lora_rank=4,16,64 --over lora_alpha=1r,2r --over target_modules=attention,all.
    Again for each option; every combination is a trial. lora_alpha takes 2r for twice the rank; target_modules takes
    attention, mlp, all, or names joined by +; seed=1,2,3 shows what chance does. Default: rank x target_modules, with
    alpha = rank."""
    into: Path | None = None
    """Folder of the sweep. Default: sweeps/<data>-<model>."""
    rungs: PositiveInt = 3
    """All trials run a share of their steps; the better ones go on to the next rung. 1: all run to their end."""
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the trials that goes on at each rung; the steps of a rung are that share of the next one's."""


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
        raise KitError(
            problem(
                "sweep-has-no-output",
                "Each trial has a folder of its own, so --output is not for a sweep.",
                "Two trials in one folder would overwrite each other.",
                f"--into {command.run.output}        (the folder of the whole sweep)",
            ),
            status=USAGE,
        )
    return command


def flags(texts: Iterable[str]) -> str:
    """--over lines as they are typed."""
    return " ".join(f"--over {text}" for text in texts)
