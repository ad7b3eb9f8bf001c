"""The plan of a run: its parts, their sum, the verdict.

A low bound may say "will not fit"; only the high bound says "fits".
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from kit.memory.activations import (
    evaluation_bytes,
    logits_bytes,
    offloaded_bytes,
    padding_bytes_per_token,
    saved_bytes,
    scratch_bytes,
)
from kit.memory.shape import Shape
from kit.memory.trained import trained_params
from kit.memory.weights import (
    adapter_width_bytes,
    base_width_bytes,
    can_offload_embedding,
    head_bytes,
    kept_bytes,
    linear_bytes,
    optimizer_bytes,
)
from kit.options import METHODS, Run
from kit.support.html_table import html_table
from kit.support.units import GIB, gib

if TYPE_CHECKING:
    from kit.data import DataReport

WILL_NOT_FIT: Final = "will not fit"
Verdict = Literal["fits", "tight", "will not fit", "unknown"]
TOLERANCE = 1.1  # of the formula of the activations: 1.00 to 1.05 on a CPU (benchmarks/results/planner.json)
# What a process holds before the model: Python and the libraries on a CPU; on a card kernels and cuBLAS' workspaces
# beyond the CUDA context, which envcheck.settings has taken off already (an estimate, not measured).
PROCESS_BYTES = {"cpu": (0.6 * GIB, 1.9 * GIB), "cuda": (0, 0.5 * GIB)}


@dataclass(frozen=True)
class Part:
    name: str
    low_bytes: int
    high_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a run needs. `verdict` compares the sum of the parts with the memory that may be taken, and that of
    main_memory, which a run on a card needs besides, with main_memory_available_bytes where that is known.

    settings: those that decide the parts. chosen: the settings among them that the kit chose, with the reason, which
    stands in `reasons` too. fit: what --fit found.
    """

    parts: tuple[Part, ...]
    low_bytes: int
    high_bytes: int
    available_bytes: int | None
    verdict: Verdict
    params: int
    trained_params: int
    steps: int | None
    tokens: int | None
    settings: dict[str, Any]
    reasons: tuple[str, ...]
    main_memory: tuple[Part, ...] = ()
    main_memory_available_bytes: int | None = None
    chosen: dict[str, str] = field(default_factory=dict)
    fit: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        parts = (*self.parts, Part("total", self.low_bytes, self.high_bytes))
        rows = [(part.name, gib(part.low_bytes), gib(part.high_bytes)) for part in parts]
        available = "unknown" if self.available_bytes is None else f"{gib(self.available_bytes)} GiB"
        table = html_table(("GiB", "low", "high"), rows, marked={len(self.parts)})
        return f"{table}<p>{self.verdict} (may be used: {available})</p>"


def plan(
    config: dict[str, Any],
    run: Run,
    data: "DataReport | None",
    available_bytes: int | None,
    main_memory_bytes: int | None = None,
) -> Plan | None:
    """The plan of a settled run (see `choose`); None for a config whose sizes are named otherwise.

    Without data, every sample is taken to be max_length_tokens long. available_bytes: of the device;
    main_memory_bytes: what a run on a card may take of main memory; None: unknown.
    """
    shape = shape_of(config)
    if shape is None:
        return None
    length = _longest_tokens(run, data)
    parts = _parts(shape, run, length)
    beside = _main_memory(shape, run, length)
    low, high = _sum_of(parts)
    steps = run.steps(data.samples) if data else run.max_steps
    names = ("micro_batch_size", "batch_size", "attention", "gradient_checkpointing", "embedding_offload", "optimizer",
             "max_length_tokens")  # fmt: skip
    return Plan(
        parts=parts,
        low_bytes=low,
        high_bytes=high,
        available_bytes=available_bytes,
        verdict=_worse(_verdict((low, high), available_bytes), _verdict(_sum_of(beside), main_memory_bytes)),
        params=shape.params,
        trained_params=trained_params(shape, run),
        steps=steps,
        tokens=int(data.tokens / data.samples * steps * run.batch_size) if data and steps else None,
        settings={name: getattr(run, name) for name in names},
        reasons=(*_reasons(shape, run, length, data), *_waiting(beside, main_memory_bytes)),
        main_memory=beside,
        main_memory_available_bytes=main_memory_bytes,
    )


