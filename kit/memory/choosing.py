"""Memory -> the fastest settings that fit: samples at once, attention, what is computed again, what is offloaded."""

from bisect import bisect_left
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kit.memory.activations import OFFLOADED_FROM_LENGTH_TOKENS
from kit.memory.planning import high_bytes, main_memory_high_bytes, shape_of
from kit.memory.shape import Shape
from kit.memory.weights import can_offload_embedding
from kit.options import Run
from kit.support.errors import USAGE, KitError, problem
from kit.support.units import GIB

if TYPE_CHECKING:
    from kit.data import DataReport

CHOSEN = ("micro_batch_size", "attention", "gradient_checkpointing", "embedding_offload")
EAGER_MEDIAN_TOKENS, EAGER_LONGEST_TOKENS = 192, 1024  # faster up to here; benchmarks/results/attention.json
MOST_SAMPLES, MOST_TOKENS = 4096, 1 << 20  # where --fit stops looking
Checkpointing = Literal["off", "on", "unsloth"]
Way = dict[str, str]  # a value for each of CHOSEN but micro_batch_size


def choose(
    config: dict[str, Any],
    run: Run,
    data: "DataReport | None",
    available_bytes: int | None,
    machine_way: Checkpointing = "unsloth",
    main_memory_bytes: int | None = None,
) -> tuple[Run, dict[str, str]]:
    """The run with each of CHOSEN settled, and the reasons: the fastest whose high bound fits, else the smallest.

    Fastest first: nothing computed twice and the most samples at once; then with checkpointing, the most samples. The
    effective batch stays what it is. machine_way: how this machine keeps activations best (envcheck.settings).
    main_memory_bytes: what a run on a card may take of main memory; where that is too little to offload the activations
    of one sample, they stay on the card. None: unknown, and nothing is held against it.
    """
    shape = shape_of(config)
    if available_bytes is None or shape is None:
        way = _plain_settings(run) | (
            {"gradient_checkpointing": machine_way} if run.gradient_checkpointing == "auto" else {}
        )
        why = "the free memory is unknown" if available_bytes is None else "the sizes of this model are unknown"
        return _settled(run, way, min(_sample_counts(run)), dict.fromkeys(CHOSEN, why))
    ways, counts = _ways(shape, run, data, machine_way), _sample_counts(run)
    on_card = [way | {"gradient_checkpointing": "on"} for way in ways if way["gradient_checkpointing"] == "unsloth"]
    available = _Memory(available_bytes, main_memory_bytes)

    def needs(way: Way, samples: int) -> _Memory:
        return _Memory.of(shape, _with(run, way, samples), data)

    def largest_that_fits(way: Way) -> int:
        """Samples at once; 0 where not even the fewest fit."""
        fitting = bisect_left(counts, True, key=lambda samples: not needs(way, samples).fits(available))
        return counts[fitting - 1] if fitting else 0

    for way in (*ways, *(on_card if run.gradient_checkpointing == "auto" else ())):
        if samples := largest_that_fits(way):
            shares = needs(way, samples).share_of(available), needs(ways[0], counts[0]).share_of(available)
            reasons = _reasons(run, way, samples, shares)
            if way in on_card:
                offloaded = needs(way | {"gradient_checkpointing": "unsloth"}, counts[0])
                reasons["gradient_checkpointing"] += f"; kept on the card: offloaded, {offloaded.share_of(available)}"
            return _settled(run, way, samples, reasons)
    need = needs(ways[-1], counts[0]).share_of(available)
    return _settled(run, ways[-1], counts[0], dict.fromkeys(CHOSEN, f"the smallest setting, which needs up to {need}"))


class _Memory(NamedTuple):
    """What a way needs at most, or what may be taken, of the device and of main memory beside it; None: unknown."""

    device_bytes: int
    main_memory_bytes: int | None

    @classmethod
    def of(cls, shape: Shape, run: Run, data: "DataReport | None") -> "_Memory":
        return cls(high_bytes(shape, run, data), main_memory_high_bytes(shape, run, data))

    def fits(self, available: "_Memory") -> bool:
        beside = available.main_memory_bytes is None or (self.main_memory_bytes or 0) <= available.main_memory_bytes
        return self.device_bytes <= available.device_bytes and beside

    def share_of(self, available: "_Memory") -> str:
        """In words."""
        device = f"{self.device_bytes / GIB:.2f} of {available.device_bytes / GIB:.2f} GiB"
        if not self.main_memory_bytes or available.main_memory_bytes is None:
            return device
        beside = f"{self.main_memory_bytes / GIB:.2f} of {available.main_memory_bytes / GIB:.2f} GiB"
        return f"{device} and {beside} of main memory"


