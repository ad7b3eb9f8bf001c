"""Space -> points: the runs of a sweep, each with the values that set it apart."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from kit.options import Run
from kit.run.folder import FREE
from kit.support.errors import USAGE, KitError
from kit.sweep import study
from kit.sweep.space import MULTIPLE, SEED, Choices, Range, Space, option_value, parse, value_text, wrong_values


@dataclass(frozen=True)
class Point:
    """One trial to be. values: what sets it apart, in words. drawn: its setting, as Optuna was asked for it. turn: of
    its setting, in the order of training; one after the other, from 0."""

    values: dict[str, str]
    run: Run
    drawn: study.Params
    turn: int

    @property
    def setting(self) -> str:
        """Equal for trials that differ in their seed only."""
        return identity(self.run, SEED)


def points(run: Run, over: Sequence[str], trials: int | None = None) -> tuple[Space, list[Point]]:
    """What varies, and each combination or draw once, in the order of the values.

    trials: how many settings; None: all combinations, or study.DRAWS where there is a range. The same arguments give
    the same points. Raises KitError (status 2) with all that is wrong in the lines.
    """
    space = parse(run, over)
    seeds = space.get(SEED, ("",))
    assert isinstance(seeds, tuple), "parse takes no range of seeds"
    settings = {name: choices for name, choices in space.items() if name != SEED}
    made: dict[str, tuple[list[float], Point]] = {}
    for turn, drawn in enumerate(study.draw(settings, run.seed, trials)):
        for seed in seeds:
            texts = {name: seed if name == SEED else str(drawn[name]) for name in space}
            place = [_place(choices, texts[name]) for name, choices in space.items()]
            point = _point(run, texts, drawn, turn)
            made.setdefault(identity(point.run), (place, point))
    return space, [point for _, point in sorted(made.values(), key=lambda pair: pair[0])]


def identity(run: Run, *left_out: str) -> str:
    """Equal for two runs that learn the same."""
    return json.dumps(run.model_dump(mode="json", exclude={*FREE, *left_out}), sort_keys=True)


def _place(choices: Choices, text: str) -> float:
    """In the order the values were given; of a range by size."""
    return float(text) if isinstance(choices, Range) else choices.index(text)


def _point(run: Run, texts: Mapping[str, str], drawn: study.Params, turn: int) -> Point:
    """Alpha last, as it may be a multiple of the rank."""
    values = {name: option_value(name, text) for name, text in texts.items()}
    base = run.model_dump() | {"output": None}
    try:
        if match := MULTIPLE.fullmatch(str(values.get("lora_alpha", ""))):
            rank = Run(**base | {name: value for name, value in values.items() if name != "lora_alpha"}).lora_rank
            values["lora_alpha"] = float(match[1]) * rank  # pydantic says where that is no whole number
        made = Run(**base | values)
    except ValidationError as error:
        given = ",".join(f"{name}={text}" for name, text in texts.items())
        raise KitError(*wrong_values(error, given), status=USAGE) from None
    return Point({name: value_text(name, getattr(made, name)) for name in texts}, made, drawn, turn)