def high_bytes(shape: Shape, run: Run, data: "DataReport | None") -> int:
    """The high bound of a plan alone."""
    return _sum_of(_parts(shape, run, _longest_tokens(run, data)))[1]


def main_memory_high_bytes(shape: Shape, run: Run, data: "DataReport | None") -> int:
    """The same of what a run on a card keeps in main memory."""
    return _sum_of(_main_memory(shape, run, _longest_tokens(run, data)))[1]


def _sum_of(parts: tuple[Part, ...]) -> tuple[int, int]:
    return sum(part.low_bytes for part in parts), sum(part.high_bytes for part in parts)


def _longest_tokens(run: Run, data: "DataReport | None") -> int:
    return data.longest_tokens if data else run.max_length_tokens


def _samples_at_once(run: Run) -> int:
    """Of a settled run."""
    if run.micro_batch_size == "auto":
        raise ValueError("a plan is made of a run whose micro_batch_size is settled")
    return run.micro_batch_size


def shape_of(config: dict[str, Any]) -> Shape | None:
    try:
        return Shape.of(config)
    except (KeyError, TypeError):
        return None


def _verdict(needed_bytes: tuple[int, int], available: int | None) -> Verdict:
    low, high = needed_bytes
    if available is None:
        return "unknown"
    if low > available:
        return WILL_NOT_FIT
    return "fits" if high <= available else "tight"


def _worse(of_device: Verdict, of_main_memory: Verdict) -> Verdict:
    """What fits the card and not main memory does not fit. Main memory that is unknown says nothing."""
    order: tuple[Verdict, ...] = ("fits", "unknown", "tight", WILL_NOT_FIT)
    return of_device if of_main_memory == "unknown" else max(of_device, of_main_memory, key=order.index)


def _parts(shape: Shape, run: Run, length: int) -> tuple[Part, ...]:
    length += run.virtual_tokens if METHODS[run.method].kind == "PROMPT_TUNING" else 0
    tokens = _samples_at_once(run) * length
    logits, scratch = logits_bytes(shape, run, tokens), scratch_bytes(shape, run, tokens, length)
    step = (
        _activations(shape, run, tokens, length),
        Part("logits", *logits),
        _beyond("workspace", "the logits", scratch, logits),
    )
    trained = _trained(shape, run)
    in_step = sum(part.high_bytes for part in step)
    evaluation = evaluation_bytes(shape, run, tokens, length) if run.held_out_rows or run.eval_data else 0
    after_loading = in_step + sum(part.high_bytes for part in trained)
    beyond = (
        _beyond("evaluation", "a step", (0, evaluation), (0, in_step)),
        _beyond("loading", "a step", (0, _loading_bytes(shape, run)), (0, after_loading)),
    )
    process = Part("process", *map(int, PROCESS_BYTES[run.device]))
    aside = (_kept_aside(shape, run),) if run.device == "cpu" else ()
    parts = (*_weights(shape, run), *trained, *step, _around_added_tokens(shape, run), *beyond, *aside, process)
    return tuple(part for part in parts if part.high_bytes)


def _beyond(phase: str, other: str, its_bytes: tuple[int, int], others_bytes: tuple[int, int]) -> Part:
    """(low, high) that a phase takes more than another one, as they never need it at the same time."""
    low, high = (max(0, its - others) for its, others in zip(its_bytes, others_bytes, strict=True))
    return Part(f"{phase}, beyond {other}", low, high)


def _exact(name: str, count_bytes: int) -> Part:
    return Part(name, count_bytes, count_bytes)


def is_embedding_offloaded(shape: Shape, run: Run) -> bool:
    return run.embedding_offload == "on" and can_offload_embedding(shape.tied, run)


def _weights(shape: Shape, run: Run) -> tuple[Part, ...]:
    width = base_width_bytes(run)
    return (
        _exact("4-bit weights" if run.load_in_4bit else "weights", linear_bytes(shape, run)),
        _exact("layers kept in 16 bit", kept_bytes(shape, run)),
        _exact("embedding", 0 if is_embedding_offloaded(shape, run) else width * shape.embedding_params),
        _exact("head", head_bytes(shape, run)),
        _exact("norms", width * shape.other_params),
    )


