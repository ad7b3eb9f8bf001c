"""Memory that runs out: how torch says it, how it is freed, and work that is worth another try."""

import re
from collections.abc import Callable


def is_out_of_memory(error: BaseException) -> bool:
    """torch says it as a RuntimeError, in other words on a card than on a CPU."""
    told = re.search("out of memory|can't allocate memory|not enough memory", str(error), re.IGNORECASE)
    return told is not None or isinstance(error, MemoryError)


def free_memory() -> None:
    """What nothing holds any more; call it outside of `except`, as an error holds on to the tensors of its try."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def error_of(work: Callable[[], object]) -> Exception | None:
    """What the work raises, whatever it is; where memory ran out, after another try with memory freed."""
    error = _raised(work)
    if error and is_out_of_memory(error):
        error.__traceback__ = None  # see free_memory
        free_memory()
        error = _raised(work)
    return error


def _raised(work: Callable[[], object]) -> Exception | None:
    try:
        work()
    except Exception as error:
        return error
    return None
