"""The card's free memory is read for the plan, again when the libraries have started, and after the preflight."""

import pytest

from envcheck.facts import Facts, Gpu
from kit import train
from kit.backend import Backend
from kit.options import resolve
from kit.run.notes import collect_notes
from kit.run.watch import little_room
from kit.support.units import GIB

CARD = Gpu(name="NVIDIA GeForce RTX 5080", vram_gib=15.9, vram_free_gib=14.5, compute_capability="12.0")


@pytest.mark.parametrize(("free_gib", "is_said"), [(14.2, False), (11.0, True), (None, False)])
def test_what_began_to_use_the_card_since_the_plan_is_said(free_gib: float | None, is_said: bool) -> None:
    facts = Facts(gpu=(CARD,))
    planned = train.plan(resolve.load(["--model", "tiny", "--plan"], lambda: facts), facts)
    backend = Backend("unsloth", "", card_bytes=None if free_gib is None else int(free_gib * GIB))
    said = [note for note in collect_notes(planned, backend, None) if "free now" in note]
    assert bool(said) is is_said
    assert all("11.00 GiB" in note and "13.56" in note for note in said)


@pytest.mark.parametrize(("beside_gib", "is_said"), [(0.12, True), (0.29, True), (0.3, False), (5, False)])
def test_a_card_that_is_nearly_full_beside_the_run_is_said(beside_gib: float, is_said: bool) -> None:
    said = little_room(int(beside_gib * GIB) + 1)
    assert bool(said) is is_said
    assert ("--vram-limit-gib" in said) is is_said


def test_of_a_cpu_nothing_is_said() -> None:
    assert little_room(None) == ""
