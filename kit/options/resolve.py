"""Preset, file and flags, in that order -> a command's options; where each value came from is remembered."""

import functools
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from envcheck import other_gpus, settings, visible, wheels
from envcheck.facts import Facts, Gpu
from kit.options import HEAD, LINEAR_LAYERS, METHODS, DataCommand, Rows, Run, TrainCommand, command_line
from kit.options.commands import RunDoor
from kit.options.measured import measured
from kit.options.methods import IN_UNSLOTH
from kit.options.option import Door
from kit.support.errors import USAGE, KitError, did_you_mean, failure, problem

PRESETS = Path(__file__).parent / "presets"
CARDS = PRESETS / "cards.toml"
CLASSES = ("vram-8", "vram-12", "vram-16", "vram-24", "vram-32")  # GiB
REPORTED_SHARE = 0.99  # of the marketed memory that the driver reports at least: 15.92 GiB of an RTX 5080's 16
NO_RECOMPUTING = "learnt keys and values stand in a cache, which no layer may fill twice"
AnyRunDoor = TypeVar("AnyRunDoor", bound=RunDoor)


@functools.cache
def cards() -> dict[str, dict[str, Any]]:
    """Name of a card -> its values, and the memory class that it takes the others from."""
    return _read_file(CARDS)


def preset_names() -> list[str]:
    return sorted([*cards(), *(path.stem for path in PRESETS.glob("*.toml") if path != CARDS)])


def preset_for(facts: Facts) -> str:
    """The preset that `auto` stands for on this machine: its card's, or where cards of one name come with more or less
    memory, the class of its memory. The driver reports up to half a GiB less than the marketed size.
    """
    card = settings.best_card(facts)
    if card is None:
        return "cpu"
    by_size = [name for name in CLASSES if int(name.removeprefix("vram-")) <= (card.vram_gib or 0) + 0.5]
    own = card_key(card.name or "")
    if own in cards() and (not by_size or cards()[own]["class"] == by_size[-1]):
        return own
    return by_size[-1] if by_size else CLASSES[0]


def card_key(name: str) -> str:
    """The driver's name of a card as presets and files have it: rtx5080 for NVIDIA GeForce RTX 5080."""
    return re.sub(r"nvidia|geforce|tesla|\W", "", name.lower())


def _about_preset(preset: str, facts: Facts) -> dict[str, str]:
    """Of a preset for cards: which one `auto` stands for, and whether it was measured."""
    card = settings.best_card(facts)
    name = preset_for(facts) if preset == "auto" else preset
    memory_class = cards()[name]["class"] if name in cards() else name
    if card is None or memory_class not in CLASSES:
        return {}
    if card.name == _elsewhere(preset):
        return {"preset": f"{card.vram_gib:g} GiB, no such card is in this machine; {measured(memory_class, preset)}"}
    said = measured(memory_class, card_key(card.name or name))
    return {"preset": said if name == preset else f"{name}, {said}"}


def planned_for(command: TrainCommand, facts: Facts) -> tuple[Run, Facts]:
    """The run and its machine: this one, or for a plan one with the card of --vram-gib, or of a preset for another
    card than this machine's.

    Raises KitError (status 2): --vram-gib or --fit without --plan.
    """
    option = f"--vram-gib {command.vram_gib:g}" if command.vram_gib else f"--fit {command.fit}" if command.fit else ""
    if option and not command.plan:
        what = f"{option} only says what would fit, it trains nothing."
        why = "A run takes this machine's own card, and what the plan chooses for it."
        raise failure("needs-plan", what, why, f"{option} --plan", "the same without it", status=USAGE)
    if command.vram_gib is not None:
        return command.run.model_copy(update={"device": "cuda"}), with_card(facts, command.vram_gib)
    preset, gib = command.run.preset, preset_gib(command.run.preset)
    if gib is None or not command.plan or command.run.device != "cuda" or preset in _presets_of_own_card(facts):
        return command.run, facts
    return command.run, with_card(facts, round(REPORTED_SHARE * gib, 2), _elsewhere(preset))


def preset_gib(preset: str) -> float | None:
    """Memory of the card, or of the class of cards, that a preset is for; None: it is for none."""
    card = cards().get(preset, {})
    memory_class = card.get("class", preset)
    of_class = float(memory_class.removeprefix("vram-")) if memory_class in CLASSES else None
    return card.get("vram_gib", of_class)


