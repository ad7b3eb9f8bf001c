"""Where tensors live: all in main memory, and they say that they live on the card.

A mode of torch's takes the card out of what every function is asked for. Operators that are written in Python run with
that mode off, so the functions that make tensors are wrapped too.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
MAKERS = (
    "arange", "as_tensor", "asarray", "empty", "empty_like", "empty_strided", "eye", "full", "full_like", "linspace",
    "ones", "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "randperm", "scalar_tensor", "tensor",
    "zeros", "zeros_like",
)  # fmt: skip
METHODS = ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")


def is_card(place: object) -> bool:
    return str(place).partition(":")[0] == "cuda" if isinstance(place, (torch.device, str)) else False


def in_main_memory(arguments: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The same arguments without the card in them."""
    moved = {name: CPU if is_card(value) else value for name, value in options.items()}
    if type(moved.get("device")) is int:
        moved["device"] = CPU
    if "pin_memory" in moved:
        moved["pin_memory"] = False
    return tuple(CPU if is_card(value) else value for value in arguments), moved


class MainMemory(TorchFunctionMode):
    """Every function of torch that is called from outside computes in main memory."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if function is torch.device:  # a bare number: the CPU build has no accelerator for it
            args = ("cuda", *args) if args and type(args[0]) is int else args
        elif function is not torch._C._nn._parse_to:  # this one only reads what it is told
            args, options = in_main_memory(args, options)
        return function(*args, **options)


def placed(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        arguments, options = in_main_memory(arguments, options)
        return function(*arguments, **options)

    return call


def _device(tensor: torch.Tensor) -> torch.device:
    with torch._C.DisableTorchFunction():
        real = torch._C.TensorBase.device.__get__(tensor)
    return CARD if real == CPU else real


def _to(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    arguments, options = in_main_memory(tuple(CPU if type(one) is int else one for one in arguments), options)
    return torch._C.TensorBase.to(tensor, *arguments, **options)


def _stay(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return tensor


def install() -> None:
    for name in MAKERS:
        setattr(torch, name, placed(getattr(torch, name)))
    for name in METHODS:
        setattr(torch.Tensor, name, placed(getattr(torch._C.TensorBase, name)))
    torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.pin_memory = _to, _stay, _stay
    torch.Tensor.is_pinned = lambda tensor, *_, **__: False
    torch.Tensor.device = property(_device)
    torch.Tensor.is_cuda = property(lambda tensor: _device(tensor) == CARD)
    torch.Tensor.is_cpu = property(lambda tensor: False)
    torch.Tensor.get_device = lambda tensor: 0 if _device(tensor) == CARD else -1
    _parse_to = torch._C._nn._parse_to
    torch._C._nn._parse_to = lambda *places, **options: _parse_to(
        *("cuda:0" if type(place) is int else place for place in places), **options
    )
    MainMemory().__enter__()
    _run = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        with MainMemory():  # a mode is of one thread
            _run(thread)

    threading.Thread.run = run
