"""Memory -> the fastest settings that fit: how many samples at once, and whether activations are computed again."""

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Literal

from kit.errors import USAGE, KitError, problem
from kit.memory.planning import GIB, plan, shape_of
from kit.options import Run

if TYPE_CHECKING:
    from kit.data import DataReport

CHOSEN = ("micro_batch_size", "gradient_checkpointing")
MOST_SAMPLES, MOST_TOKENS = 4096, 1 << 20  # where --fit stops looking
Checkpointing = Literal["off", "on", "unsloth"]


def choose(
    config: dict[str, Any],
    run: Run,
    data: "DataReport | None",
    available_bytes: int | None,
    machine_way: Checkpointing = "unsloth",
) -> tuple[Run, dict[str, str]]:
    """The run with each of CHOSEN settled, and the reasons: the fastest whose high bound fits, else the smallest.

    Fastest first: nothing computed twice and the most samples at once; then with checkpointing, the most samples. The
    effective batch stays what it is. machine_way: how this machine keeps activations best (envcheck.settings).
    """
    ways, most = _ways(run, machine_way), _most_samples(run)
    if available_bytes is None or shape_of(config) is None:
        way = run.gradient_checkpointing if run.gradient_checkpointing != "auto" else machine_way
        why = "the free memory is unknown" if available_bytes is None else "the sizes of this model are unknown"
        return _settled(run, way, min(most), dict.fromkeys(CHOSEN, why))

    def high_bytes(way: Checkpointing, samples: int) -> int:
        return plan(config, _with(run, way, samples), data, None).high_bytes

    room = f"{available_bytes / GIB:.2f} GiB"
    for way in ways:
        count = bisect_left(most, True, key=lambda samples, way=way: high_bytes(way, samples) > available_bytes)
        if count:
            samples = most[count - 1]
            need = f"{high_bytes(way, samples) / GIB:.2f} of {room}"
            largest = "the whole step at once" if samples >= run.batch_size else "the most that fit"
            return _settled(run, way, samples, {
                "micro_batch_size": f"{largest}: {need} at most",
                "gradient_checkpointing": "nothing is computed twice" if way == "off"
                else f"without it one sample needs up to {high_bytes('off', most[0]) / GIB:.2f} of {room}",
            })  # fmt: skip
    need = high_bytes(ways[-1], most[0])
    smallest = f"the smallest setting, which needs up to {need / GIB:.2f} of {room}"
    return _settled(run, ways[-1], most[0], dict.fromkeys(CHOSEN, smallest))


def fit(
    config: dict[str, Any],
    run: Run,
    available_bytes: int | None,
    machine_way: Checkpointing,
    what: Literal["seq", "batch"],
) -> dict[str, Any] | None:
    """The longest max_length_tokens, or the largest micro_batch_size at this one, whose high bound fits, and with which
    settings; 0 where nothing does. None for a model whose sizes are unknown.

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
    if shape_of(config) is None:
        return None
    small = _with(run, _ways(run, machine_way)[-1], _most_samples(run)[0])
    name, most = {
        "seq": ("max_length_tokens", config.get("max_position_embeddings") or MOST_TOKENS),
        "batch": ("micro_batch_size", MOST_SAMPLES),
    }[what]

    def too_large(value: int) -> bool:
        return plan(config, small.model_copy(update={name: value}), None, None).high_bytes > available_bytes

    found = bisect_left(range(1, most + 1), True, key=too_large)
    return {name: getattr(small, name) for name in (*CHOSEN, "max_length_tokens")} | {name: found, "solved_for": name}


def _ways(run: Run, machine_way: Checkpointing) -> tuple[Checkpointing, ...]:
    """Fastest first, smallest last."""
    if run.gradient_checkpointing != "auto":
        return (run.gradient_checkpointing,)
    return ("off", "on" if machine_way == "off" else machine_way)


def _most_samples(run: Run) -> range:
    if run.micro_batch_size == "auto":
        return range(1, run.batch_size + 1)
    return range(run.micro_batch_size, run.micro_batch_size + 1)


def _with(run: Run, way: Checkpointing, samples: int) -> Run:
    return run.model_copy(update={"gradient_checkpointing": way, "micro_batch_size": samples})


def _settled(run: Run, way: Checkpointing, samples: int, reasons: dict[str, str]) -> tuple[Run, dict[str, str]]:
    """Only what was left open has a reason."""
    return _with(run, way, samples), {name: reason for name, reason in reasons.items() if getattr(run, name) == "auto"}
