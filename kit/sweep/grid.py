"""--over lines -> the runs of the grid, each with the values that set it apart."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from envcheck.facts import Finding
from kit.options import LINEAR_LAYERS, Rows, Run
from kit.run.folder import FREE
from kit.support.errors import USAGE, KitError, did_you_mean, problem

LAYERS = {"attention": LINEAR_LAYERS[:4], "mlp": LINEAR_LAYERS[4:], "all": LINEAR_LAYERS}
SAME_ROWS = frozenset(Rows.model_fields) - {"seed"}
OF_THE_MACHINE = {"preset", "backend", "device", "micro_batch_size", "gradient_checkpointing", "attention",
                  "pin_memory", "embedding_offload", "vram_limit_gib"}  # fmt: skip
OF_THE_RECORD = {"output", "evaluations", "checkpoint_minutes", "keep_checkpoints", "on_nan", "prompts",
                 "sample_tokens", "report_to"}  # fmt: skip
FIXED = (
    dict.fromkeys(SAME_ROWS, "all trials must be measured on the same rows, in the same tokens")
    | dict.fromkeys(OF_THE_MACHINE, "it decides memory and time, not what is learnt")
    | dict.fromkeys(OF_THE_RECORD, "it decides what is written down, not what is learnt")
    | {"early_stopping": "the sweep itself stops trials early: --rungs"}
)
MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)r")  # of the rank
OVER = "--over lora_rank=4,16,64"


@dataclass(frozen=True)
class Point:
    """One trial to be: what sets it apart, in words, and its run."""

    values: Mapping[str, str]
    run: Run

    @property
    def name(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.values.items())


def can_vary(name: str) -> bool:
    is_list = isinstance(Run.model_fields[name].default, tuple) and name != "target_modules"
    return name not in FIXED and not is_list


def points(run: Run, over: Sequence[str]) -> list[Point]:
    """Every combination once, in the order given. Raises KitError (status 2) with all that is wrong in the lines."""
    varied = _varied(over)
    wrong = [found for name, texts in varied.items() for text in texts for found in _wrong_value(run, name, text)]
    if wrong:
        raise KitError(*wrong, status=USAGE)
    made: dict[str, Point] = {}
    for combination in itertools.product(*varied.values()):
        point = _point(run, dict(zip(varied, combination, strict=True)))
        made.setdefault(identity(point.run), point)
    return list(made.values())


def identity(run: Run, *left_out: str) -> str:
    """Equal for two runs that learn the same."""
    values = run.model_dump(mode="json", exclude={*FREE, *left_out})
    return json.dumps(values, sort_keys=True)


def word(name: str, value: Any) -> str:
    """An option's value as --over takes it."""
    if name == "target_modules":
        return next((alias for alias, layers in LAYERS.items() if set(layers) == set(value)), "+".join(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _varied(over: Sequence[str]) -> dict[str, list[str]]:
    varied: dict[str, list[str]] = {}
    wrong = []
    for line in over:
        name, equals, texts = line.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        values = [text.strip() for text in texts.split(",") if text.strip()]
        if not equals or not values:
            wrong.append(_no_values(line))
        elif finding := _wrong_name(name):
            wrong.append(finding)
        else:
            varied.setdefault(name, []).extend(values)
    if wrong:
        raise KitError(*wrong, status=USAGE)
    return varied


def _no_values(line: str) -> Finding:
    why = "--over takes an option and its values, with commas between them and no spaces."
    return problem("sweep-without-values", f"--over {line} names no values.", why, OVER)


def _wrong_name(name: str) -> Finding | None:
    known = [field for field in Run.model_fields if can_vary(field)]
    if name not in Run.model_fields:
        near = did_you_mean(name, known)
        fix = near.removeprefix("Did you mean ").rstrip("?")
        return problem(
            "unknown-option",
            f"There is no option {name} to vary. {near}".rstrip(),
            "A misspelt name would otherwise be left out in silence.",
            f"--over {fix}=VALUE,VALUE" if fix else OVER,
            details={"may vary": ", ".join(known)},
        )
    if not can_vary(name):
        why = FIXED.get(name, "it takes a list of its own")
        return problem(
            "option-may-not-vary",
            f"{name} may not vary in a sweep.",
            f"{why[0].upper()}{why[1:]}.",
            f"--{name.replace('_', '-')} VALUE        (the same for all trials)",
            details={"may vary": ", ".join(known)},
        )
    return None


def _wrong_value(run: Run, name: str, text: str) -> list[Finding]:
    """Of one value alone, so that it is told once."""
    if name == "lora_alpha" and MULTIPLE.fullmatch(text):
        return []
    try:
        Run(**run.model_dump() | {name: _value(name, text)})
    except ValidationError as error:
        return _findings(error, f"--over {name}={text}")
    return []


def _findings(error: ValidationError, given: str) -> list[Finding]:
    return [
        problem(
            "wrong-value",
            f"{given}: {item['msg'].removeprefix('Value error, ')}.",
            "Every value is checked before the first trial.",
            "python -m kit.sweep --help",
        )
        for item in error.errors()
    ]


def _value(name: str, text: str) -> Any:
    if name != "target_modules":
        return text
    layers = [layer for part in text.split("+") for layer in LAYERS.get(part, (part,))]
    return tuple(dict.fromkeys(layers))


def _point(run: Run, texts: Mapping[str, str]) -> Point:
    """Alpha last, as it may be a multiple of the rank."""
    values = {name: _value(name, text) for name, text in texts.items()}
    told = ",".join(f"{name}={text}" for name, text in texts.items())
    base = run.model_dump() | {"output": None}
    try:
        if match := MULTIPLE.fullmatch(str(values.get("lora_alpha", ""))):
            rank = Run(**base | {name: value for name, value in values.items() if name != "lora_alpha"}).lora_rank
            values["lora_alpha"] = float(match[1]) * rank  # pydantic says where that is no whole number
        made = Run(**base | values)
    except ValidationError as error:
        raise KitError(*_findings(error, told), status=USAGE) from None
    return Point({name: word(name, getattr(made, name)) for name in texts}, made)


def with_output(point: Point, folder: Path) -> Run:
    return point.run.model_copy(update={"output": folder})
