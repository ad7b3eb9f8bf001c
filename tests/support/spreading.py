"""How tests are spread over processes, as a plugin of pytest-xdist: file by file, those of the paper card to one.

So its run is made once and Unsloth imported on a card once, however many files these tests stand in.
"""

import pytest
from xdist.scheduler import LoadFileScheduling

TOGETHER = "tests/card/"


def group_of(test: str) -> str:
    """Tests of one group run in one process; `test` is pytest's name for it: file::function."""
    return TOGETHER if test.startswith(TOGETHER) else test.partition("::")[0]


class CardTogether(LoadFileScheduling):
    """As --dist loadfile."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> CardTogether | None:
    return CardTogether(config, log) if config.getvalue("dist") == "loadfile" else None
