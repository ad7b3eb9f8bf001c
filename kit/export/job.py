"""A merge as it was asked for: everything that can be wrong with it is found before a weight is read. No torch."""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from envcheck.facts import Finding
from kit.export import adapters, base, gguf_file, shards
from kit.export.adapters import Tuned
from kit.export.base import Base
from kit.models.change import Combination, Weight
from kit.options.methods import PLAIN_UPDATES
from kit.options.option import Door, Typed
from kit.run import checkpoints
from kit.support.errors import USAGE, KitError, did_you_mean, problem
from kit.support.units import GIB

QUANTIZE = "llama-quantize"
BY_LLAMA_CPP = (
    "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq3_s", "iq4_nl", "iq4_xs",
)  # fmt: skip
STEP = "f16"  # what llama-quantize starts from
SPARE = 1.02  # tables, tokenizer, padding


class MergeCommand(Door):
    """Make a plain model of a tuned one, and prove that it answers the same.

    kit merge runs/x -o models/x                          a 16-bit Hugging Face model
    kit merge runs/x -o models/x --to gguf --quant q8_0   a file for llama.cpp and Ollama
    kit merge runs/a -o models/ab --add runs/b=0.5        several adapters in one

    Exit status: 0 written and verified, 1 failed or not verified, 2 wrong usage."""

    door = "merge"

    source: Annotated[Path, Typed(positional=True)]
    """A run folder, or an adapter's folder (LoRA, rsLoRA, DoRA, IA3, MiSS)."""
    output: Annotated[Path, Typed(short="-o")]
    """A new folder for the model."""
    base: str | None = None
    """Folder or name of the base model. Default: the one that the adapter names."""
    base_precision: Literal["auto", "16bit", "nf4"] = "auto"
    """The weights that the adapter is added to. auto: those it was trained on, so nf4 for a run in 4 bit."""
    add: tuple[str, ...] = ()
    """More adapters of the same base, as RUN=weight: --add runs/b=0.5 runs/c=0.3 (lora and rslora)"""
    weight: float = 1.0
    """How much the first adapter counts."""
    combine: Literal["linear", "ties", "dare"] = "linear"
    """How several adapters become one: the weighted sum of their updates, or TIES or DARE."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each update that TIES and DARE keep."""
    to: tuple[Literal["hf", "gguf"], ...] = ("hf",)
    """hf: a folder that transformers and vLLM read; gguf: a file for llama.cpp and Ollama, with a Modelfile."""
    quant: tuple[str, ...] = ("f16",)
    """Number formats of GGUF files, one file each: f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0; with llama-quantize on the
    path also q4_k_m and its like."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the hf model. auto: that of the base."""
    shard_gib: PositiveFloat = 4.0
    """Largest weight file of the hf model."""
    json_output: Annotated[bool, Typed("json")] = False
    """Print the parity record as JSON on standard output."""

    @model_validator(mode="after")
    def _base_is_a_model(self) -> "MergeCommand":
        if self.base in ("16bit", "nf4"):
            raise ValueError(f"--base names the base model. Did you mean --base-precision {self.base}?")
        return self


@dataclass(frozen=True)
class Job:
    """adapters: each with the weight it counts with, the first one first. four_bit: merged into the NF4 base."""

    command: MergeCommand
    adapters: tuple[tuple[Tuned, float], ...]
    base: Base
    four_bit: bool
    trained_in_four_bit: bool | None
    reason: str
    weights: list[Weight]
    findings: tuple[Finding, ...]

    @property
    def first(self) -> Tuned:
        return self.adapters[0][0]

    @property
    def combination(self) -> Combination:
        seed = self.first.run.seed if self.first.run else 0
        return Combination(self.command.combine, self.command.density, seed)

    @property
    def quants(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.command.quant)) if "gguf" in self.command.to else ()

    @property
    def written_quants(self) -> tuple[str, ...]:
        """What is written here; the rest is made of these by llama-quantize."""
        own = [quant for quant in self.quants if quant in gguf_file.TYPES]
        by_others = len(own) < len(self.quants)
        return tuple(dict.fromkeys([*own, *([STEP] if by_others else [])]))

    @property
    def output(self) -> Path:
        return self.command.output.expanduser()


def prepare(command: MergeCommand) -> Job:
    """Raises KitError: no adapter, no base or not its base, an output that is taken, no room on the disk, ..."""
    _check_quants(command)
    _check_output(command.output)
    first = adapters.find_whole(command.source) or adapters.find(command.source)
    if first.is_whole:
        _check_whole(command, first)
    found = ((first, command.weight), *(_added(one) for one in command.add))
    _check_together(command, [adapter for adapter, _ in found])
    model = base.find(command.base or first.base, first)
    for adapter, _ in found:
        base.check_fit(model, adapter)
    if "gguf" in command.to:
        gguf_file.check_config(model.model.config)
    four_bit, trained, reason = _choose(command, first, model)
    weights = model.weights(found, four_bit, first.precision)
    warnings = (base.unknown_family(model), *(base.other_name(model, adapter) for adapter, _ in found))
    job = Job(command, found, model, four_bit, trained, reason, weights, tuple(filter(None, warnings)))
    _check_disk(job)
    return job


def _added(text: str) -> tuple[Tuned, float]:
    name, equals, weight = text.rpartition("=")
    try:
        return adapters.find(Path(name if equals else text)), float(weight) if equals else 1.0
    except ValueError:
        raise KitError(
            problem(
                "option-wrong-value",
                f"--add {text}: {weight} is no number.",
                "It says how much that adapter counts.",
                f"--add {name}=0.5",
            ),
            status=USAGE,
        ) from None