def _presets_of_own_card(facts: Facts) -> set[str]:
    """Those that mean the card of this machine: its own name, and the class of its memory."""
    card = settings.best_card(facts)
    if card is None:
        return set()
    own = preset_for(facts)
    return {own, card_key(card.name or ""), cards().get(own, {}).get("class", own)}


def with_card(facts: Facts, vram_gib: float, name: str = "") -> Facts:
    """The machine with one card of that size, new enough for bf16, instead of its own."""
    card = Gpu(name=name or f"NVIDIA card of {vram_gib:g} GiB", vram_gib=vram_gib, compute_capability="8.0")
    return replace(facts, gpu=(card,), env={}, training=None)


def _elsewhere(preset: str) -> str:
    """What the card of a preset is called that is planned for without being here."""
    return f"NVIDIA card of --preset {preset}"


def seen_by(run: Run, facts: Facts) -> Facts:
    """The machine as the run sees it: without its cards when it trains on the CPU, else with the one that it uses."""
    card = None if run.device == "cpu" else settings.best_card(facts)
    if card is None:
        return replace(facts, gpu=()) if run.device == "cpu" else facts
    others = {name: value for name, value in (facts.env or {}).items() if name != visible.VARIABLE}
    return replace(facts, gpu=(card,), env=others)


def settle(run: Run, facts: Facts) -> tuple[Run, dict[str, str]]:
    """The run with this machine's value for each `auto` that does not depend on the model, and the reason of each.

    Raises KitError: a card that is not there; options that do not go with the method.
    """
    check_method(run)
    card = None if run.device == "cpu" else settings.best_card(facts)
    chosen = settings.choose(seen_by(run, facts))
    if run.device == "cuda" and card is None:
        what = "The run asks for a graphics card and none can be used here."
        fits = f"--preset {run.preset} --plan" if preset_gib(run.preset) else "--plan --vram-gib 16"
        on_cpu = "--preset cpu                 (trains on the CPU)"
        raise no_usable_card(what, facts, f"{fits:<29}(what would fit on such a card)", on_cpu)
    auto = {
        "device": ("cuda" if card else "cpu", _why_device(facts, card)),
        "precision": chosen.precision,
        "optimizer": chosen.optimizer,
        "pin_memory": as_option(chosen.pin_memory),
        **({"backend": ("hf", why_hf(run))} if why_hf(run) else {}),
        **({"gradient_checkpointing": ("off", NO_RECOMPUTING)} if METHODS[run.method].learns_prefix else {}),
    }
    undecided = {name: value for name, value in auto.items() if getattr(run, name) == "auto"}
    settled = run.model_copy(update={name: value for name, (value, _) in undecided.items()})
    return settled, _about_preset(run.preset, facts) | {name: reason for name, (_, reason) in undecided.items()}


def no_usable_card(what: str, facts: Facts, *instead: str) -> KitError:
    """For a card that was asked for; instead: what to type."""
    others = other_gpus.names(facts)
    why = "No NVIDIA card was found, or it is hidden from this program."
    if others:
        why = f"The GPU here is {others}; the kit knows NVIDIA cards only, and leaves every other alone."
    return failure(
        "no-usable-gpu", what, why, "python -m envcheck           (says what is wrong with the card)", *instead
    )


def _why_device(facts: Facts, card: Gpu | None) -> str:
    """Which card, where there are several, and why none where one is hidden."""
    every, named = wheels.nvidia_cards(facts), (facts.env or {}).get(visible.VARIABLE)
    if card is None:
        is_hidden = every and named is not None and not visible.cards(facts, visible.BY_BUS)
        return f'no usable NVIDIA card: {visible.VARIABLE} is "{named}"' if is_hidden else "no usable NVIDIA card"
    if len(every) == 1:
        return "an NVIDIA card is there"
    number = "" if card.index is None else f", number {card.index} of nvidia-smi's"
    left = visible.cards(facts, visible.BY_BUS)
    why = f"named by {visible.VARIABLE}" if len(left) == 1 else f"of {len(left)} cards the one with the most memory"
    return f"{card.name}{number}: {why}"


