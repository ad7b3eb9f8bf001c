"""The options of python -m kit.sweep, each written once; those of a run are kit.train's own."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from envcheck.facts import Facts
from kit.options import Run, resolve
from kit.support.errors import USAGE, KitError, problem

DEFAULT_OVER = ("lora_rank=4,16,64", "lora_alpha=1r", "target_modules=attention,all")


class SweepCommand(BaseModel):
    """Train with several values of some options and compare: python -m kit.sweep --data my.jsonl --over lora_rank=4,16

    Every trial is a run of kit.train in the sweep's folder. The same command goes on where it was stopped; another
    --over adds its trials to the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    over: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
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

    run: Annotated[Run, tyro.conf.arg(name="")]
    resolve: Path | None = None
    """A TOML or YAML file of the options; its `output` is not used."""
    plan: bool = False
    """Say which trials there are and whether each fits, and stop."""
    vram_gib: PositiveFloat | None = None
    """With --plan: for a graphics card of that size instead of this machine's."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the results as JSON on standard output."""

    origins: Annotated[dict[str, str], tyro.conf.Suppress] = {}


def load(argv: list[str], facts: Callable[[], Facts]) -> SweepCommand:
    """Flags over file over preset. Raises KitError (status 2) as config.load; --output, which is each trial's own."""
    return _checked(resolve.load(argv, facts, SweepCommand, "kit.sweep"))


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
