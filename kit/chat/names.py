"""RUN, ADAPTER or MODEL, as typed -> what each of these names stands for. No torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit import models
from kit.chat.options import ChatCommand
from kit.models.adapters import Adapter
from kit.options import Run
from kit.run import reading, tuned
from kit.run.layout import ADAPTER, OPTIONS
from kit.support.errors import USAGE, KitError, failure, problem
from kit.support.user_shell import quoted

UNTUNED = "base"  # what the untuned model is called


@dataclass(frozen=True)
class ChatSource:
    """What one name stands for.

    base: the model under it. adapter: None for a bare model. run: the options of the run that made it, chosen: what its
    machine chose. whole_model: the folder of the model that a run of every weight made.
    """

    base: str
    adapter: Adapter | None = None
    run: Run | None = None
    chosen: dict[str, Any] = field(default_factory=dict)
    whole_model: Path | None = None
    name: str = ""


def read_sources(command: ChatCommand) -> list[ChatSource]:
    """Raises KitError: no run, no adapter; names or models that do not go together."""
    named = [pair.partition("=") for pair in command.add]
    sources = [_read(text) for text in command.what] + [_read(path, name) for name, _, path in named]
    names = [source.name for source in sources if source.adapter]
    twice = sorted({name for name in names if names.count(name) > 1 or name == UNTUNED})
    if twice:
        raise failure(
            "adapter-name-twice",
            f"{twice[0]} is the name of two adapters, or of the untuned model.",
            "/adapter NAME must say which one is meant.",
            f"--add {twice[0]}-2=FOLDER",
            status=USAGE,
        )
    if len(sources) > 1 and (whole := next((source for source in sources if source.whole_model), None)):
        raise KitError(_not_alone(whole), status=USAGE)
    bare = list(dict.fromkeys(source.base for source in sources if not source.adapter))
    if len(bare) > 1:
        raise KitError(_two_bases(bare))
    _check_one_kind([source.adapter for source in sources if source.adapter])
    return sources


def _read(text: str, name: str = "") -> ChatSource:
    path = Path(text).expanduser()
    folder = tuned.run_folder(path)
    if folder:
        run, chosen = _run(folder), reading.chosen(folder)
        if model := tuned.whole_model(path):
            return ChatSource(run.model, None, run, chosen, model, name or folder.resolve().name)
        adapter = tuned.find_adapter(path, name)
        return ChatSource(run.model, adapter, run, chosen, name=adapter.name)
    if not name and (not path.is_dir() or (path / "config.json").is_file()):
        return ChatSource(text)
    adapter = tuned.find_adapter(path, name)
    return ChatSource(adapter.base, adapter, name=adapter.name)


def _run(folder: Path) -> Run:
    try:
        return reading.read_options(folder)
    except (OSError, ValueError) as error:
        raise failure(
            "run-unreadable",
            f"{folder / OPTIONS} cannot be read.",
            str(error).splitlines()[0],
            f"python -m kit.chat {quoted(folder / ADAPTER)} --base MODEL        (the adapter alone)",
        ) from None


def base_of(sources: Sequence[ChatSource]) -> str:
    """The base that all of them name. Raises KitError: none, or several, or a folder that is not there."""
    bases = [source.base for source in sources]
    if "" in bases or not bases:
        raise failure(
            "base-unknown",
            "The adapter does not say which model it was trained on.",
            "Over another model its answers mean nothing.",
            "--base OWNER/NAME        (or the model's folder)",
        )
    if len({_resolved(base) for base in bases}) > 1:
        raise KitError(_two_bases(list(dict.fromkeys(bases))))
    first = sources[0]
    if first.adapter and _is_path(first.base) and not Path(first.base).expanduser().exists():
        raise failure(
            "base-missing",
            f"The base model {first.base} is not there.",
            "An adapter is only the change to its base: without that model it cannot answer.",
            "--base FOLDER            (where the model lies now)",
            "--base OWNER/NAME        (its name on the hub)",
        )
    return first.base


def _resolved(base: str) -> str:
    folder = models.TINY if base == "tiny" else Path(base).expanduser()
    return str(folder.resolve()) if folder.is_dir() else base


def _is_path(base: str) -> bool:
    return base.startswith((".", "/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", base) is not None


def _not_alone(source: ChatSource) -> Finding:
    return problem(
        "whole-model-stands-alone",
        f"{source.name} is a whole model, and was named with others.",
        "Adapters share one base in memory; this run trained every weight, and shares it with none.",
        f"python -m kit.chat {quoted((source.whole_model or Path(source.name)).parent)}        (--compare: beside the "
        "model it was trained from)",
        "start kit.chat once more for the others",
    )


def _setting(adapter: Adapter) -> tuple[str, ...]:
    """Kind, and what of IA3 and MiSS PEFT takes from the first adapter for all."""
    name = {"IA3": "feedforward_modules", "MISS": "init_weights"}.get(adapter.kind)
    value = adapter.config.get(name) if name else None
    return (adapter.kind, *(sorted(map(str, value)) if isinstance(value, list) else [str(value)]))


def _check_one_kind(adapters: Sequence[Adapter]) -> None:
    """PEFT holds adapters of one kind over a model; some kinds, only with one setting.

    Raises KitError: they are of several.
    """
    if len({_setting(adapter) for adapter in adapters}) > 1:
        names = [f"{adapter.name} ({adapter.method.name})" for adapter in adapters]
        raise failure(
            "adapters-of-two-kinds",
            f"{' and '.join(names)} cannot share one base.",
            "PEFT holds adapters of one kind over a model (lora, rslora and dora are one kind), set alike.",
            "start kit.chat once for each of them",
        )


def _two_bases(bases: list[str]) -> Finding:
    first, other = bases[:2]
    return problem(
        "adapters-of-two-bases",
        f"{first} and {other} are two models, and one is loaded at a time.",
        "An adapter only means something over the very model it was trained on.",
        "start kit.chat once for each of them",
        f"--base {quoted(first)}        (if both are the same model by two names)",
    )