def why_hf(run: Run) -> str:
    """Why the run trains without Unsloth whatever the machine is; "" where it need not."""
    if not METHODS[run.method].in_unsloth:
        return f"{run.method} is no method of Unsloth's; PEFT has it"
    return "PEFT trains single rows of the embedding; with Unsloth it is not tried" if run.train_added_tokens else ""


def check_method(run: Run) -> None:
    """Raises KitError (status 2): options that do not go with the method."""
    wrong: list[tuple[str, ...]] = []
    method = METHODS[run.method]
    if run.backend == "unsloth" and why_hf(run):
        fixes = ("--backend auto", *(f"--method {name} --backend unsloth" for name in IN_UNSLOTH))
        option = f"--method {run.method}" if not method.in_unsloth else "--train-added-tokens"
        what = f"Unsloth cannot train with {option}."
        wrong.append(("method-needs-hf", what, f"{why_hf(run)}.", *fixes))
    if run.train_added_tokens and not method.trains_tokens:
        what = f"--method {run.method} trains no vectors of tokens."
        fixes = tuple(f"--method {name}" for name, one in METHODS.items() if one.trains_tokens)
        wrong.append(("added-tokens-not-trained", what, "Added tokens would stay what they are at random.", *fixes))
    if method.trains_whole_model and run.load_in_4bit:
        what, why = "--method full trains every weight, and 4-bit weights cannot be trained.", "They have no gradients."
        fixes = ("--method full --no-load-in-4bit", "--method lora          (an adapter on the 4-bit weights: QLoRA)")
        wrong.append(("full-needs-16-bit", what, why, *fixes))
    if method.learns_prefix and run.gradient_checkpointing not in ("auto", "off"):
        what = f"--method {run.method} cannot compute activations again."
        fixes = ("--gradient-checkpointing off", "--method prompt            (its virtual words are no cache)")
        wrong.append(("method-cannot-recompute", what, f"{NO_RECOMPUTING.capitalize()}.", *fixes))
    if method.adapts_layers and HEAD in run.target_modules:
        what = f"{HEAD} cannot have an adapter."
        why = "The loss is computed from the head's own weight, past it; Unsloth on a card would train the whole head."
        others = [name for name in run.target_modules if name != HEAD] or LINEAR_LAYERS
        wrong.append(("head-not-adapted", what, why, f"--target-modules {' '.join(others)}"))
    if "rank_pattern" in method.options:
        for name in run.other_ranks.keys() - set(run.target_modules):
            near = did_you_mean(name, run.target_modules)
            what = f"rank_pattern names {name}, which is none of the target_modules. {near}".rstrip()
            fixes = (f"--rank-pattern NAME=RANK with a NAME of {' '.join(run.target_modules)}",)
            wrong.append(("unknown-layer", what, "Its rank would be left out in silence.", *fixes))
    if wrong:
        raise KitError(*(problem(*parts) for parts in wrong), status=USAGE)


def as_option(choice: settings.Choice) -> tuple[str, str]:
    """A choice of envcheck's, its switches as this file words them."""
    return {True: "on", False: "off"}.get(choice.value, choice.value), choice.reason


def load(
    argv: Sequence[str],
    facts: Callable[[], Facts],
    kind: type[AnyRunDoor] = TrainCommand,  # type: ignore[assignment]  # mypy: no defaults of type variables
) -> AnyRunDoor:
    """Flags over file over preset -> the options of a door with a run. `facts` is asked only when the preset is `auto`.

    Raises KitError (status 2): unknown option, key or preset; a value that is missing or wrong; a file that cannot be
    read. SystemExit: after --help.
    """
    return _layered(kind, command_line.read(kind, argv), "flag", facts)


def given(
    options: Mapping[str, Any],
    facts: Callable[[], Facts],
    kind: type[AnyRunDoor] = TrainCommand,  # type: ignore[assignment]  # as above
) -> AnyRunDoor:
    """The same of options given in Python, as a notebook does: given(dict(data="my.jsonl", epochs=2), probe.collect).

    Raises KitError (status 2): as `load`.
    """
    return _layered(kind, options, "call", facts)


