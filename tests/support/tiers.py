"""The tiers of tests, as a plugin of pytest: a test that is not marked `torch` and starts torch fails, and says so.

`make check` runs what is not marked, `make test` the rest too: so a forgotten mark is seen where it costs time.
What is refused, also in child processes: `no_torch/sitecustomize.py`.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.no_torch import sitecustomize

FOLDER = Path(sitecustomize.__file__).parent
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def pytest_configure(config: pytest.Config) -> None:
    """One thread of torch's a process: sums in another order are other numbers, and processes share the cores."""
    os.environ.update(dict.fromkeys(THREADS, "1"), TOKENIZERS_PARALLELISM="false")
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(FOLDER))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *others])
    handle, path = tempfile.mkstemp(prefix="refused-imports-")
    os.close(handle)
    config.stash[LOG] = Path(path)
    _refuse(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    processes.end_all()
    os.environ.pop(sitecustomize.LOG, None)
    config.stash[LOG].unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    _refuse(item.config, unless=item.get_closest_marker("torch") is not None)
    return (yield from _judged(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from _judged(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    result = yield
    _refuse(item.config)
    return result


LOG = pytest.StashKey[Path]()


def _refuse(config: pytest.Config, unless: bool = False) -> None:
    if unless:
        os.environ.pop(sitecustomize.LOG, None)
    else:
        os.environ[sitecustomize.LOG] = str(config.stash[LOG])


def _judged(item: pytest.Item) -> Iterator[None]:
    """Fails the test where something was refused, whatever the test made of the ImportError."""
    result, error = None, None
    try:
        result = yield
    except BaseException as raised:
        error = raised
    log = item.config.stash[LOG]
    if log.stat().st_size:
        refused = dict.fromkeys(log.read_text(encoding="utf-8").split())
        log.write_text("", encoding="utf-8")
        pytest.fail(
            f"{item.nodeid} imports {', '.join(refused)}, itself or in a child process: mark it with "
            "@pytest.mark.torch, and it runs in `make test` in place of `make check`", pytrace=False,
        )  # fmt: skip
    if error is not None:
        raise error
    return result
