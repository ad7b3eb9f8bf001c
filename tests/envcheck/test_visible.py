"""Which card a process uses: what the environment names, else the one with the most memory; by nvidia-smi's numbers."""

import pytest

from envcheck import settings, visible
from envcheck.facts import Facts
from envcheck.probe import nvidia, smoke
from envcheck.probe.commands import run_command

SMALL, LARGE = "GPU-3f2c9c1e-aaaa-bbbb-cccc-444455556666", "GPU-77aa9c1e-aaaa-bbbb-cccc-444455556666"
LINES = (
    f"0, NVIDIA GeForce RTX 3060, 8.6, 12288, 12000, 581.57, {SMALL}, Disabled, [N/A], [N/A], Disabled, 4, 16\n"
    f"1, NVIDIA RTX A6000, 8.6, 49140, 48000, 581.57, {LARGE}, Disabled, [N/A], [N/A], Enabled, 4, 16\n"
)


def two_unlike(**env: str) -> Facts:
    return Facts(gpu=nvidia.parse_cards(LINES)["gpu"], env=env)


@pytest.mark.parametrize(
    ("chosen", "index"),
    [
        (None, 1),
        ("0", 0),
        ("1", 1),
        (" 0 ", 0),
        ("'0'", 0),
        ("0,1", 1),
        ("1,0", 1),
        ("0,7,1", 0),  # CUDA stops at the first that is not there
        (SMALL, 0),
        (SMALL[:12], 0),
        (f"{SMALL},{LARGE}", 1),
        ("", None),
        ("-1", None),
        ("7", None),
        ("-1,0", None),
        ("GPU-00000000", None),
        ("nonsense", None),
        ("\u00b2", None),
    ],
)
def test_the_best_of_the_cards_that_are_left(chosen, index):
    facts = two_unlike(**({} if chosen is None else {visible.VARIABLE: chosen}))
    card = settings.best_card(facts)
    assert (card.index if card else None) == index


def test_without_an_order_numbers_of_unlike_cards_are_certain_for_who_sets_one():
    facts = two_unlike(CUDA_VISIBLE_DEVICES="0")
    assert [gpu.index for gpu in visible.cards(facts)] == [0, 1], "CUDA may count otherwise"
    assert [gpu.index for gpu in visible.cards(facts, visible.BY_BUS)] == [0]
    fastest = two_unlike(CUDA_VISIBLE_DEVICES="0", CUDA_DEVICE_ORDER="FASTEST_FIRST")
    assert len(visible.cards(fastest, visible.BY_BUS)) == 2, "the user's own order stays"


def test_a_slice_of_a_card_has_unknown_memory():
    facts = two_unlike(CUDA_VISIBLE_DEVICES="MIG-377e0049-554c-540b-93c6-d0976f8426cb")
    chosen = settings.choose(facts)
    assert chosen.memory_bytes.value is None
    assert chosen.optimizer.value == "adamw_8bit"


def test_the_plan_is_of_the_chosen_cards_memory():
    of_small = settings.choose(two_unlike(CUDA_VISIBLE_DEVICES="0")).memory_bytes.value
    assert of_small < 12 * settings.GIB < settings.choose(two_unlike()).memory_bytes.value


def test_unsloth_writes_its_trainers_nowhere_but_in_the_tests_own_folder(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "lib" / "unsloth.py").write_text(
        "import os\n__version__ = os.environ.get('UNSLOTH_COMPILE_LOCATION', 'unsloth_compiled_cache')\n"
        "os.makedirs(__version__)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    monkeypatch.delenv("UNSLOTH_COMPILE_LOCATION", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    said = smoke.verdict(smoke.run_source(smoke.UNSLOTH, 60, run_command))
    assert said["verdict"] == "ok"
    assert "unsloth_compiled_cache" in said["detail"]
    assert list((tmp_path / "here").iterdir()) == []
