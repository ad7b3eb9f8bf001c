"""A whole run on a paper card, through Unsloth's code for cards: what it leaves in its folder."""

import json
from pathlib import Path

from kit.run import reading


def test_it_runs_on_the_card_with_unsloth(finished: Path) -> None:
    record = reading.read(finished)
    assert record.status == "finished"
    assert (record.options["device"]["value"], record.options["backend"]["value"]) == ("cuda", "unsloth")
    assert record.unread == ()
    assert (finished / "report.html").is_file()


def test_the_plan_is_for_the_card_and_its_free_memory(finished: Path) -> None:
    plan = json.loads((finished / "plan.json").read_text())
    assert plan["verdict"] == "fits"
    assert 12 << 30 < plan["available_bytes"] < 14.75 * (1 << 30), "of 15.92 GiB the desktop has 1.17"
