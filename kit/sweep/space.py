"""--over lines -> the runs of a sweep: lists of values combined, ranges drawn from, every trial once."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from kit.options import LINEAR_LAYERS, Rows, Run, command_line
from kit.options.run import MemoryOptions, RecordOptions
from kit.options.words import nearest
from kit.run.folder import FREE
from kit.support.errors import USAGE, KitError, failure, for_each
from kit.sweep import study
from kit.sweep.options import SweepCommand

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SEED = "seed"
MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)r")  # of the rank
LAYERS = {"attention": LINEAR_LAYERS[:4], "mlp": LINEAR_LAYERS[4:], "all": LINEAR_LAYERS}
SAME_ROWS = frozenset(Rows.model_fields) - {SEED}
FIXED = (
    dict.fromkeys(SAME_ROWS, "All trials must be measured on the same rows, in the same tokens.")
    | dict.fromkeys(MemoryOptions.model_fields, "It decides memory and time, not what is learnt.")
    | dict.fromkeys(RecordOptions.model_fields, "It decides what is written down, not what is learnt.")
    | {"early_stopping": "The sweep itself stops trials early: --pruner."}
)
LIST_EXAMPLE = "--over lora_rank=4,16,64"
RANGE_EXAMPLE = "--over learning_rate=1e-5..1e-3        (a range: --trials says how many are drawn from it)"


@dataclass(frozen=True)
class Point:
    """One trial to be. values: what sets it apart, as text. drawn: its setting, as Optuna was asked for it. turn: of
    its setting, in the order of training from 0; trials of one setting differ in their seed only."""

    values: dict[str, str]
    run: Run
    drawn: study.Params
    turn: int


def points(run: Run, over: Sequence[str], trials: int | None = None) -> tuple[study.Space, list[Point]]:
    """What varies, and each combination or draw once, in the order of the values.

    trials: how many settings; None: all combinations, or study.DRAWS where there is a range. The same arguments give
    the same points. Raises KitError (status 2): lines that name no values or wrong ones.
    """
    space = parse(run, over)
    settings = {name: choices for name, choices in space.items() if name != SEED}
    made: dict[str, tuple[list[float], Point]] = {}
    for turn, drawn in enumerate(study.draw(settings, run.seed, trials)):
        for seed in getattr(space.get(SEED), "choices", ("",)):
            chosen = {name: drawn.get(name, seed) for name in space}
            place = [space[name].to_internal_repr(value) for name, value in chosen.items()]
            own = run_with(run, {name: str(value) for name, value in chosen.items()})
            values = {name: value_text(name, getattr(own, name)) for name in space}
            made.setdefault(identity(own), (place, Point(values, own, drawn, turn)))
    return space, [point for _, point in sorted(made.values(), key=lambda pair: pair[0])]


def identity(run: Run) -> str:
    """Equal for two runs that learn the same."""
    return json.dumps(run.model_dump(mode="json", exclude=set(FREE)), sort_keys=True)


def value_text(name: str, value: Any) -> str:
    """An option's value as --over takes it."""
    if name == "target_modules":
        return next((alias for alias, layers in LAYERS.items() if set(layers) == set(value)), "+".join(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def can_vary(name: str) -> bool:
    is_list = isinstance(Run.model_fields[name].default, tuple) and name != "target_modules"
    return name not in FIXED and not is_list


def run_with(run: Run, texts: Mapping[str, str]) -> Run:
    """The run with values as --over takes them. Raises KitError (status 2): values that a run does not take."""
    values: dict[str, Any] = run.model_dump() | dict(texts) | {"output": None}
    if layers := texts.get("target_modules"):
        named = [layer for part in layers.split("+") for layer in LAYERS.get(part, (part,))]
        values["target_modules"] = tuple(dict.fromkeys(named))
    try:
        if multiple := MULTIPLE.fullmatch(texts.get("lora_alpha", "")):
            rank = _build(values | {"lora_alpha": run.lora_alpha}).lora_rank
            values["lora_alpha"] = float(multiple[1]) * rank  # refused below where that is no whole number
        return _build(values)
    except KitError as error:
        given = ",".join(f"{name}={text}" for name, text in texts.items())
        wrong = [replace(finding, what=f"--over {given}: {finding.what}") for finding in error.findings]
        raise KitError(*wrong, status=USAGE) from None


def _build(values: Mapping[str, Any]) -> Run:
    return command_line.build(Run, values, {}, SweepCommand.door)


def parse(run: Run, over: Sequence[str]) -> study.Space:
    """What varies around a run. Raises KitError (status 2) with all that is wrong: options, values, ranges."""
    texts: dict[str, dict[str, None]] = {}  # each value once, in the order given; "" for a line without one
    for line in over:
        name, _, text = line.partition("=")
        values = [value.strip() for value in text.split(",") if value.strip()]
        texts.setdefault(name.strip().removeprefix("--").replace("-", "_"), {}).update(dict.fromkeys(values or [""]))
    return dict(for_each(lambda name: (name, _choices(run, name, list(texts[name]))), texts))


def _choices(run: Run, name: str, texts: list[str]) -> "BaseDistribution":
    """Raises KitError: wrong values, each by itself, so that it is said once; a multiple waits for its rank."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    _check_option(name, texts)
    if not any(".." in text for text in texts):
        for_each(lambda text: run_with(run, {name: text}), [text for text in texts if not MULTIPLE.fullmatch(text)])
        return CategoricalDistribution(texts)
    low, high = _ends(name, texts)
    for_each(lambda end: run_with(run, {name: end.strip()}), texts[0].split(".."))
    if int in _kinds(name):
        return IntDistribution(int(low), int(high), log=low > 0)  # log: drawn evenly by factors
    return FloatDistribution(low, high, log=low > 0)


def _check_option(name: str, texts: Sequence[str]) -> None:
    """Raises KitError: no values, no option of a run, or one that may not vary."""
    if "" in texts:
        why = "--over takes an option and its values, with commas between them and no spaces."
        what = f"--over {name}= names no values."
        raise failure("sweep-without-values", what, why, LIST_EXAMPLE, RANGE_EXAMPLE, status=USAGE)
    known = [field for field in Run.model_fields if can_vary(field)]
    details = {"may vary": ", ".join(known)}
    if name not in Run.model_fields:
        near = nearest(name, known).ours.partition("=")[0]
        what = f"There is no option {name} to vary. {f'Did you mean {near}?' if near else ''}".rstrip()
        why = "A misspelt name would otherwise be left out in silence."
        fix = f"--over {near}=VALUE,VALUE" if near else LIST_EXAMPLE
        raise failure("unknown-option", what, why, fix, details=details, status=USAGE)
    if name not in known:
        what, why = f"{name} may not vary in a sweep.", FIXED.get(name, "It takes a list of its own.")
        fix = f"--{name.replace('_', '-')} VALUE        (the same for all trials)"
        raise failure("option-may-not-vary", what, why, fix, details=details, status=USAGE)


def _ends(name: str, texts: Sequence[str]) -> tuple[float, float]:
    """Of a range. Raises KitError: it is none."""
    try:
        low, high = map(float, ",".join(texts).split(".."))
        if name != SEED and _kinds(name) and low < high < math.inf:
            return low, high
    except ValueError:
        pass
    why = "A range is two numbers, the lower one first, of an option that takes numbers, with no values beside it."
    what = f"--over {name}={','.join(texts)} is no range."
    raise failure("sweep-wrong-range", what, why, RANGE_EXAMPLE, "--over seed=1,2,3", status=USAGE)


def _kinds(name: str) -> set[type]:
    """The kinds of number that an option takes."""
    annotation = Run.model_fields[name].annotation
    return {int, float} & {annotation, *get_args(annotation)}
