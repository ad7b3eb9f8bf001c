"""The rows that come with the kit, for a first run without data of one's own."""

from pathlib import Path

from kit.options.commands import TrainCommand
from kit.support.carried import carried_folder

NAME = "identity.jsonl"


def example_rows() -> Path:
    """In the clone where it is run there, else the copy of it that an installed kit carries beside this file."""
    return carried_folder(Path(__file__).parent / "examples", "examples") / NAME


def on_example_rows(command: TrainCommand) -> TrainCommand:
    """The same command, trained on them."""
    run = command.run.model_copy(update={"data": (str(example_rows()),)})
    return command.model_copy(update={"run": run, "origins": command.origins | {"data": "the kit's example rows"}})
