"""Changes to modules as they are imported, and a package that is not installed."""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence

Change = Callable[[types.ModuleType], object]


class Changing(importlib.abc.MetaPathFinder):
    """Finds modules where Python does, and changes each that has a change once its own code has run."""

    def __init__(self, changes: dict[str, Change]):
        self.changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = self.changes.get(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path) if change else None
        if spec is None or spec.loader is None:
            return None
        run_code = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            run_code(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def change_when_imported(changes: dict[str, Change]) -> None:
    sys.meta_path.insert(0, Changing(changes))