def _reasons(run: Run, way: Way, samples: int, shares: tuple[str, str]) -> dict[str, str]:
    """Why each of CHOSEN is as it is. shares: of this way with so many samples, of the fastest with the fewest."""
    this_way, fastest_way = shares
    largest = "the whole step at once" if samples >= run.batch_size else "the most that fit"
    without = f"without it one sample needs up to {fastest_way}"
    recomputes = way["gradient_checkpointing"] != "off"
    reasons = {
        "micro_batch_size": f"{largest}: {this_way} at most",
        "attention": "faster on a CPU for short samples" if way["attention"] == "eager" else "part of torch",
        "gradient_checkpointing": without if recomputes else "nothing is computed twice",
    }
    return reasons | ({"embedding_offload": without} if way["embedding_offload"] == "on" else {})


def fit(
    config: dict[str, Any],
    run: Run,
    available_bytes: int | None,
    machine_way: Checkpointing,
    what: Literal["seq", "batch"],
    main_memory_bytes: int | None = None,
) -> dict[str, Any] | None:
    """The longest max_length_tokens, or the largest micro_batch_size at this one, whose high bound fits, and with which
    settings; 0 where nothing does. None for a model whose sizes are unknown. main_memory_bytes: see `choose`.

    Raises KitError: the memory is unknown.
    """
    if available_bytes is None:
        raise KitError(
            problem(
                "memory-unknown",
                f"--fit {what} needs to know the memory, and it could not be read.",
                "Neither a card nor the free main memory was found.",
                f"--fit {what} --vram-gib 16 --plan",
            ),
            status=USAGE,
        )
    shape = shape_of(config)
    if shape is None:
        return None
    small = _with(run, _ways(shape, run, None, machine_way)[-1], _sample_counts(run)[0])
    name, most = {
        "seq": ("max_length_tokens", config.get("max_position_embeddings") or MOST_TOKENS),
        "batch": ("micro_batch_size", MOST_SAMPLES),
    }[what]

    available = _Memory(available_bytes, main_memory_bytes)

    def is_too_large(value: int) -> bool:
        return not _Memory.of(shape, small.model_copy(update={name: value}), None).fits(available)

    largest = 0  # offloading begins with a length: more may fit from there on than just below
    for values in (range(1, OFFLOADED_FROM_LENGTH_TOKENS), range(OFFLOADED_FROM_LENGTH_TOKENS, most + 1)):
        if fitting := bisect_left(values, True, key=is_too_large):
            largest = values[fitting - 1]
    return {name: getattr(small, name) for name in (*CHOSEN, "max_length_tokens")} | {name: largest, "solved_for": name}


def _ways(shape: Shape, run: Run, data: "DataReport | None", machine_way: Checkpointing) -> list[Way]:
    """What was left open in every combination, fastest first, smallest last."""
    candidates = {
        "embedding_offload": ("off", "on") if can_offload_embedding(shape.tied, run) else ("off",),
        "gradient_checkpointing": ("off", "on" if machine_way == "off" else machine_way),
        "attention": ("eager", "sdpa") if _is_short(run, data) else ("sdpa",),
    }
    values = {
        name: ways if getattr(run, name) == "auto" else (getattr(run, name),) for name, ways in candidates.items()
    }
    return [dict(zip(values, way, strict=True)) for way in product(*values.values())]


def _is_short(run: Run, data: "DataReport | None") -> bool:
    """Whether the attention of a CPU, whose fused kernel is made for long samples, is faster without it."""
    if run.device != "cpu":
        return False
    median, longest = (data.median_tokens, data.longest_tokens) if data else (run.max_length_tokens,) * 2
    return median <= EAGER_MEDIAN_TOKENS and longest <= EAGER_LONGEST_TOKENS


def _plain_settings(run: Run) -> Way:
    """The options that were given, and the plain way of the rest."""
    plain = {"gradient_checkpointing": "off", "attention": "sdpa", "embedding_offload": "off"}
    return {name: way if getattr(run, name) == "auto" else getattr(run, name) for name, way in plain.items()}


def _sample_counts(run: Run) -> range:
    if run.micro_batch_size == "auto":
        return range(1, run.batch_size + 1)
    return range(run.micro_batch_size, run.micro_batch_size + 1)


def _with(run: Run, way: Way, samples: int) -> Run:
    return run.model_copy(update={**way, "micro_batch_size": samples})


def _settled(run: Run, way: Way, samples: int, reasons: dict[str, str]) -> tuple[Run, dict[str, str]]:
    """Only what was left open has a reason."""
    return _with(run, way, samples), {name: reason for name, reason in reasons.items() if getattr(run, name) == "auto"}
