"""What is known of a run before torch is imported: Planned without its data, Prepared with it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from envcheck.facts import Facts, Finding
from kit.memory import Plan
from kit.models import NEEDED, Model
from kit.options import Run, TrainCommand
from kit.support.errors import failure
from kit.support.file_names import file_name

if TYPE_CHECKING:  # a plan without data is there before these are imported
    from kit.data import Data, DataReport
    from kit.prompt import ChatFormat


def default_name(run: Run, model: Model) -> str:
    """Of the folder of what is trained on these data, where none is named."""
    data = Path(run.data[0]).stem if run.data else "run"
    return file_name(f"{data}-{Path(model.name).name}")


@dataclass(frozen=True)
class Planned:
    """run: with each `auto` settled, and for what was settled the reasons. plan: None where the planner does not know
    the sizes of the model."""

    command: TrainCommand
    run: Run
    reasons: dict[str, str]
    facts: Facts
    findings: tuple[Finding, ...]
    model: Model
    plan: Plan | None

    @property
    def reads_data(self) -> bool:
        """Whether rows are named, and there is what makes tokens of them."""
        return bool(self.run.data) and self.model.files.keys() >= NEEDED

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.run.output or Path("runs") / default_name(self.run, self.model)


@dataclass(frozen=True)
class Prepared(Planned):
    """All that a run needs but a loaded model."""

    chat: "ChatFormat"
    data: "Data"

    @cached_property
    def padding_pct(self) -> float:
        """Of what is computed, so much is padding."""
        from kit.data.batches import budget_tokens, padding_share

        run, lengths = self.run, self.data.train.lengths
        assert isinstance(run.micro_batch_size, int), "settled with the plan"
        share = padding_share(lengths, run.batch_size, budget_tokens(lengths, run.micro_batch_size), run.seed)
        return round(100 * share, 1)


def refuse_pairs(report: "DataReport") -> None:
    """Raises KitError: the rows are preferences."""
    if "preferences" in report.purpose:
        raise failure(
            "data-preference-pairs",
            "The rows are pairs of a chosen and a rejected answer.",
            "This command trains on answers; training on preferences is not there yet.",
            "python -m kit.data FILE       (checks such pairs)",
        )
