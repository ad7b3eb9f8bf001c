"""The options of the doors that take those of a run, or of its rows."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from kit.options.option import Door, Typed
from kit.options.run import Rows, Run


class RunDoor(Door):
    """What is done with the run."""

    run: Run = Run()
    config: Path | None = None
    """A TOML or YAML file of options; runs/x/run.toml repeats a run."""
    plan: bool = False
    """Say what it will need and whether it fits, and stop."""
    vram_gib: PositiveFloat | None = None
    """With --plan: for a graphics card of that size instead of this machine's."""

    origins: Annotated[dict[str, str], Typed(hidden=True)] = Field(default_factory=dict)


class TrainCommand(RunDoor):
    """Fine-tune a language model, in a run that cannot fail silently.

      kit train my.csv                             with what suits this machine
      kit train my.csv --preset rtx5080 --plan     will it fit? nothing written
      kit train --config runs/x/run.toml           the same run again

    The same command again goes on where the run was stopped.
    Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

    door = "train"
    common = ("data", "model", "preset", "method", "epochs", "max_length_tokens", "output", "plan")

    fit: Literal["seq", "batch"] | None = None
    """With --plan: the longest sample (seq) or the most samples at once (batch) that fit."""
    fresh: bool = False
    """Begin anew in a run folder that holds another or an earlier run; what is there is deleted."""
    resume_anyway: bool = False
    """Go on from the run's checkpoint with other options or data than it began with; this is written down."""


class DataCommand(Door):
    """Check data before it is trained on, and see what the model will see.

      kit data my.jsonl                              verdict, counts, lengths, every problem with its line
      kit data my.xlsx                               the same for .csv, .parquet, .ods ..., a folder, the hub
      kit data my.jsonl --show 3                     rows with the trained tokens marked
      kit data my.jsonl --fix clean.jsonl            a copy without the bad rows, and what was removed

    Exit status: 0 fit to train on, 1 not, 2 wrong usage. Nothing is trained and torch is not needed."""

    door = "data"

    rows: Rows = Rows()
    show: Annotated[int, Field(ge=0)] = 0
    """Print so many rows as the model sees them, with the trained tokens marked."""
    fix: Path | None = None
    """Write the rows that can be trained on to this .jsonl file, and beside it which were removed and why."""
    config: Path | None = None
    """A TOML or YAML file of options; runs/x/run.toml checks the data of that run."""
