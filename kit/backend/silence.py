"""Quiet libraries: their banners and progress bars are not the user's business, their errors are."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing printed, logged below an error or warned inside reaches the screen; exceptions still rise."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), no_warnings():
        yield


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Nothing logged below an error or warned inside reaches the screen; what is printed does."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