def _check_whole(command: MergeCommand, first: Tuned) -> None:
    """Of what is asked for a run that trained every weight, only another format is left to do."""
    asked = {
        "--to hf": "hf" in command.to,
        "--base": command.base is not None,
        "--base-precision": command.base_precision != "auto",
        "--add": bool(command.add),
        "--weight": command.weight != 1,
    }
    if found := [name for name, is_asked in asked.items() if is_asked]:
        raise KitError(
            problem(
                "run-is-a-whole-model",
                f"{first.path} is a plain Hugging Face model already: {' and '.join(found)} means nothing for it.",
                f"{first.run_folder} trained every weight: there is no adapter to be added to a base.",
                f"python -m kit.merge {first.run_folder} -o {command.output} --to gguf     (for llama.cpp and Ollama)",
                f"cp -r {first.path} {command.output}     (the model as it is, elsewhere)",
            )
        )


def _check_together(command: MergeCommand, found: Sequence[Tuned]) -> None:
    """Raises KitError: a weight or a combination for what is no sum of updates."""
    odd = next((one for one in found if not one.is_whole and not one.method.is_plain_update), None)
    if odd and (command.weight != 1 or len(found) > 1):
        raise KitError(
            problem(
                "merge-of-several-kinds",
                f"{odd.path} is {odd.method.name}, which is merged alone and whole.",
                f"Weights and sums were compared with PEFT for {' and '.join(PLAIN_UPDATES)} only.",
                f"python -m kit.merge {odd.run_folder or odd.path} -o {command.output}",
            ),
            status=USAGE,
        )


def _choose(command: MergeCommand, first: Tuned, model: Base) -> tuple[bool, bool | None, str]:
    """Whether to merge into the NF4 base, whether it was trained on that, and why."""
    trained = first.run.load_in_4bit if first.run else None
    if first.is_whole:
        return False, None, "the run trained every weight of it"
    if model.is_saved_in_four_bit:
        return False, True, "the base is stored in 4 bit: it is dequantised, and no other is here"
    if command.base_precision == "nf4":
        return True, trained, "asked for"
    if command.base_precision == "16bit":
        return False, trained, "asked for"
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


def need_bytes(job: Job) -> int:
    """On the disk, for everything that is written."""
    total = 0
    if "hf" in job.command.to:
        most = int(job.command.shard_gib * GIB)
        total += shards.Shards(job.output, job.weights, job.base, job.command.precision, most).nbytes
    for quant in {*job.quants, *job.written_quants}:
        total += gguf_file.nbytes(job.weights, job.base.model.config, quant if quant in gguf_file.TYPES else "q8_0")
    return int(total * SPARE)


def _check_disk(job: Job) -> None:
    needed, left = need_bytes(job), checkpoints.free_bytes(job.output)
    if left < needed:
        raise KitError(
            problem(
                "disk-too-full",
                f"{job.output} needs {needed / GIB:.2f} GiB; its disk has {left / GIB:.2f} GiB left.",
                "It is checked before, because a model that breaks off is of no use.",
                "free some room, or -o FOLDER on another disk",
                *(["--quant q8_0             (half of f16)"] if "gguf" in job.command.to else []),
            )
        )


def _check_quants(command: MergeCommand) -> None:
    if "gguf" not in command.to:
        return
    if importlib.util.find_spec("gguf") is None:
        raise KitError(
            problem(
                "gguf-not-installed",
                "The package gguf is not installed.",
                "It writes the file, and transformers reads it again with it.",
                "python -m pip install gguf",
            )
        )
    here = ", ".join(gguf_file.TYPES)
    for quant in command.quant:
        if quant in gguf_file.TYPES or (quant in BY_LLAMA_CPP and shutil.which(QUANTIZE)):
            continue
        known = (*gguf_file.TYPES, *BY_LLAMA_CPP)
        missing = quant in BY_LLAMA_CPP
        raise KitError(
            problem(
                "gguf-quant-not-here",
                f"{quant} cannot be written here. {'' if missing else did_you_mean(quant, known)}".rstrip(),
                f"It is made by {QUANTIZE} of llama.cpp, which is not on the path."
                if missing
                else "It is no number format of GGUF files that the kit knows.",
                f"--quant q8_0             (written here without llama.cpp: {here})",
                *([f"install llama.cpp, so that {QUANTIZE} is on the path"] if missing else []),
            ),
            status=USAGE,
        )


def _check_output(path: Path) -> None:
    """A new or empty folder in a place that takes files."""
    path = path.expanduser().absolute()
    if path.is_dir() and not any(path.iterdir()):
        path = path / "new"
    if path.exists() or path.is_symlink():
        raise KitError(
            problem(
                "output-not-empty",
                f"{path} is there already." if not path.is_dir() else f"{path} is not empty.",
                "A model is written into a folder of its own: nothing is overwritten.",
                f"-o {_free_name(path)}",
            )
        )
    existing = next(parent for parent in path.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise KitError(
            problem(
                "output-not-writable",
                f"Nothing can be written to {path}.",
                f"{existing} is {'not writable' if existing.is_dir() else 'a file'}.",
                "-o FOLDER elsewhere",
            )
        )


def _free_name(path: Path) -> Path:
    if not path.name:
        return Path("models/NAME")
    return next(name for number in range(2, 1000) if not (name := path.with_name(f"{path.name}-{number}")).exists())


def gguf_name(job: Job, quant: str) -> str:
    """As the hub names such files: what it is, then the format in capitals."""
    return f"{job.output.absolute().name}-{quant.upper()}.gguf"


def shares(pairs: Sequence[tuple[Tuned, float]]) -> str:
    return " + ".join(f"{weight:g} x {adapter.name}" if weight != 1 else adapter.name for adapter, weight in pairs)
