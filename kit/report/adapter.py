"""What an adapter learnt: the update dW = scale * B A of each layer, its size beside the weight, and its rank.

The singular values of dW come from its factors: B = Qb Rb and A^T = Qa Ra, so dW = scale * Qb (Rb Ra^T) Qa^T, and the
singular values are those of the small matrix Rb Ra^T. All in float64.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy
from threadpoolctl import threadpool_limits

from kit import models
from kit.models import adapters, headers
from kit.models.adapters import CONFIG, WEIGHTS, Pair
from kit.models.headers import Tensor
from kit.options import methods
from kit.report import arrays

MOST = 1e100  # its square is still a number
HELD = 0.99  # share of the update's energy that the advice asks for


@dataclass(frozen=True)
class LearntUpdate:
    """One layer's dW.

    norm: |dW|_F. share: |dW|_F / |W|_F, None where the base's weight cannot be read. effective_rank: exp of the entropy
    of the singular values, normalised to a sum of 1 (Roy and Vetterli, The effective rank, EUSIPCO 2007).
    """

    layer: int | None
    projection: str
    rank: int
    norm: float
    share: float | None
    singular_values: tuple[float, ...]
    effective_rank: float


@dataclass(frozen=True)
class Learnt:
    """The updates of an adapter, and in words what is not among them."""

    updates: tuple[LearntUpdate, ...]
    notes: tuple[str, ...]

    @property
    def rank(self) -> int:
        return max(update.rank for update in self.updates)

    def energy(self, rank: int) -> float:
        """Share of the sum of |dW|_F^2 that the best approximation of that rank of each layer keeps (Eckart-Young)."""
        kept = math.fsum(value**2 for update in self.updates for value in update.singular_values[:rank])
        whole = math.fsum(value**2 for update in self.updates for value in update.singular_values)
        return kept / whole if whole else 1.0

    def rank_for(self, share: float) -> int:
        """The lowest rank of all layers that keeps that share of the energy."""
        return next((rank for rank in range(1, self.rank) if self.energy(rank) >= share), self.rank)

    @property
    def is_nothing(self) -> bool:
        return not any(update.norm for update in self.updates)

    def advice(self) -> tuple[str, ...]:
        """What follows for the next run, in words."""
        if self.is_nothing:
            return ("The adapter changes nothing: every update is zero.",)
        enough, held_pct = self.rank_for(HELD), 100 * HELD
        lines = [f"Rank {enough} would have held {held_pct:.0f} % of this update, which has rank {self.rank}."]
        smaller = 1 << (enough - 1).bit_length()
        if 2 * smaller <= self.rank:
            lines.append(f"Next time: --lora-rank {smaller}. It is smaller and faster; compare the held-out losses.")
        elif enough > 3 * self.rank / 4:
            lines.append(f"It uses its rank: --lora-rank {2 * self.rank} may learn more; compare the held-out losses.")
        else:
            lines.append("That is near the rank it has: keep it.")
        return (*lines, self._where())

    def _where(self) -> str:
        """The projections that changed most and least."""
        sizes: dict[str, list[float]] = {}
        for update, size in zip(self.updates, self.sizes, strict=True):
            sizes.setdefault(update.projection, []).append(size)
        medians = {name: median(of_layers) for name, of_layers in sizes.items()}
        most, least = max(medians, key=lambda name: medians[name]), min(medians, key=lambda name: medians[name])
        words = {name: self._size_text(medians[name]) for name in (most, least)}
        if most == least:
            return f"Median update: {words[most]}."
        return f"{most} changed most (median {words[most]}), {least} least ({words[least]})."

    @property
    def has_shares(self) -> bool:
        """Whether the base's weights could be read, so that sizes are shares of them."""
        return all(update.share is not None for update in self.updates)

    @property
    def sizes(self) -> list[float]:
        """Of each update: its share of the weight or, where that is not known, its norm."""
        shares = [update.share for update in self.updates if update.share is not None]
        return shares if self.has_shares else [update.norm for update in self.updates]

    def _size_text(self, size: float) -> str:
        return f"{100 * size:.2g} % of the weight" if self.has_shares else f"norm {size:.2g}"

    def to_json(self) -> dict[str, Any]:
        ranks = {"rank": self.rank, "rank_for_99_pct": self.rank_for(HELD)}
        return {
            **ranks,
            "advice": self.advice(),
            "notes": self.notes,
            "updates": [asdict(update) for update in self.updates],
        }


