"""Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): who goes on to the next rung, and how far.

Pure functions of steps and losses. A loss is None where a trial failed, or nothing could be measured.
"""

import math
from collections.abc import Iterable, Mapping, Sequence


def rung_steps(steps: int, rungs: int, keep: float) -> tuple[int, ...]:
    """Step at which each rung ends; the last is the end of the run.

    >>> rung_steps(40, 3, 0.5)
    (10, 20, 40)
    """
    return tuple(max(1, round(steps * keep ** (rungs - 1 - rung))) for rung in range(rungs))


def survivors(losses: Mapping[str, float | None], keep: float) -> set[str]:
    """Those that go on: the better share, rounded up, and whoever equals the last of them; never one without a loss.

    >>> sorted(survivors({"a": 3.0, "b": 1.0, "c": 2.0, "d": 2.0}, 0.5))
    ['b', 'c', 'd']
    """
    known = sorted(loss for loss in losses.values() if is_loss(loss))
    if not known:
        return set()
    count = math.ceil(round(keep * len(losses), 9))  # 0.3 * 10 is a little more than 3
    worst = known[min(count, len(known)) - 1]
    return {name for name, loss in losses.items() if is_loss(loss) and loss <= worst}


def is_loss(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def mean_loss(losses: Iterable[float | None]) -> float | None:
    """Of the seeds of one setting: they live or die together, so one without a loss leaves none."""
    found = list(losses)
    return sum(found) / len(found) if found and all(map(is_loss, found)) else None


def steps_to_do(steps: Sequence[Sequence[int]], keep: float) -> int:
    """About how many steps the sweep does, when nothing is done yet and none fails.

    steps: of each setting, the step at which each rung ends (summed over its seeds).
    """
    total, left = 0.0, float(len(steps))
    for rung in range(len(steps[0]) if steps else 0):
        each = [ends[rung] - (ends[rung - 1] if rung else 0) for ends in steps]
        total += left * sum(each) / len(each)
        left = math.ceil(round(left * keep, 9))
    return round(total)
