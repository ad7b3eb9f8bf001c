"""A page of the kit is a module that can be called: `kit.train` is the page of training and, called, trains."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.call(*arguments, **options)


def make_callable(module: str, call: Callable[..., Any]) -> None:
    """Calling the module of that name calls `call`."""
    page = sys.modules[module]
    page.__class__ = CallableModule
    page.call = call  # type: ignore[attr-defined]
