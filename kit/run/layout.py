"""What a run leaves in its folder, by name: written down here and nowhere else."""

from kit.options.methods import LORA, METHODS

OPTIONS = "run.toml"  # each with its origin; kit.train --config repeats the run
MANIFEST = "manifest.json"  # versions, machine, options, what was chosen and why, the result
DATA = "data.json"  # where every row went
LEFT_OUT = "left_out.jsonl"  # the rows that are not trained
PLAN = "plan.json"  # of memory
BEGUN = "begun.json"  # what was measured before the first step
METRICS = "metrics.jsonl"  # a line a step, and one an evaluation
EVENTS = "events.jsonl"
ANSWERS = "samples.jsonl"  # of each evaluation
SAMPLES = "samples.json"  # answers before and after
CHECKPOINTS = "checkpoints"
ADAPTER, MODEL = "adapter", "model"  # folders of what the run made, which of them goes by its method
REPORT = "report.html"
LOCK = ".lock"

MARKS = (OPTIONS, MANIFEST)  # one of them makes a folder a run
MADE = (ADAPTER, MODEL)

# Beside a model that was made of a run; the record also in the run that it was made of last.
PARITY = "parity.json"
NOT_VERIFIED = "NOT-VERIFIED"  # there until the model is proven equal


def made_by(method: str) -> str:
    """Name of the folder, and in words, of what a run of that method makes."""
    return MODEL if METHODS.get(method, LORA).trains_whole_model else ADAPTER
