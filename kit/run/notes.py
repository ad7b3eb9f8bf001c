"""What the user should know before a run begins."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from envcheck import other_gpus
from kit.memory import WILL_NOT_FIT, can_offload_embedding, disagreement
from kit.models import Model, families
from kit.options import Run, TrainCommand
from kit.options.methods import TAKEN_BY
from kit.run import trackers
from kit.run.prepared import Planned
from kit.support import environment
from kit.support.units import gib

if TYPE_CHECKING:
    from kit.backend import Backend


def collect_notes(planned: Planned, backend: "Backend", different: dict[str, str] | None) -> list[str]:
    """Every fallback and every setting that costs something, in words; different: see RunFolder."""
    run, model = planned.run, planned.model
    notes: list[str] = []
    if different:
        changes = "; ".join(f"{name}: {change}" for name, change in different.items())
        notes.append(f"going on with another run than it began (--resume-anyway): {changes}")
    for name, methods in TAKEN_BY.items():
        if run.method not in methods and _was_asked_for(planned.command, name):
            notes.append(f"{name} has no effect: it is for --method {', '.join(methods)}, and this is {run.method}.")
    if backend.name == "hf" and run.backend == "auto":
        notes.append(f"{backend.reason}. Going on with plain transformers and PEFT (--backend hf).")
    notes += backend.notes
    if run.precision == "fp32" and _offloads(run, backend) and environment.rounds_offloaded(os.environ):
        notes.append(
            f"{environment.OFFLOADED_FP32} is set: activations that wait in main memory are rounded to bf16, so this "
            "is no run in fp32. Unset it, or --gradient-checkpointing on."
        )
    notes += [*_taken_since(planned, backend), *other_gpus.notes(planned.facts)]
    has_layers = model.config.get("model_type") in families.WITH_UNSLOTH_LAYERS
    if run.device == "cuda" and backend.name == "unsloth" and not has_layers:
        notes.append(
            f"Unsloth has no layers of its own for {families.name_of(model.config)} and compiles those of "
            "transformers: minutes in the first step, and other memory than planned. --backend hf compiles nothing."
        )
    if run.report_to != trackers.NONE:
        notes.append(trackers.note(run.report_to, planned.output))
    is_tied = bool(model.config.get("tie_word_embeddings"))
    if run.embedding_offload == "on" and not can_offload_embedding(is_tied, run):
        notes.append("embedding_offload has no effect: it is for Unsloth on a card and models with a head of its own.")
    positions = model.config.get("max_position_embeddings", run.max_length_tokens)
    if run.max_length_tokens > positions:
        notes.append(f"{model.name} was trained on {positions} positions: tokens beyond them are new to it.")
    if planned.plan is None:
        notes.append(unknown_sizes(model))
    elif planned.plan.verdict == WILL_NOT_FIT:
        notes.append("The plan says that this will not fit; trying all the same.")
    return notes


def unknown_sizes(model: Model) -> str:
    """For a model without a plan."""
    if differs := disagreement(model):
        return f"The sizes of {model.name} are not known to the planner: {differs}. Nothing is said about memory."
    family = families.name_of(model.config)
    return f"The sizes of this model are not known to the planner ({family}): nothing is said about memory."


def _taken_since(planned: Planned, backend: "Backend") -> Iterator[str]:
    """The card is read before the libraries start, which takes a while, and again then."""
    room = planned.plan.available_bytes if planned.plan else None
    if room is not None and backend.card_bytes is not None and backend.card_bytes < room:
        yield (
            f"{gib(backend.card_bytes)} GiB of the card are free now, and the plan has {gib(room)}: something else "
            "began to use it (nvidia-smi names it). Close that, or stop and start again: then less is planned with."
        )


def _offloads(run: Run, backend: "Backend") -> bool:
    return run.device == "cuda" and backend.name == "unsloth" and run.gradient_checkpointing == "unsloth"


def _was_asked_for(command: TrainCommand, name: str) -> bool:
    """With a flag, or in a file, which may also repeat the default."""
    origin = command.origins.get(name, "default")
    is_other = getattr(command.run, name) != Run.model_fields[name].default
    return origin in ("flag", "call") or (origin.startswith("file") and is_other)
