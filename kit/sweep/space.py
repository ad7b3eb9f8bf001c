"""--over lines -> what varies: values to combine, ranges to draw from."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import ValidationError

from envcheck.facts import Finding
from kit.options import LINEAR_LAYERS, Rows, Run, command_line
from kit.options.run import MemoryOptions, RecordOptions
from kit.options.words import nearest
from kit.support.errors import USAGE, KitError, failure
from kit.sweep.options import SweepCommand

SEED = "seed"
MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)r")  # of the rank
LAYERS = {"attention": LINEAR_LAYERS[:4], "mlp": LINEAR_LAYERS[4:], "all": LINEAR_LAYERS}
SAME_ROWS = frozenset(Rows.model_fields) - {SEED}
FIXED = (
    dict.fromkeys(SAME_ROWS, "all trials must be measured on the same rows, in the same tokens")
    | dict.fromkeys(MemoryOptions.model_fields, "it decides memory and time, not what is learnt")
    | dict.fromkeys(RecordOptions.model_fields, "it decides what is written down, not what is learnt")
    | {"early_stopping": "the sweep itself stops trials early: --pruner"}
)
LIST_EXAMPLE = "--over lora_rank=4,16,64"
RANGE_EXAMPLE = "--over learning_rate=1e-5..1e-3        (a range: --trials says how many are drawn from it)"


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; drawn evenly by factors where low is above 0, else by differences."""

    low: float
    high: float
    is_whole: bool

    @property
    def is_log(self) -> bool:
        return self.low > 0


Choices = tuple[str, ...] | Range
Space = dict[str, Choices]  # option -> its values as they were typed, or its range; in the order of the --over lines


def can_vary(name: str) -> bool:
    is_list = isinstance(Run.model_fields[name].default, tuple) and name != "target_modules"
    return name not in FIXED and not is_list


def parse(run: Run, over: Sequence[str]) -> Space:
    """What varies around a run. Raises KitError (status 2) with all that is wrong: options, values, ranges."""
    space: Space = {}
    wrong: list[Finding] = []
    for line in over:
        name, _, text = line.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        try:
            space[name] = _with_more(line, space.get(name), _choices(run, line, name, text))
        except KitError as error:
            wrong += error.findings
    if wrong:
        raise KitError(*wrong, status=USAGE)
    return space


def option_value(name: str, text: str) -> Any:
    """What a value of an --over line means to a run."""
    if name != "target_modules":
        return text
    layers = [layer for part in text.split("+") for layer in LAYERS.get(part, (part,))]
    return tuple(dict.fromkeys(layers))


def value_text(name: str, value: Any) -> str:
    """An option's value as --over takes it."""
    if name == "target_modules":
        return next((alias for alias, layers in LAYERS.items() if set(layers) == set(value)), "+".join(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def wrong_values(error: ValidationError, given: str) -> list[Finding]:
    """A finding for each value that a run does not take. given: the values as they were typed."""
    findings = command_line.wrong_values(Run, error, {}, SweepCommand.door)
    return [replace(finding, what=f"{given}: {finding.what}") for finding in findings]


def _choices(run: Run, line: str, name: str, text: str) -> Choices:
    """Raises KitError: no values, an option that may not vary, wrong values or a wrong range."""
    values = tuple(dict.fromkeys(value.strip() for value in text.split(",") if value.strip()))
    if not values:
        why = "--over takes an option and its values, with commas between them and no spaces."
        what = f"--over {line} names no values."
        raise failure("sweep-without-values", what, why, LIST_EXAMPLE, RANGE_EXAMPLE, status=USAGE)
    _check_name(name)
    made = _range(line, name, text) if ".." in text else values
    checked = text.split("..") if isinstance(made, Range) else values
    if wrong := [finding for value in checked for finding in _wrong_value(run, name, value.strip())]:
        raise KitError(*wrong, status=USAGE)
    return made


def _range(line: str, name: str, text: str) -> Range:
    annotation = Run.model_fields[name].annotation
    kinds = {int, float} & {annotation, *get_args(annotation)}
    low_text, _, high_text = text.partition("..")
    try:
        low, high = float(low_text), float(high_text)
    except ValueError:
        raise _wrong_range(line) from None
    if name == SEED or not kinds or not low < high < math.inf:
        raise _wrong_range(line)
    return Range(low, high, is_whole=int in kinds)


def _with_more(line: str, before: Choices | None, more: Choices) -> Choices:
    """The values of several lines for one option."""
    if before is None:
        return more
    if isinstance(before, Range) or isinstance(more, Range):
        raise _wrong_range(line)
    return tuple(dict.fromkeys((*before, *more)))


def _wrong_range(line: str) -> KitError:
    why = "A range is two numbers, the lower one first, of an option that takes numbers, with no values beside it."
    what = f"--over {line} is no range."
    return failure("sweep-wrong-range", what, why, RANGE_EXAMPLE, "--over seed=1,2,3", status=USAGE)


def _check_name(name: str) -> None:
    """Raises KitError: no option of a run, or one that may not vary."""
    known = [field for field in Run.model_fields if can_vary(field)]
    details = {"may vary": ", ".join(known)}
    if name not in Run.model_fields:
        near = nearest(name, known).ours.partition("=")[0]
        raise failure(
            "unknown-option",
            f"There is no option {name} to vary. {f'Did you mean {near}?' if near else ''}".rstrip(),
            "A misspelt name would otherwise be left out in silence.",
            f"--over {near}=VALUE,VALUE" if near else LIST_EXAMPLE,
            details=details,
            status=USAGE,
        )
    if name not in known:
        why = FIXED.get(name, "it takes a list of its own")
        fix = f"--{name.replace('_', '-')} VALUE        (the same for all trials)"
        what = f"{name} may not vary in a sweep."
        raise failure("option-may-not-vary", what, f"{why[0].upper()}{why[1:]}.", fix, details=details, status=USAGE)


def _wrong_value(run: Run, name: str, text: str) -> list[Finding]:
    """Of one value alone, so that it is said once; a multiple of the rank is checked with its rank."""
    if name == "lora_alpha" and MULTIPLE.fullmatch(text):
        return []
    try:
        Run(**run.model_dump() | {name: option_value(name, text)})
    except ValidationError as error:
        return wrong_values(error, f"--over {name}={text}")
    return []