def _layered(kind: type[AnyRunDoor], values: Mapping[str, Any], origin: str, facts: Callable[[], Facts]) -> AnyRunDoor:
    """Values over those of the file and of the preset that they or the file name, and where each is from."""
    own, of_run = _parted(kind, values)
    _check_keys(of_run, "the call")
    command = command_line.build(kind, own, dict.fromkeys(own, origin), kind.door)
    from_file = _from_file(command.config)
    preset = of_run.get("preset") or from_file.get("preset", "auto")

    def machine() -> Facts:
        return with_card(facts(), command.vram_gib) if command.vram_gib else facts()

    from_preset, from_where = _read_preset(preset if preset != "auto" else preset_for(machine()))
    origins = (
        dict.fromkeys(Run.model_fields, "default")
        | from_where
        | dict.fromkeys(from_file, f"file {command.config}")
        | dict.fromkeys(of_run, origin)
    )
    run = command_line.build(Run, {**from_preset, **from_file, **of_run, "preset": preset}, origins, kind.door)
    return command.model_copy(update={"run": run, "origins": origins})


def _parted(kind: type[Door], values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the door itself, and the others."""
    own = {name: value for name, value in values.items() if name in kind.model_fields}
    return own, {name: value for name, value in values.items() if name not in own}


def load_rows(argv: Sequence[str]) -> DataCommand:
    """Flags over file -> DataCommand; of a run's file only what concerns its rows is taken. Raises as `load`."""
    own, of_rows = _parted(DataCommand, command_line.read(DataCommand, argv))
    command = command_line.build(DataCommand, own, dict.fromkeys(own, "flag"), DataCommand.door)
    from_file = {name: value for name, value in _from_file(command.config).items() if name in Rows.model_fields}
    origins = dict.fromkeys(from_file, f"file {command.config}") | dict.fromkeys(of_rows, "flag")
    rows = command_line.build(Rows, from_file | of_rows, origins, DataCommand.door)
    return command.model_copy(update={"rows": rows})


def _from_file(path: Path | None) -> dict[str, Any]:
    return _check_keys(_read_file(path), path) if path else {}


def to_toml(run: Run, origins: dict[str, str]) -> str:
    """A file that repeats the run: every option, with its origin as a comment."""
    lines = ["# python -m kit.train --config run.toml"]
    for name, value in run.model_dump(mode="json", exclude_none=True).items():
        lines.append(f"{name} = {_toml_value(value)}  # {origins.get(name, 'default')}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _read_preset(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and where each is from: the preset's own over those of the class it names."""
    if name not in preset_names():
        names = ["auto", *preset_names()]
        what = f"There is no preset {name}. {did_you_mean(name, names)}".rstrip()
        fixes = (f"--preset {known}" for known in names)
        raise failure("unknown-preset", what, f"The presets are {', '.join(names)}.", *fixes, status=USAGE)
    own = dict(cards()[name]) if name in cards() else _read_file(PRESETS / f"{name}.toml")
    of_class, _ = own.pop("class", None), own.pop("vram_gib", None)
    values = _check_keys(own, f"preset {name}")
    origins = dict.fromkeys(values, f"preset {name}")
    if of_class:
        shared, _ = _read_preset(of_class)
        values, origins = shared | values, dict.fromkeys(shared, f"preset {name} (class {of_class})") | origins
    return values, origins


def _read_file(path: Path) -> dict[str, Any]:
    """The options in a TOML file, or a YAML one by its ending."""
    id, template = "config-does-not-parse", PRESETS / "cpu.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = f"The options file {path} cannot be read."
        raise failure("config-unreadable", what, str(error), "--config FILE", status=USAGE) from None
    try:
        if path.suffix in (".yaml", ".yml"):
            import yaml

            values = yaml.safe_load(text) or {}
        else:
            values = tomllib.loads(text)
    except Exception as error:  # each parser has its own kind; both name the line
        what, fix = f"The options file {path} does not parse.", f"mend the line, or start from a copy of {template}"
        raise failure(id, what, str(error), fix, status=USAGE) from None
    if not isinstance(values, dict):
        why, fix = "A file holds lines of `name = value`.", f"start from a copy of {template}"
        raise failure(id, f"{path} holds no options.", why, fix, status=USAGE)
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def _check_keys(values: dict[str, Any], found_in: object) -> dict[str, Any]:
    """The values. Raises KitError (status 2): a key that no option has, each with the nearest."""
    known = Run.model_fields
    wrong = [command_line.unknown("key", key, known, "train", found_in) for key in values if key not in known]
    if wrong:
        raise KitError(*wrong, status=USAGE)
    return values
