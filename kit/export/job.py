"""A merge as it was asked for: everything that can be wrong with it is found before a weight is read. No torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from envcheck.facts import Finding
from kit import models
from kit.export import gguf_file, llama_cpp, quants, shards
from kit.export.base import Base, check_fit, find_base, other_name, unknown_family
from kit.export.options import MergeCommand
from kit.export.shards import ShardPlan
from kit.export.tuned_model import Tuned, find_adapter, find_whole_model
from kit.models import Model, ModelNotHere, quantised
from kit.models.change import Combination, Weight
from kit.options.methods import PLAIN_UPDATES
from kit.run import checkpoints
from kit.support.errors import USAGE, failure
from kit.support.file_names import check_names
from kit.support.files import free_name, nearest_existing
from kit.support.units import GIB
from kit.support.user_shell import quoted, shell

SPARE = 1.02  # tables, tokenizer, padding


@dataclass(frozen=True)
class Job:
    """adapters: each with the weight it counts with, the first one first. four_bit: merged into the NF4 base.

    trained_on: where the base of training lies, to be compared with, if it is another one or in other bits, and here.
    shard_plan: the files of the 16-bit model; None: it is not asked for. quants: of the GGUF files.
    """

    adapters: tuple[tuple[Tuned, float], ...]
    base: Base
    four_bit: bool
    trained_in_four_bit: bool | None
    trained_on: Path | None
    reason: str
    weights: list[Weight]
    combination: Combination
    shard_plan: ShardPlan | None
    quants: tuple[str, ...]
    output: Path
    findings: tuple[Finding, ...]

    @property
    def first(self) -> Tuned:
        return self.adapters[0][0]

    @property
    def name(self) -> str:
        """Of what is made."""
        return self.output.absolute().name

    @property
    def gguf_names(self) -> dict[str, str]:
        """Quant -> file, as the hub names such files: what it is, then the format in capitals."""
        return {quant: f"{self.name}-{quant.upper()}.gguf" for quant in self.quants}

    @property
    def need_bytes(self) -> int:
        """On the disk, for everything that is written."""
        total = self.shard_plan.nbytes if self.shard_plan else 0
        for quant in {*self.quants, *quants.written_here(self.quants)}:
            as_here = quant if quant in gguf_file.TYPES else "q8_0"
            total += gguf_file.nbytes(self.weights, self.base.model.config, as_here)
        return int(total * SPARE)


def prepare(command: MergeCommand) -> Job:
    """Raises KitError: no adapter, no base or not its base, an output that is taken, no room on the disk, ..."""
    if "gguf" in command.to:
        quants.check(command.quant)
    if command.prove == "llama.cpp":
        llama_cpp.check_here()
    _check_output(command.output)
    first = find_whole_model(command.source) or find_adapter(command.source)
    if first.is_whole:
        _check_whole(command, first)
    tuned = ((first, command.weight), *map(_added, command.add))
    _check_together(command, [adapter for adapter, _ in tuned])
    base = find_base(_base_name(command, first), first)
    for adapter, _ in tuned:
        check_fit(base, adapter)
    if "gguf" in command.to:
        gguf_file.check_config(base.model.config)
    stored = None if base.is_saved_in_four_bit else _stored_in_4bit(first)
    four_bit, trained_in_four_bit, reason = _choose(command.base_precision, first, base, stored is not None)
    weights = base.weights(tuned, four_bit, first.precision)
    warnings = (unknown_family(base), *(other_name(base, adapter) for adapter, _ in tuned))
    most_bytes = int(command.shard_gib * GIB)
    job = Job(
        adapters=tuned,
        base=base,
        four_bit=four_bit,
        trained_in_four_bit=trained_in_four_bit,
        trained_on=_other_than(base, four_bit, stored, trained_in_four_bit),
        reason=reason,
        weights=weights,
        combination=Combination(command.combine, command.density, first.run.seed if first.run else 0),
        shard_plan=shards.plan(weights, base, command.precision, most_bytes) if "hf" in command.to else None,
        quants=tuple(dict.fromkeys(command.quant)) if "gguf" in command.to else (),
        output=command.output.expanduser(),
        findings=tuple(filter(None, warnings)),
    )
    _check_disk(job.output, job.need_bytes, bool(job.quants))
    return job


def _added(text: str) -> tuple[Tuned, float]:
    name, equals, weight = text.rpartition("=")
    try:
        return find_adapter(Path(name if equals else text)), float(weight) if equals else 1.0
    except ValueError:
        raise failure(
            "option-wrong-value",
            f"--add {text}: {weight} is not a number.",
            "It says how much that adapter counts.",
            f"--add {name}=0.5",
            status=USAGE,
        ) from None


def _check_whole(command: MergeCommand, first: Tuned) -> None:
    """Of what is asked for a run that trained every weight, only another format is left to do."""
    given = {
        "--to hf": "hf" in command.to,
        "--base": command.base is not None,
        "--base-precision": command.base_precision != "auto",
        "--add": bool(command.add),
        "--weight": command.weight != 1,
    }
    if useless := [name for name, is_given in given.items() if is_given]:
        raise failure(
            "run-is-a-whole-model",
            f"{first.path} is a plain Hugging Face model already: {' and '.join(useless)} means nothing for it.",
            f"{first.run_folder} trained every weight: there is no adapter to be added to a base.",
            f"python -m kit.merge {quoted(command.source)} -o {quoted(command.output)} --to gguf     (for llama.cpp)",
            f"{shell().copy(str(first.path), str(command.output))}     (the model as it is, elsewhere)",
        )


def _check_together(command: MergeCommand, tuned: Sequence[Tuned]) -> None:
    """Raises KitError: a weight or a combination for what is no sum of updates."""
    alone = next((one for one in tuned if not one.is_whole and not one.method.is_plain_update), None)
    if rows := next((one for one in tuned if one.trains_tokens and (command.weight != 1 or len(tuned) > 1)), None):
        raise failure(
            "merge-of-added-tokens",
            f"{rows.path} holds trained vectors of tokens, and is merged alone and whole.",
            "They stand in the embedding instead of the base's: they have no sum with others, and no share.",
            f"python -m kit.merge {quoted(rows.run_folder or rows.path)} -o {quoted(command.output)}",
            status=USAGE,
        )
    if alone and (command.weight != 1 or len(tuned) > 1):
        raise failure(
            "merge-of-several-kinds",
            f"{alone.path} is {alone.method.name}, which is merged alone and whole.",
            f"Weights and sums were compared with PEFT for {' and '.join(PLAIN_UPDATES)} only.",
            f"python -m kit.merge {quoted(alone.run_folder or alone.path)} -o {quoted(command.output)}",
            status=USAGE,
        )


def _base_name(command: MergeCommand, first: Tuned) -> str:
    """Of the model that the adapter is added to. Where 16 bit is asked for and it was trained on a model that is stored
    in 4, that is the one which this was made from.

    Raises KitError: 16 bit of a model that is stored in 4 bit, and nothing tells which one it was made from.
    """
    name = command.base or first.base
    if command.base_precision != "16bit" or not name or first.is_whole:
        return name
    try:
        model = models.find(name, "--base")
        if model.original and not command.base:
            name = model.original
            model = models.find(name, "--base")
    except ModelNotHere:
        return name  # which find_base says, with what the adapter was trained on
    as_stored = "--base-precision nf4        (its weights as they are, dequantised)"
    quantised.check_asked(name, model.config, False, "--base", as_stored)
    return name


def _stored_in_4bit(first: Tuned) -> Model | None:
    """The model that the adapter was trained on, if its weights lie in 4 bit in its files; by its name, if it is not on
    this machine."""
    if first.is_whole or not first.base:
        return None
    model = models.find_here(first.base) or Model(first.base, first.base, {}, {})
    return model if model.stored_nf4 or (not model.files and quantised.says_nf4(first.base)) else None


def _other_than(base: Base, four_bit: bool, stored: Model | None, trained_in_four_bit: bool | None) -> Path | None:
    """The folder of what was trained on, where it is not what is merged into."""
    if stored:
        return stored.folder
    is_other = trained_in_four_bit not in (None, four_bit or base.is_saved_in_four_bit)
    return base.folder if is_other else None


def _choose(asked: str, first: Tuned, base: Base, is_stored: bool) -> tuple[bool, bool | None, str]:
    """Whether to merge into the NF4 base, whether it was trained on that, and why. is_stored: it was trained on another
    model, which is stored in 4 bit."""
    trained = first.run.load_in_4bit if first.run else None
    if first.is_whole:
        return False, None, "the run trained every weight of it"
    if base.is_saved_in_four_bit:
        original = f"; --base-precision 16bit takes {base.model.original}" if base.model.original else ""
        return False, True, f"its weights are stored in 4 bit and dequantised{original}"
    if is_stored:
        why = f"the adapter was trained on {first.base}, which is stored in 4 bit"
        return asked == "nf4", True, f"{'asked for' if asked != 'auto' else 'it is in 16 bit'}; {why}"
    if asked != "auto":
        return asked == "nf4", trained, "asked for"
    if trained is None:
        return (
            False,
            None,
            "it is not known what the adapter was trained on (no run folder); --base-precision nf4 for QLoRA",
        )
    if trained:
        why = "the run trained on the base in 4 bit (NF4), and learnt to make up for what that rounds away"
        return True, True, f"{why}; --base-precision 16bit takes the weights as published"
    return False, False, "the run trained on the 16-bit base"


def _check_disk(output: Path, need_bytes: int, with_gguf: bool) -> None:
    left_bytes = checkpoints.free_bytes(output)
    if left_bytes < need_bytes:
        raise failure(
            "disk-too-full",
            f"{output} needs {need_bytes / GIB:.2f} GiB; its disk has {left_bytes / GIB:.2f} GiB left.",
            "It is checked before, because a model that breaks off is of no use.",
            "free some room, or -o FOLDER on another disk",
            *(["--quant q8_0             (half of f16)"] if with_gguf else []),
        )


def _check_output(path: Path) -> None:
    """A new or empty folder in a place that takes files."""
    check_names(path, "-o")
    path = path.expanduser().absolute()
    if path.is_dir() and not any(path.iterdir()):
        path = path / "new"
    if path.exists() or path.is_symlink():
        raise failure(
            "output-not-empty",
            f"{path} is there already." if not path.is_dir() else f"{path} is not empty.",
            "A model is written into a folder of its own: nothing is overwritten.",
            f"-o {quoted(free_name(path))}",
        )
    existing = nearest_existing(path)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise failure(
            "output-not-writable",
            f"Nothing can be written to {path}.",
            f"{existing} is {'not writable' if existing.is_dir() else 'a file'}.",
            "-o FOLDER elsewhere",
        )
