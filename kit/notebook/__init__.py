"""The kit in a notebook: each call ends a cell with something to look at.

    from kit import notebook
    prepared = notebook.prepare(preset="rtx5080", data="my.jsonl")
    notebook.train(prepared)

What a cell raises is shown as findings, without a traceback.

May import: support, options, models, data, memory, run, report, chat, export, train, merge.
"""

from pathlib import Path
from typing import Any

from envcheck import probe
from kit.data.preview import Preview
from kit.memory import Plan
from kit.models import read_json
from kit.notebook.live import train, train_all
from kit.notebook.pictures import Picture, memory_bar, on_paper, picture, stacked
from kit.notebook.tables import Table, before_and_after, data, report, settings
from kit.options import TrainCommand, resolve
from kit.run.prepared import Prepared
from kit.train import plan_of
from kit.train import prepare_with as prepare

__all__ = [
    "Picture",
    "Table",
    "before_and_after",
    "data",
    "memory_bar",
    "on_paper",
    "picture",
    "plan",
    "prepare",
    "report",
    "rows",
    "settings",
    "stacked",
    "train",
    "train_all",
]


def rows(prepared: Prepared, *numbers: int) -> Preview:
    """Rows as the model sees them, what is trained marked: those of these numbers (0 is the first), or three."""
    return Preview(prepared.data, prepared.chat, numbers or 3)


def plan(model_config: Path, vram_gib: float, **options: Any) -> Plan | None:
    """What training a model with these options needs on a card of that size, by its config.json alone.
    None: its sizes are not known."""
    facts = resolve.with_card(probe.collect(), vram_gib)
    command: TrainCommand = resolve.given(options | {"plan": True, "vram_gib": vram_gib}, lambda: facts)
    run, facts = resolve.planned_for(command, facts)
    run, _ = resolve.settle(run, facts)
    return plan_of(command, run, facts, read_json(model_config), None)[2]
