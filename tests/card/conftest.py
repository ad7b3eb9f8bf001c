"""What the tests of the card share: a machine with paper cards, and one whole run on an RTX 5080.

Unsloth chooses its code when it is imported, so every program is a process of its own: a fork of one that has imported
Unsloth on a card.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paper_card import machine
from tests.support.processes import Done, run_python
from tests.support.results import record_of

Program = Callable[..., Done]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder has both marks, and runs where there is a paper card."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("card")
            item.add_marker("torch")
            item.add_marker(pytest.mark.skipif(sys.platform != "linux", reason="paper card: Linux only"))


@pytest.fixture(scope="session")
def on_cards(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """`python ARGUMENTS` on a machine with these cards; fresh: in a process that imports all of it anew."""
    folder = tmp_path_factory.mktemp("machine")

    def run(*arguments: object, cards: str = "rtx5080", fresh: bool = False) -> Done:
        env = machine.environment(folder, cards) | {"KIT_CACHE": str(folder / "cache")}
        return run_python(*arguments, libraries="" if fresh else "card", env=env)

    return run


OPTIONS = ("--model", "tiny", "--data", "examples/identity.jsonl", "--backend", "unsloth", "--max-steps", 6,
           "--evaluations", 2, "--held-out-rows", 5, "--sample-tokens", 4)  # fmt: skip


@pytest.fixture(scope="session")
def finished(on_cards: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one run on an RTX 5080, as a user starts it."""
    folder = tmp_path_factory.mktemp("card") / "run"
    done = on_cards("-m", "kit.train", "--preset", "rtx5080", *OPTIONS, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def watched(on_cards: Program) -> Callable[..., dict]:
    """A run of these options, watched from inside: see watched_run.py."""

    def run(folder: Path, *options: object, cards: str = "rtx5080", fresh: bool = False, **wishes: object) -> dict:
        program = ("tests/card/watched_run.py", json.dumps(wishes))
        return record_of(on_cards(*program, *OPTIONS, *options, "--output", folder, cards=cards, fresh=fresh))

    return run
