"""The order of the samples: every one once, the same for a seed, little padding; micro-batches within a budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.batches import EpochSampler, budget_tokens, epoch_order, micro_batches, padding_share

some_lengths = st.lists(st.integers(1, 2000), min_size=1, max_size=400)


@given(some_lengths, st.integers(1, 16), st.integers(0, 2**31), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_every_sample_once_an_epoch(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    order = epoch_order(np.array(lengths), batch_size, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert (order == epoch_order(np.array(lengths), batch_size, seed, epoch)).all(), "a pure function: resumable"


@given(some_lengths, st.integers(1, 5000))
@settings(max_examples=200, deadline=None)
def test_micro_batches_hold_every_sample_once_and_keep_the_budget(lengths: list[int], budget: int) -> None:
    parts = list(micro_batches(lengths, budget))
    assert sorted(place for part in parts for place in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[place] for place in part) <= budget


def test_epochs_and_seeds_differ_but_the_short_batch_stays_last() -> None:
    lengths = np.arange(1, 104)
    orders = {tuple(epoch_order(lengths, 8, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4
    one = epoch_order(lengths, 8, 1, 0)
    spread = [np.ptp(lengths[one[start : start + 8]]) for start in range(0, 96, 8)]
    assert max(spread) <= 8, "one window holds all of these samples, so each whole batch has neighbours in length"


def test_padding_is_far_less_than_in_plain_batches() -> None:
    random = np.random.default_rng(0)
    lengths = np.exp(random.normal(5, 0.8, 1000)).astype(int) + 1
    plain = lengths[random.permutation(1000)].reshape(-1, 8)
    plain_share = 1 - lengths.sum() / (8 * plain.max(axis=1)).sum()
    ours = padding_share(lengths, 8, budget_tokens(lengths, 8), seed=3407)
    assert plain_share > 0.4
    assert ours < 0.1
    assert padding_share(lengths, 8, budget_tokens(lengths, 1), seed=3407) < ours, "smaller parts are padded less"


def test_the_sampler_follows_the_epoch_it_is_told() -> None:
    sampler = EpochSampler(np.arange(1, 50), 4, 7)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert len(sampler) == 49


@pytest.mark.parametrize("micro", [1, 4])
def test_budget_is_so_many_samples_of_the_longest(micro: int) -> None:
    assert budget_tokens(np.array([3, 10, 7]), micro) == 10 * micro
