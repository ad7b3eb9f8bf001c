"""Memory of the device: how much is taken, how it is freed for another try."""

import sys
from collections.abc import Callable

from kit.backend.device import has_card
from kit.backend.device_errors import card_error, is_out_of_memory


def free_memory() -> None:
    """What nothing holds any more; call it outside of `except`, as an error holds on to the tensors of its try."""
    import gc

    import torch

    gc.collect()
    if has_card():
        torch.cuda.empty_cache()


def attempt(work: Callable[[], object]) -> Exception | None:
    """The error that the work raises; where memory ran out, after another try with memory freed. An error of the card
    is raised: it is no matter of this work alone."""
    error = _error_of(work)
    if error and is_out_of_memory(error):
        error.__traceback__ = None  # see free_memory
        free_memory()
        error = _error_of(work)
    return error


def _error_of(work: Callable[[], object]) -> Exception | None:
    try:
        work()
    except Exception as error:
        if card_error(error):
            raise
        return error
    return None


def unheld_card_bytes(device: str) -> int | None:
    """Of the card, what no process holds at this moment; None on a CPU."""
    import torch

    return torch.cuda.mem_get_info()[0] if device == "cuda" else None


def memory_bytes(device: str) -> int:
    """Memory taken now: reserved by torch on a card, resident in this process on a CPU."""
    import psutil
    import torch

    return torch.cuda.memory_reserved() if device == "cuda" else psutil.Process().memory_info().rss


def peak_memory_bytes(device: str) -> int:
    """Most memory taken so far: reserved by torch on a card, resident in this process on a CPU."""
    import torch

    return torch.cuda.max_memory_reserved() if device == "cuda" else peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Most main memory that this process had at once; needs no torch."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    scale = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
