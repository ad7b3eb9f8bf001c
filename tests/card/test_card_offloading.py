"""What waits in main memory is what is planned, in Unsloth's own code for a card."""

import pytest

from tests.card.conftest import Program
from tests.support.results import record_of


@pytest.fixture(scope="module")
def found(on_cards: Program) -> dict:
    return record_of(on_cards("tests/card/offloading.py"))


def test_the_blocks_inputs_wait_in_main_memory_as_planned(found: dict) -> None:
    """Of 4 x 2048 tokens: four blocks of 4 MiB."""
    assert found["long"]["bytes"] == found["long"]["planned"][0] == 4 * 4 << 20


def test_below_512_tokens_they_stay_on_the_card(found: dict) -> None:
    assert found["short"]["bytes"] == found["short"]["planned"][0] == 0


def test_the_mask_of_a_padded_batch_has_a_number_for_each_pair_of_tokens(found: dict) -> None:
    """Which memory.activations counts in an evaluation."""
    assert found["long"]["mask"] == 2 * 64 * 64 * 2


def test_what_waits_in_32_bit_is_not_rounded(found: dict) -> None:
    assert found["fp32_is_exact"]
