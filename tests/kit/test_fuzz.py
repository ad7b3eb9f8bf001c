"""A little of benchmarks/fuzz_data.py at every test run."""

from collections import Counter

import pytest

from benchmarks import fuzz_data


@pytest.mark.parametrize("kind", fuzz_data.KINDS)
def test_no_input_gives_a_traceback(kind: str, monkeypatch) -> None:
    monkeypatch.setenv("KIT_CACHE", "replaced by fuzz, put back after the test")
    told: Counter = Counter()
    fuzz_data.fuzz(kind, 150, told)
    assert told.total() >= 150
    assert told["rows"] > 5, "some inputs must get through, or nothing was tested"
