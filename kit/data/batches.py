"""The order of the samples: batches of nearly equal length, so little is padded; a pure function of seed and epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

WINDOW_BATCHES = 64  # samples are sorted within so many batches: enough for equal lengths, few enough to stay random
MEASURED_BATCHES = 2000


def epoch_order(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Every sample's number once; each `batch_size` in a row are one optimiser step, a shorter rest comes last.

    The samples are shuffled, sorted by length within windows of WINDOW_BATCHES batches, and the batches shuffled again.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    window = WINDOW_BATCHES * batch_size
    for start in range(0, len(order), window):
        part = order[start : start + window]
        order[start : start + window] = part[np.argsort(lengths[part], kind="stable")]
    whole = len(order) // batch_size * batch_size
    batches = order[:whole].reshape(-1, batch_size)
    return np.concatenate([batches[random.permutation(len(batches))].ravel(), order[whole:]])


def micro_batches(lengths: Sequence[int], budget_tokens: int) -> Iterator[list[int]]:
    """Places of the samples that are in memory together: as many as fit when padded to the longest; at least one."""
    together: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if together and (len(together) + 1) * lengths[together[0]] > budget_tokens:
            yield together
            together = []
        together.append(place)
    if together:
        yield together


def budget_tokens(lengths: np.ndarray, micro_batch_size: int) -> int:
    """Tokens that may be in memory at once, padding included: so many samples of the longest length."""
    return micro_batch_size * int(lengths.max())


def padding_share(lengths: np.ndarray, batch_size: int, budget_tokens: int, seed: int) -> float:
    """Share of padding among all tokens computed in the first epoch (its first MEASURED_BATCHES steps)."""
    order = epoch_order(lengths, batch_size, seed, 0)[: MEASURED_BATCHES * batch_size]
    computed = real = 0
    for start in range(0, len(order), batch_size):
        batch = lengths[order[start : start + batch_size]].tolist()
        real += sum(batch)
        computed += sum(len(places) * batch[places[0]] for places in micro_batches(batch, budget_tokens))
    return 1 - real / computed if computed else 0.0


@dataclass
class EpochSampler:
    """`epoch_order` in the form torch's data loader takes; the trainer calls set_epoch before each pass."""

    lengths: np.ndarray
    batch_size: int
    seed: int
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.lengths, self.batch_size, self.seed, self.epoch).tolist())

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
