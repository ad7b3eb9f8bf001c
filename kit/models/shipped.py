"""The sizes of published models that the kit brings along: a plan needs no more, and so neither network nor weights."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.models.packaged import PACKAGED

SHAPES = Path(__file__).parent / "assets" / "shapes.toml"


@dataclass(frozen=True)
class ShippedShape:
    """Of the model of that name on the hub. config: the keys of its config.json that decide its sizes; parameters: with
    tied weights once; source: the public repository that the numbers were read from."""

    name: str
    licence: str
    source: str
    parameters: int
    config: dict[str, Any]

    @property
    def repository(self) -> str:
        return self.source.partition("@")[0]


@functools.cache
def shipped_shapes() -> dict[str, ShippedShape]:
    """Name on the hub -> shape."""
    return {name: ShippedShape(name, **about) for name, about in tomllib.loads(SHAPES.read_text("utf-8")).items()}


def shipped_shape(name: str) -> ShippedShape | None:
    """By a name that --model takes."""
    return shipped_shapes().get(PACKAGED[name].hub_name if name in PACKAGED else name)
