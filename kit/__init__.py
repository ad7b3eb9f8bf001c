"""kit: fine-tune a language model on one consumer graphics card, in a run that cannot fail silently.

    import kit

    kit.plan(data="my.jsonl", preset="rtx5080")                   # will it fit? no torch, nothing is written
    kit.train(data="my.jsonl", output="runs/mine")                # the same call again goes on where it stopped
    kit.read_run("runs/mine").loss_after                          # what a run folder says
    kit.Talk("runs/mine").ask("Who are you?").answer              # as it was trained
    kit.merge("runs/mine", "models/mine", to="gguf")              # a plain model, proven to answer the same

Options are those of the commands `kit train`, `kit chat` and `kit merge`, with _ where those have -. What is wrong is
raised as kit.KitError, whose findings say what, why and the fix. Each name is imported when it is first used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from kit.support import environment
from kit.support.version import VERSION as __version__

if TYPE_CHECKING:
    from kit.chat.talk import Talk
    from kit.merge import merge_with as merge
    from kit.run.reading import read as read_run
    from kit.support.errors import KitError
    from kit.train import plan_with as plan
    from kit.train import train_with as train

__all__ = ["KitError", "Talk", "__version__", "merge", "plan", "read_run", "train"]

environment.set_constant(os.environ)  # before any library is imported, as they read it then

_PLACES = {  # public name -> module, name there
    "plan": ("kit.train", "plan_with"),
    "read_run": ("kit.run.reading", "read"),
    "Talk": ("kit.chat.talk", "Talk"),
    "KitError": ("kit.support.errors", "KitError"),
}


def __getattr__(name: str) -> Any:
    if name in ("train", "merge"):
        return importlib.import_module(f"kit.{name}")  # pages: called, they do what they are about
    if name not in _PLACES:
        raise AttributeError(f"module 'kit' has no attribute {name!r}")
    module, there = _PLACES[name]
    return getattr(importlib.import_module(module), there)


def __dir__() -> list[str]:
    return sorted(__all__)