def learnt(folder: Path, base: Path | None = None) -> Learnt:
    """The updates of the PEFT adapter in a folder; base: the folder of its base model, else the one it names itself.

    Raises ValueError: no such adapter, broken, or of another kind; OSError: not readable.
    """
    config = _config(folder / CONFIG)
    if config.get("peft_type", "LORA") != "LORA" or config.get("use_dora"):
        raise ValueError(
            f"only plain LoRA is looked at, not {'DoRA' if config.get('use_dora') else config['peft_type']}"
        )
    pairs, others = _linear(*adapters.pairs_in(headers.headers(folder / WEIGHTS)))
    if not pairs:
        raise ValueError(f"{WEIGHTS} holds no LoRA update of a linear layer")
    base = base or _base_folder(str(config.get("base_model_name_or_path") or ""))
    weights, why_not = _base_weights(base)
    with threadpool_limits(1, user_api="blas"):  # on matrices as small as these threads only wait for each other
        updates = tuple(_update(name, pair, config, weights.get(f"{name}.weight")) for name, pair in pairs.items())
    if not why_not and all(update.share is None for update in updates):
        why_not = "the base's weights are stored in 4 or 8 bit, or under other names"
    notes = [f"no share of the weight: {why_not}"] if why_not else []
    notes += [f"{len(others)} further tensors, such as {min(others)}, are not looked at"] if others else []
    return Learnt(updates, tuple(notes))


def held(folder: Path) -> str:
    """In a line what an adapter of another kind, or a whole model, holds; "" where `learnt` says more.

    Raises ValueError: broken; OSError: not readable.
    """
    whole = not (folder / CONFIG).is_file()
    config = {} if whole else _config(folder / CONFIG)
    method = methods.FULL if whole else methods.method_of(config)
    if not method or method.is_plain_update:
        return ""
    files = folder.glob("*.safetensors") if whole else [folder / WEIGHTS]
    found = {name: tensor for file in files for name, tensor in headers.headers(file).items()}
    count = sum(math.prod(tensor.shape) for tensor in found.values())
    what = "every weight of the model," if whole else "the adapter holds"
    return (
        f"Trained with --method {method.name}: {what} {count:,} numbers. Singular values are shown for "
        f"{' and '.join(methods.PLAIN_UPDATES)}, whose updates are products of two small matrices."
    )


def _config(path: Path) -> dict[str, Any]:
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} holds no object")
    return config


def _linear(pairs: dict[str, Pair], others: list[str]) -> tuple[dict[str, Pair], list[str]]:
    """The pairs that are two matrices, and the names of all other tensors."""
    linear = {layer: pair for layer, pair in pairs.items() if len(pair.a.shape) == len(pair.b.shape) == 2}
    left = [tensor.name for layer, pair in pairs.items() if layer not in linear for tensor in (pair.a, pair.b)]
    return linear, others + left


def _update(name: str, pair: Pair, config: dict[str, Any], weight: Tensor | None) -> LearntUpdate:
    a, b = pair.a, pair.b
    if not pair.rank or pair.rank != b.shape[1]:
        raise ValueError(f"the factors of {name} do not fit: A is {a.shape}, B is {b.shape}")
    sizes = _singular_values(arrays.values(a), arrays.values(b), adapters.scale(config, name, pair.rank))
    if not (sizes < MOST).all():
        raise ValueError(f"the update of {name} holds a number that is not finite")
    norm = math.sqrt(math.fsum(sizes**2))
    shape = (b.shape[0], a.shape[1])
    fits = weight is not None and arrays.is_readable(weight) and sorted(weight.shape) == sorted(shape)
    of_weight = arrays.norm(weight) if weight and fits else 0.0
    parts = name.split(".")
    return LearntUpdate(
        layer=next((int(part) for part in parts if part.isdecimal()), None),
        projection=parts[-1],
        rank=pair.rank,
        norm=norm,
        share=norm / of_weight if of_weight else None,
        singular_values=tuple(map(float, sizes)),
        effective_rank=effective_rank(sizes),
    )


def _singular_values(a: numpy.ndarray, b: numpy.ndarray, scale: float) -> numpy.ndarray:
    if not (numpy.isfinite(a).all() and numpy.isfinite(b).all()):
        return numpy.array([math.nan])
    right: numpy.ndarray = numpy.linalg.qr(a.T, mode="r")  # type: ignore[assignment]  # as numpy has it for this mode
    left: numpy.ndarray = numpy.linalg.qr(b, mode="r")  # type: ignore[assignment]
    return abs(scale) * numpy.linalg.svd(left @ right.T, compute_uv=False)


def effective_rank(singular_values: Iterable[float]) -> float:
    """exp of the entropy of the normalised singular values; 0 where all are zero."""
    sizes = numpy.asarray(singular_values, dtype=float)
    if not sizes.sum():
        return 0.0
    shares = sizes[sizes > 0] / sizes.sum()
    return float(numpy.exp(-(shares * numpy.log(shares)).sum()))


def _base_folder(name: str) -> Path | None:
    """The base model on this machine; the hub is not asked."""
    if Path(name).is_dir():
        return Path(name)
    if Path(name).parts[-3:] == models.TINY.parts[-3:]:  # of the kit, wherever that was when the run was made
        return models.TINY
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _base_weights(folder: Path | None) -> tuple[dict[str, Tensor], str]:
    """The base's tensors by name, and why there are none."""
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if not files:
        return {}, "the base model's weights are not on this machine"
    found: dict[str, Tensor] = {}
    try:
        for file in files:
            found |= headers.headers(file)
    except headers.Unreadable as error:
        return {}, f"the base model's weights cannot be read ({error})"
    return found, ""
