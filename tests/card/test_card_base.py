"""On a card Unsloth loads the very model that was named, and asks no one about it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kit import models
from tests.support.processes import Done, run_python
from tests.support.results import record_of

MAPPED = "Qwen/Qwen3-0.6B"  # Unsloth has a copy of it in 4 bit, and another in 16 bit
UNHEARD_OF = "no/table-knows-this"  # about which it asks the network
STORED = "someone/small-bnb-4bit"
COMMIT = "0" * 40


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny in NF4, with eight layers in 16 bit."""
    folder = tmp_path_factory.mktemp("models") / "small-bnb-4bit"
    done = run_python("-m", "tests.kit.nf4", "save", folder, libraries="hf")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def loaded(on_cards: Callable[..., Done], stored: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Of models that lie in the hub's cache, as after a download."""
    cache = tmp_path_factory.mktemp("hub")
    for name, folder in ((MAPPED, models.TINY), (UNHEARD_OF, models.TINY), (STORED, stored)):
        of_model = cache / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, of_model / "snapshots" / COMMIT)
        (of_model / "refs").mkdir()
        (of_model / "refs" / "main").write_text(COMMIT)
    return record_of(on_cards("tests/card/loaded_bases.py", cache, MAPPED, UNHEARD_OF, STORED))


def test_the_model_that_was_named_is_loaded(loaded: dict) -> None:
    expected = {name: {"base": name, "in_4bit": 28} for name in (MAPPED, UNHEARD_OF)}
    assert loaded["loaded"] == expected | {STORED: {"base": STORED, "in_4bit": 20}}


def test_no_one_is_asked_about_a_model_that_is_here(loaded: dict) -> None:
    """Neither for tables of names, nor whether the hub has something newer, nor to count the load."""
    assert loaded["asked"] == []


def test_the_base_of_a_run_is_named_in_its_adapter(finished: Path) -> None:
    config = json.loads((finished / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(models.TINY)


def test_a_base_that_is_stored_in_4_bit_is_trained_under_its_name(
    watched: Callable[..., dict], stored: Path, tmp_path: Path
) -> None:
    seen = watched(tmp_path / "run", "--model", stored, "--max-steps", 2, "--evaluations", 0)
    assert seen["base"] == str(stored)
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(stored)
