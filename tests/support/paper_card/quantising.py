"""bitsandbytes with the CPU's library on a card: its operators find tensors in main memory."""

from types import ModuleType
from typing import Any


class Library:
    """The CPU's; a kernel that only the CUDA library has can be named, and says so where it is started."""

    def __init__(self, real: Any):
        self.real = real

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self.real, name)
        except AttributeError:
            return Missing(name)


class Missing:
    """A kernel of the CUDA library."""

    restype = argtypes = None

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *_: Any) -> None:
        raise NotImplementedError(f"bitsandbytes' {self.name} is started, and the paper card has no such kernel")


def cpu_library(module: ModuleType) -> None:
    module.get_cuda_specs = lambda: None


def no_cuda_kernels(module: ModuleType) -> None:
    module.lib = Library(module.lib)
    module.has_avx512bf16 = lambda: False  # or a weight on the CPU is packed anew, which none on a card is


CHANGES = {"bitsandbytes.cuda_specs": cpu_library, "bitsandbytes.functional": no_cuda_kernels}
