"""The runs, adapters and models made of them under a folder, as records."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.models.adapters import CONFIG
from kit.options.methods import LORA, METHODS, method_of
from kit.run.layout import CHECKPOINTS, MADE, MARKS, NOT_VERIFIED, OPTIONS, PARITY, made_by
from kit.run.reading import RunRecord, passed, read
from kit.support.errors import failure
from kit.support.redacting import value_text
from kit.support.untrusted import dict_or_empty, dicts_in, finite_number

WEIGHTS = {".safetensors", ".gguf"}
INSIDE_A_RUN = {*MADE, CHECKPOINTS}  # told of with the run


@dataclass(frozen=True)
class Item:
    """path: below the folder asked for. method: what was trained, "" for a model. size_bytes: of the weights. loss:
    held-out, in nats a token. verified: whether what was made of it last, or it itself, was proven equal; None where
    nothing was."""

    path: str
    kind: str  # run, adapter, model
    status: str
    base: str
    method: str
    rank: int | None
    data: str
    loss_before: float | None
    loss: float | None
    size_bytes: int | None
    verified: bool | None


def items(folder: Path) -> tuple[list[Item], list[str]]:
    """What is there, and the folders that cannot be looked into.

    Raises KitError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise failure(
            "list-no-folder",
            f"{folder} is no folder.",
            "Runs are listed from a folder that holds them.",
            "python -m kit.report --list runs",
        )
    unread: list[str] = []
    found = [_item(place, folder, is_run) for place, is_run in _places(folder, unread)]
    if not found:
        raise failure(
            "list-empty",
            f"There is no run and no adapter under {folder}.",
            f"A run holds {OPTIONS}, an adapter {CONFIG}.",
            "python -m kit.report --list DIR       (where your runs are)",
            "python -m kit.train --data my.jsonl   (makes one)",
            details={"cannot be looked into": ", ".join(unread)} if unread else None,
        )
    return found, unread


def _places(folder: Path, unread: list[str]) -> Iterator[tuple[Path, bool]]:
    """Runs (True), adapters and models made of them, by name; neither links nor hidden folders are followed."""

    def cannot(error: OSError) -> None:
        unread.append(str(error.filename))

    for name, folders, files in os.walk(folder, onerror=cannot):
        place = Path(name)
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        if not set(MARKS).isdisjoint(files):
            folders[:] = [one for one in folders if one not in INSIDE_A_RUN]
            yield place, True
        elif CONFIG in files or {PARITY, NOT_VERIFIED} & set(files):
            yield place, False


def _item(place: Path, folder: Path, is_run: bool) -> Item:
    run = read(place) if is_run else None
    made = place / made_by(run.method) if run else place
    config = _table(made / CONFIG)
    method = METHODS.get(run.method, LORA) if run else None
    asked = finite_number(_option(run, "lora_rank")) if run and method and "lora_rank" in method.options else None
    method = method or method_of(config)
    rank = finite_number(config.get("r")) or asked
    files = [value_text(file.get("name")) for file in dicts_in(run.data.get("files"))] if run else []
    return Item(
        path=str(place.relative_to(folder)) if place != folder else place.absolute().name,
        kind="run" if run else "adapter" if config else "model",
        status=run.status if run else "",
        base=_base(run, config),
        method=method.name if method else "",
        rank=int(rank) if rank else None,
        data=", ".join(files),
        loss_before=run.loss_before if run else None,
        loss=run.loss_after if run else None,
        size_bytes=_weights_bytes(made),
        verified=run.verified if run else _verified(place),
    )


def _weights_bytes(made: Path) -> int | None:
    try:
        return sum(file.stat().st_size for file in made.iterdir() if file.suffix in WEIGHTS) or None
    except OSError:
        return None


def _option(run: RunRecord, name: str) -> Any:
    return dict_or_empty(dict_or_empty(run.manifest.get("options")).get(name)).get("value")


def _base(run: RunRecord | None, config: dict[str, Any]) -> str:
    name = dict_or_empty(run.manifest.get("model")).get("name") if run else None
    return value_text(name or config.get("base_model_name_or_path"))


def _verified(place: Path) -> bool | None:
    return False if (place / NOT_VERIFIED).exists() else passed(_table(place / PARITY))


def _table(path: Path) -> dict[str, Any]:
    try:
        return dict_or_empty(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
