"""A triton that has names and no compiler: enough to define kernels, and an error that names the one that is started.

Unsloth, bitsandbytes and torch decorate hundreds of functions when they are imported; of those that would run here the
paper card has formulas in torch (kernels.py). The real package is 200 MB and compiles for a GPU that is not there.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

VERSION = "3.7.1"


class Kernel:
    """A function decorated with triton.jit."""

    def __init__(self, function: Callable[..., Any]):
        self.fn, self.__name__, self.__doc__ = function, function.__name__, function.__doc__

    def __getitem__(self, grid: object) -> Any:
        raise NotImplementedError(f"the kernel {self.__name__} is started, and the paper card has no formula for it")


class Name:
    """Whatever stands behind a name of triton: called with a function it decorates, else it is one more name."""

    def __init__(self, path: str):
        self.path = path

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        (first, *_) = arguments or (None,)
        if isinstance(first, types.FunctionType):
            return Kernel(first)
        return first if isinstance(first, Kernel) else self

    def __getattr__(self, name: str) -> Any:
        return named(f"{self.path}.{name}")

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Namespace(types.ModuleType):
    """A module of triton's, each of which is a package."""

    __version__ = VERSION

    def __getattr__(self, name: str) -> Any:
        return named(f"{self.__name__}.{name}")


class Kind(Exception):
    """A class of triton's: made with anything, raised by nobody."""

    def __init__(self, *_: Any, **__: Any): ...


@cache
def named(path: str) -> Any:
    """A class where Python's habit says so, for `isinstance` and `except`; else a Name."""
    name = path.rpartition(".")[2]
    if name.startswith("__"):
        raise AttributeError(path)
    return type(name, (Kind,), {}) if name[0].isupper() else Name(path)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds triton and every module that is asked for in it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        ours = name.partition(".")[0] == "triton"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Namespace(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """It has no code."""


def install() -> None:
    sys.meta_path.insert(0, Finder())
