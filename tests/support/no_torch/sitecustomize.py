"""Refuses to import torch and what is built on it, where the environment asks for that: see tests/support/tiers.py.

Python imports a module of this name at its start, so with this folder on PYTHONPATH child processes refuse too.
Standard library only, for every Python that a test starts.
"""

import importlib.machinery
import os
import sys

HEAVY = frozenset(("torch", "transformers", "unsloth", "trl", "peft", "bitsandbytes", "datasets", "accelerate"))
LOG = "KIT_TESTS_REFUSED_IMPORTS"  # path of the file that refused imports are written to; not set: nothing is refused


class Refusing:
    """Finds heavy libraries, so that "is it installed?" has its answer, and does not import them."""

    def find_spec(self, name, path=None, target=None):
        if name not in HEAVY or LOG not in os.environ:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = self
        return spec

    def create_module(self, spec):
        with open(os.environ[LOG], "a", encoding="utf-8") as log:  # noqa: PTH123 - before pathlib is needed
            log.write(spec.name + "\n")
        raise ImportError(f"{spec.name} is imported by a test that is not marked with pytest.mark.torch")

    def exec_module(self, module):
        raise ImportError(f"{module.__name__} is not imported")


if not any(type(finder).__name__ == "Refusing" for finder in sys.meta_path):
    sys.meta_path.insert(0, Refusing())
