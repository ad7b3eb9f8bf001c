"""A stranger's config.json may name code: a kernel on the hub, which would be fetched and run instead of torch's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.support.errors import KitError, problem

# which attention and which experts compute: the public fields, and transformers' own, which it never writes
FIELDS = frozenset(
    f"{before}{what}_implementation{after}"
    for what in ("attn", "experts")
    for before, after in (("", ""), ("_", ""), ("_", "_internal"))
)


def refuse_code(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The config of this file. Raises KitError: it names code on the hub, itself or in the config of a part.

    Names without a slash are ways that the libraries have themselves: the kit's own choice goes before them.
    """
    named = [f"{field} = {text}" for field, value in _fields(config) for text in _texts(value) if "/" in text]
    if not named:
        return config
    raise KitError(
        problem(
            "model-names-code",
            f"{path} names code that is not the model's weights: {', '.join(named)}.",
            "It would be fetched from the hub and run. The kit runs no code that a model brings or names.",
            f"take {' and '.join(sorted({text.partition(' ')[0] for text in named}))} out of {path}",
            "--model of an owner whom you trust",
        )
    )


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in FIELDS:
                yield name, inner
            else:
                yield from _fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner)


def _texts(value: Any) -> list[str]:
    """One for the whole model, or one for each part of it."""
    values = value.values() if isinstance(value, dict) else [value]
    return [text for text in values if isinstance(text, str)]
