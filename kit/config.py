"""Every option of a run, written once: a field of `Run` is the flag, the key in a file, the help and the default.

`load` joins preset, file and flags, in that order, and remembers where each value came from.
"""

import argparse
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from envcheck import settings
from envcheck.facts import Facts, Finding
from kit.errors import USAGE, KitError, nearest, problem

PRESETS = Path(__file__).parent / "presets"
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Run(BaseModel):
    """One fine-tuning run, complete: two runs with equal options on equal data are the same run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = "auto"
    """Starting values: cpu, rtx5080, or auto (by the machine)."""
    model: str = "tiny"
    """A folder, a name on the hub (owner/name), or `tiny`, the small model that comes with the kit."""
    data: Path | None = None
    """Training rows: a .jsonl or .json file of chat messages, Alpaca, question/answer or prompt/completion rows."""
    output: Path | None = None
    """Run folder. Default: runs/<data>-<model>."""

    backend: Literal["auto", "unsloth", "hf"] = "auto"
    """Who loads and adapts the model. auto: Unsloth, or plain transformers + PEFT where Unsloth cannot start."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train. auto: the graphics card where torch can use one, else the CPU."""
    load_in_4bit: bool = True
    """Base weights in 4-bit NF4 with double quantisation (QLoRA); off: 16 bit."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the arithmetic. auto: bf16 where the machine computes it natively."""
    template: str = "auto"
    """Chat template: auto (the model's own), or a name from templates/."""
    max_length_tokens: PositiveInt = 1024
    """Longest sample. Longer ones are never cut: see --long-rows."""
    long_rows: Literal["stop", "drop"] = "stop"
    """Rows that are too long. stop: up to 1 % are left out and named, more end the run; drop: all are left out."""

    lora_rank: PositiveInt = 16
    """Rank r of the update that each adapted layer learns."""
    lora_alpha: PositiveInt = 16
    """Scale: the update is multiplied by alpha / rank."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Above 0 leaves Unsloth's fast path."""
    adapter_precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of adapter, gradients and optimiser states; bf16 halves them and rounds every update."""
    target_modules: tuple[str, ...] = LINEAR_LAYERS
    """Names of the linear layers that get an adapter."""

    batch_size: PositiveInt = 8
    """Samples that each optimiser step averages over (the effective batch)."""
    micro_batch_size: PositiveInt = 1
    """Samples that are in memory at once; batch_size must be a multiple of it."""
    gradient_checkpointing: Literal["auto", "off", "on", "unsloth"] = "auto"
    """Recompute activations: less memory, a third more time. unsloth: kept in main memory. auto: by the machine."""
    pin_memory: Literal["auto", "on", "off"] = "auto"
    """Batches in pinned main memory: faster copies to a card. auto: off where it is scarce (Windows, WSL)."""
    epochs: PositiveFloat = 3.0
    """Passes over the data."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimiser steps, whatever the epochs say."""
    learning_rate: PositiveFloat = 2e-4
    """Highest step size, reached after the warm-up."""
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_pct: Annotated[float, Field(ge=0, le=100)] = 5.0
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Pull of the adapter's weights towards zero."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients longer than this are scaled down."""
    optimizer: Literal["auto", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_fused"] = "auto"
    """auto: adamw_8bit on a graphics card, adamw_torch_fused on a CPU."""
    seed: int = 3407
    """Of the adapter's start, the order of the rows and the choice of the held-out ones."""

    held_out_rows: Annotated[int, Field(ge=0)] = 64
    """Rows kept out of training to measure the loss on; at most a tenth of the data, chosen by content and seed."""
    prompts: tuple[str, ...] = ()
    """Questions answered before and after training. Default: three of the held-out rows."""
    sample_tokens: PositiveInt = 64
    """Longest answer to those questions."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> "Run":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self

    @property
    def accumulation_steps(self) -> int:
        return self.batch_size // self.micro_batch_size

    def steps(self, samples: int) -> int:
        """Optimiser steps over that many samples; the last one of an epoch may average over fewer of them."""
        return self.max_steps or math.ceil(self.epochs * math.ceil(samples / self.batch_size))


class Command(BaseModel):
    """Fine-tune a language model with LoRA: python -m kit.train --preset rtx5080 --data my.jsonl"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Annotated[Run, tyro.conf.arg(name="")]
    config: Path | None = None
    """A TOML or YAML file of the options above; runs/x/run.toml repeats a run."""
    plan: bool = False
    """Say what the run will need and whether it fits, and stop."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the result as JSON on standard output."""

    origins: Annotated[dict[str, str], tyro.conf.Suppress] = {}


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset_for(facts: Facts) -> str:
    """The preset that `auto` stands for on this machine."""
    return "rtx5080" if any(gpu.vendor == "nvidia" for gpu in facts.gpu or ()) else "cpu"


def seen_by(run: Run, facts: Facts) -> Facts:
    """The machine as the run sees it: without its cards when it trains on the CPU."""
    return replace(facts, gpu=()) if run.device == "cpu" else facts


def settle(run: Run, facts: Facts) -> tuple[Run, dict[str, str]]:
    """The run with each `auto` replaced by this machine's value, and the reason of each."""
    facts = seen_by(run, facts)
    chosen = settings.choose(facts)
    on_card = settings.best_card(facts) is not None
    if run.device == "cuda" and not on_card:
        raise KitError(
            problem(
                "no-usable-gpu",
                "The run asks for a graphics card and none can be used here.",
                "No NVIDIA card was found, or it is hidden from this program.",
                "python -m envcheck           (says what is wrong with the card)",
                "--preset cpu                 (trains on the CPU)",
            )
        )
    auto = {
        "device": ("cuda" if on_card else "cpu", "an NVIDIA card is there" if on_card else "no usable NVIDIA card"),
        "precision": chosen.precision,
        "optimizer": chosen.optimizer,
        "gradient_checkpointing": _as_option(chosen.gradient_checkpointing),
        "pin_memory": _as_option(chosen.pin_memory),
    }
    open_ones = {name: value for name, value in auto.items() if getattr(run, name) == "auto"}
    settled = run.model_copy(update={name: value for name, (value, _) in open_ones.items()})
    return settled, {name: reason for name, (_, reason) in open_ones.items()}


def _as_option(choice: settings.Choice) -> tuple[str, str]:
    """A choice of envcheck's, its switches as this file words them."""
    return {True: "on", False: "off"}.get(choice.value, choice.value), choice.reason


def load(argv: list[str], facts: Callable[[], Facts]) -> Command:
    """Flags over file over preset -> Command. `facts` is asked only when the preset is `auto`.

    Raises KitError (status 2): unknown option, key or preset; a value of the wrong kind; a file that cannot be read.
    """
    given = _options_in(argv)
    if "help" in given:
        tyro.cli(Command, args=["--help"], prog="python -m kit.train")
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--preset")
    peek.add_argument("--config", type=Path)
    early, _ = peek.parse_known_args(argv)

    from_file = _checked(_read_file(early.config), early.config) if early.config else {}
    preset = early.preset or from_file.get("preset", "auto")
    chosen = preset_for(facts()) if preset == "auto" else preset
    from_preset = _checked(_read_preset(chosen), f"preset {chosen}")
    base = _run({**from_preset, **from_file, "preset": preset})
    command = _parse(argv, base)

    origins = dict.fromkeys(Run.model_fields, "default")
    origins |= dict.fromkeys(from_preset, f"preset {chosen}")
    origins |= dict.fromkeys(from_file, f"file {early.config}")
    origins |= dict.fromkeys(given & set(origins), "flag")
    return command.model_copy(update={"origins": origins})


def to_toml(run: Run, origins: dict[str, str]) -> str:
    """A file that repeats the run: every option, with its origin as a comment."""
    lines = [f"# python -m kit.train --config {Path('run.toml')}"]
    for name, value in run.model_dump(mode="json", exclude_none=True).items():
        lines.append(f"{name} = {_toml_value(value)}  # {origins.get(name, 'default')}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # JSON's escapes are TOML's, but for DEL
    return repr(value)


def _options_in(argv: list[str]) -> set[str]:
    """Names of the options given, checked against the known ones."""
    known = {*Run.model_fields, "config", "plan", "json", "help"}
    switches = {f"no_{name}" for name, field in Run.model_fields.items() if field.annotation is bool}
    given, unknown = set(), []
    for word in argv:
        if word in ("-h", "--help"):
            given.add("help")
        elif word.startswith("--") and len(word) > 2:
            name = word[2:].split("=")[0].replace("-", "_")
            if name not in known | switches | {"no_plan", "no_json"}:
                unknown.append(_unknown("option", word.split("=")[0], known))
            given.add(name.removeprefix("no_") if name in switches else name)
    if unknown:
        raise KitError(*unknown, status=USAGE)
    return given


def _unknown(kind: str, name: str, known: Iterable[str], details: Mapping[str, object] | None = None) -> Finding:
    flags = [f"--{item.replace('_', '-')}" for item in known] if kind == "option" else list(known)
    near = nearest(name, flags)
    return problem(
        f"unknown-{kind}",
        f"There is no {kind} {name}. {near}".rstrip(),
        "A misspelt name would otherwise be left out in silence.",
        near.removeprefix("Did you mean ").rstrip("?") if near else "python -m kit.train --help",
        details=details,
    )


def _parse(argv: list[str], base: Run) -> Command:
    try:
        return tyro.cli(Command, args=argv, default=Command(run=base), prog="python -m kit.train")
    except ValidationError as error:
        raise KitError(*_wrong_values(error), status=USAGE) from None


def _run(values: dict[str, Any]) -> Run:
    try:
        return Run(**values)
    except ValidationError as error:
        raise KitError(*_wrong_values(error), status=USAGE) from None


def _wrong_values(error: ValidationError) -> list[Finding]:
    found = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"] if part != "run") or "options"
        found.append(
            problem(
                "wrong-value",
                f"{name}: {item['msg']}.",
                "Options are checked before anything is loaded.",
                "python -m kit.train --help",
                details={"given": repr(item["input"])} if item["loc"] else None,
            )
        )
    return found


def _read_preset(name: str) -> dict[str, Any]:
    if name not in preset_names():
        names = ["auto", *preset_names()]
        raise KitError(
            problem(
                "unknown-preset",
                f"There is no preset {name}. {nearest(name, names)}".rstrip(),
                f"The presets are {', '.join(names)}.",
                *(f"--preset {known}" for known in names),
            ),
            status=USAGE,
        )
    return _read_file(PRESETS / f"{name}.toml")


def _read_file(path: Path) -> dict[str, Any]:
    """The options in a TOML file, or a YAML one by its ending."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(
            problem("config-unreadable", f"The options file {path} cannot be read.", str(error), "--config FILE"),
            status=USAGE,
        ) from None
    try:
        if path.suffix in (".yaml", ".yml"):
            import yaml

            values = yaml.safe_load(text) or {}
        else:
            values = tomllib.loads(text)
    except Exception as error:  # each parser has its own kind; both name the line
        raise KitError(
            problem(
                "config-does-not-parse",
                f"The options file {path} does not parse.",
                str(error),
                f"mend the line, or start from a copy of {PRESETS / 'cpu.toml'}",
            ),
            status=USAGE,
        ) from None
    if not isinstance(values, dict):
        raise KitError(
            problem(
                "config-does-not-parse",
                f"{path} holds no options.",
                "A file holds lines of `name = value`.",
                f"start from a copy of {PRESETS / 'cpu.toml'}",
            ),
            status=USAGE,
        )
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def _checked(values: dict[str, Any], origin: object) -> dict[str, Any]:
    """The values, once every key of them is known."""
    unknown = [
        _unknown("key", key, Run.model_fields, {"found in": origin}) for key in values if key not in Run.model_fields
    ]
    if unknown:
        raise KitError(*unknown, status=USAGE)
    return values
