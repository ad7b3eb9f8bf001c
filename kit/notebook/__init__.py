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
from kit import train as training
from kit.data.preview import Preview
from kit.memory import Plan
from kit.models import read_json
from kit.notebook.live import train, train_all
from kit.notebook.pictures import Picture, memory_bar, on_paper, picture, stacked
from kit.notebook.tables import Table, before_and_after, data, report, settings
from kit.options import resolve
from kit.run.prepared import Prepared

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


def prepare(**options: Any) -> Prepared:
    """The run that these options of kit.train mean, checked and planned: prepare(preset="cpu", data="my.jsonl")."""
    facts = probe.collect()
    return training.prepare(resolve.given(options, lambda: facts), facts)


def rows(prepared: Prepared, *numbers: int) -> Preview:
    """Rows as the model sees them, what is trained marked: those of these numbers (0 is the first), or three."""
    return Preview(prepared.data, prepared.chat, numbers or 3)


def plan(model_config: Path, vram_gib: float, **options: Any) -> Plan:
    """What training a model with these options needs on a card of that size, by its config.json alone."""
    facts = resolve.with_card(probe.collect(), vram_gib)
    command = resolve.given(options | {"plan": True, "vram_gib": vram_gib}, lambda: facts)
    run, facts = resolve.planned_for(command, facts)
    run, _ = resolve.settle(run, facts)
    return training.plan_of(command, run, facts, read_json(model_config), None)[2]
