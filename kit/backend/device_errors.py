"""What torch and its libraries say when memory ran out or the card failed: told by their words, as most of their kinds
do not tell it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from envcheck.facts import Finding
from kit.backend.device import has_card
from kit.support.errors import KitError, first_line, problem
from kit.support.user_shell import shell


def _any_of(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(texts), re.IGNORECASE | re.DOTALL)


MEMORY_RAN_OUT = _any_of(
    r"out[ _]?of[ _]?memory",  # CUDA, its driver, page-locked memory, Triton, the compilers, Rust
    r"memoryallocation|alloc(ation)?_failed",  # of CUDA; of cuBLAS, cuDNN, cuSOLVER
    r"can(no|')t allocate|(unable|failed) to allocate|could not allocate|not enough memory",  # torch, Linux, NumPy
    r"cuda(hostalloc|malloc\w*)\b.*failed",  # page-locked and managed memory
    r"std::bad_alloc|bad allocation",  # C++ by GCC and by MSVC
    r"\[errno 12\]|\[winerror (8|14|1450|1455)\]|(os error|error code:) <?1455\b|paging file is too small",
    r"negligible gpu memory",  # Unsloth's loss
    r"nvml_success == .*cudacachingallocator",  # torch on its way to say so, where NVML is missing
)
# on a full card; with room on it these are libraries that cannot work at all
NO_ROOM_TO_START = _any_of(r"_status_(not_initialized|internal_error)", "unable to find an engine")
STARTING_BYTES = 256 << 20  # what cuBLAS and cuDNN take of a card for themselves, and some more

FROM_THE_CARD = _any_of(
    r"\b(cuda|cudnn|cublas|cublaslt|cusolver|cusparse) ((unknown|driver|frontend) )?error|cuda(_e|e)rror",
    "acceleratorerror",  # torch's kind for what CUDA answers, whatever its words
    r"\b(cublas|cudnn|cusolver|cusparse)_status_|nvrtc|triton error|ptxas|out of resource|unable to find an engine",
    r"device-side assert triggered|no kernel image|illegal memory access|unspecified launch failure",
    r"ecc error|gpu is lost|off the bus|\bxid\b|unable to determine the device handle",
    r"no cuda gpus|no cuda-capable|no nvidia driver|cuda driver (initialization|version)",
)
CANNOT_RUN_A_KERNEL = _any_of(
    r"no kernel image|invalid device function|unsupported toolchain|ptxas|nvrtc|named symbol not found",
    r"out of resource|too many resources|invalid configuration|find an engine|execution plans",
    r"invalid (argument|value|resource handle)|operation not (permitted|supported)",
    r"_status_(not_supported|arch_mismatch|invalid_value)",
)


class CardFailure(NamedTuple):
    """Words that give a failure away, what is behind it, and what to do before the same command."""

    texts: re.Pattern[str]
    why: str
    fix: str


CARD_FAILURES = (
    CardFailure(
        _any_of("device-side assert triggered|cudaerrorassert"),  # torch names the first also in its advice
        "A kernel was given a number outside of its table: nearly always a token id that the model has no row for.",
        "a --template of this model's own tokens",
    ),
    CardFailure(
        _any_of(r"ecc error|gpu is lost|off the bus|\bxid\b|device handle|requires reset|hardware stack|nvlink"),
        "The card reports a fault of its own: its memory, its power or its place in the slot.",
        "restart the computer; where it comes again, see to power cables, temperature and slot of the card",
    ),
    CardFailure(
        _any_of(
            "no cuda|no nvidia driver|unknown error - this may|driver (initialization|version)|busy or|"
            "initialization error|invalid device ordinal"
        ),
        "The driver does not give the card to this program; after standby it may need a restart.",
        "restart the computer",
    ),
    CardFailure(
        _any_of(""),
        "The driver ended this program's work on the card. Windows does that to a kernel that runs for longer than two "
        "seconds (TDR); elsewhere heat, an overclocked card or a fault of the driver are the usual reasons.",
        "take back any overclocking; on Windows raise TdrDelay",
    ),
)
SAME_COMMAND = "the same command again       (in a notebook: restart the kernel first)"


class CardFailed(KitError):
    """This process has lost the card: whatever else it tries on it fails too."""


def is_out_of_memory(error: BaseException) -> bool:
    """Of the card or of the machine. What is a KitError has been judged already."""
    if isinstance(error, KitError):
        return False
    text = _words(error)
    return (
        isinstance(error, MemoryError)
        or MEMORY_RAN_OUT.search(text) is not None
        or (NO_ROOM_TO_START.search(text) is not None and _card_is_full())
    )


def _words(error: BaseException) -> str:
    """Its kind and all that it says, without the name of a file, which may say anything."""
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = text.replace(repr(error.filename), "")
    return f"{type(error).__name__}: {text}"


def _card_is_full() -> bool:
    import torch

    try:
        return has_card() and torch.cuda.mem_get_info()[0] < STARTING_BYTES
    except RuntimeError:  # the card is lost
        return False


def card_error(error: BaseException, again: str = SAME_COMMAND) -> KitError | None:
    """What is to be said where the card, and not a lack of memory, is the reason; again: how the user goes on."""
    text = _words(error)
    if isinstance(error, KitError) or not FROM_THE_CARD.search(text) or is_out_of_memory(error):
        return None
    if CANNOT_RUN_A_KERNEL.search(text):
        return KitError(_cannot_run(error))
    failed = next(failure for failure in CARD_FAILURES if failure.texts.search(text))
    return CardFailed(
        problem(
            "card-failed",
            f"The graphics card failed: {first_line(error)}",
            failed.why,
            again,
            failed.fix,
            f"{shell().set_env('CUDA_LAUNCH_BLOCKING', '1')}   (if it comes again: names the kernel)",
        )
    )


def _cannot_run(error: BaseException) -> Finding:
    return problem(
        "kernel-cannot-run",
        f"A kernel of the libraries cannot run on this card: {first_line(error)}",
        "It is made for another card or driver, or needs more of the chip than this one has; less data at once would "
        "not help.",
        "python -m envcheck           (says whether torch and the driver fit this card)",
        "--backend hf                 (kernels of plain torch)",
    )


@contextmanager
def card_errors_explained() -> Iterator[None]:
    """An error of the card becomes one that says what to do. Around a function it is a decorator too.

    Raises CardFailed: the card is lost; KitError: it cannot run a kernel.
    """
    try:
        yield
    except Exception as error:
        explained = card_error(error)
        if explained is None:
            raise
        raise explained from error