def _around_added_tokens(shape: Shape, run: Run) -> Part:
    """PEFT puts the trained rows into a copy of the whole head, which has a gradient of its size; two more where a step
    adds chunks of that up, or the embedding's is there at once."""
    if not run.train_added_tokens or METHODS[run.method].trains_whole_model:
        return _exact("copies around added tokens", 0)
    copy = base_width_bytes(run) * shape.embedding_params
    return Part("copies around added tokens", 2 * copy, 4 * copy)


def _kept_aside(shape: Shape, run: Run) -> Part:
    """The preflight copies what is trained into main memory, to bring it back; of an adapter it is next to nothing."""
    copied = METHODS[run.method].trains_whole_model
    return _exact("preflight's copy", adapter_width_bytes(run) * trained_params(shape, run) if copied else 0)


def _loading_bytes(shape: Shape, run: Run) -> int:
    """Beside the quantised weights: one tensor in 16 bit on a card, on a CPU up to the whole checkpoint. Its pages stay
    mapped there and count as resident, but the system takes them back when it needs them: a step does not add them."""
    if not run.load_in_4bit:
        return 0
    if shape.stored and run.device == "cpu":
        return sum(part.high_bytes for part in _weights(shape, run))
    return 2 * (shape.params if run.device == "cpu" else shape.embedding_params)


def _trained(shape: Shape, run: Run) -> tuple[Part, ...]:
    trained = adapter_width_bytes(run) * trained_params(shape, run)
    moments = optimizer_bytes(shape, run)
    stays = 0 if run.optimizer.startswith("paged") else moments  # paged states may move to main memory
    return (
        _exact("adapter", 0 if METHODS[run.method].trains_whole_model else trained),
        _exact("gradients", trained),
        Part("optimizer", stays, moments),
    )


def _activations(shape: Shape, run: Run, tokens: int, length: int) -> Part:
    """High: of padded batches (one sample is never padded), and with the formula's tolerance."""
    saved = saved_bytes(shape, run, tokens, length)
    blocks = shape.layers if run.gradient_checkpointing == "off" else 1
    padding = blocks * tokens * padding_bytes_per_token(shape, run, length) if _samples_at_once(run) > 1 else 0
    return Part("activations", saved, int(TOLERANCE * (saved + padding)))


def _reasons(shape: Shape, run: Run, length: int, data: "DataReport | None") -> tuple[str, ...]:
    longest = "the longest sample of the data" if data else "max_length_tokens: no data was given"
    reasons = [
        f"one micro-batch is {run.micro_batch_size} x {length} tokens ({longest})",
        f"one optimiser step takes {run.batch_size} samples, shorter ones together up to as many tokens at once",
    ]
    if shape.kept_params:
        layers, kept = len(shape.kept) * shape.layers, sum(shape.kept.values())
        reasons.append(f"{kept} of {layers} linear layers are in 16 bit, as the model's quantization_config says")
    if shape.experts:
        reasons.append("the experts are planned as 4-bit layers with adapters; loaders that fuse them take more")
    return tuple(reasons)


def _main_memory(shape: Shape, run: Run, length: int) -> tuple[Part, ...]:
    """What waits in main memory until the card needs it."""
    embedding = base_width_bytes(run) * shape.embedding_params if is_embedding_offloaded(shape, run) else 0
    activations = Part("activations", *offloaded_bytes(shape, run, _samples_at_once(run) * length))
    aside = (_kept_aside(shape, run),) if run.device == "cuda" else ()
    return tuple(part for part in (activations, _exact("embedding", embedding), *aside) if part.high_bytes)


def _waiting(parts: tuple[Part, ...], available: int | None) -> Iterator[str]:
    """What is planned for main memory, in words."""
    may_be_used = "how much of it is free is unknown" if available is None else f"{gib(available)} GiB may be used"
    for part in parts:
        pinned = f", {gib(part.high_bytes)} as torch pins them" if part.high_bytes > part.low_bytes else ""
        yield f"{gib(part.low_bytes)} GiB of {part.name} wait in main memory{pinned}; {may_be_used}"


def with_reasons(made: Plan, chosen: dict[str, str], fit: dict[str, Any] | None = None) -> Plan:
    """The plan with what was chosen for it and why."""
    choices = tuple(f"{name} {made.settings[name]}: {reason}" for name, reason in chosen.items())
    return replace(made, reasons=choices + made.reasons, chosen=chosen, fit=fit)
