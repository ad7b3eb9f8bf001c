"""Words of a command line -> the options of a door. Whatever is wrong with them is a finding of one shape, status 2."""

import re
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from envcheck.facts import Finding
from kit.options.help_page import help_page
from kit.options.option import Door, Option, options_of
from kit.options.words import nearest
from kit.support.errors import USAGE, KitError, near_name, problem

FLAG = re.compile(r"--?[A-Za-z]")  # a negative number or a lone dash is a value
SWITCH_VALUES = ("auto", "on", "off")  # after a switch, and its own; any other word there is not its value
LONGEST_SHOWN = 60  # characters of a wrong value
Model = TypeVar("Model", bound=BaseModel)
AnyDoor = TypeVar("AnyDoor", bound=Door)
Given = dict[str, str | list[str]]


def parse(kind: type[AnyDoor], argv: Sequence[str]) -> AnyDoor:
    """The options of a door whose values all come from its command line.

    Raises KitError (status 2): an unknown option, a value that is missing or wrong. SystemExit: after --help.
    """
    given = read(kind, argv)
    return build(kind, given, dict.fromkeys(given, "flag"), kind.door)


def from_call(kind: type[AnyDoor], options: Mapping[str, Any]) -> AnyDoor:
    """The same of options given in Python, as a notebook does. Raises KitError (status 2): as `parse`."""
    return build(kind, options, dict.fromkeys(options, "call"), kind.door)


def typed_as(door: str) -> str:
    """The door as it works when it is typed: `kit train` where this program is that script, else python -m."""
    return f"kit {door}" if is_script() else f"python -m kit.{door}"


def is_script() -> bool:
    """Whether the installed `kit` was called; without an installation it is not on the path."""
    program = Path(sys.argv[0])
    return program.stem == "kit" and program.suffix in ("", ".exe")


def read(kind: type[Door], argv: Sequence[str]) -> Given:
    """Name -> what was given for it, as texts; a list where several may stand.

    Raises KitError (status 2): an unknown option, a value that is missing. SystemExit: after --help.
    """
    if (topic := _help_topic(argv)) is not None:
        print(help_page(kind, topic, typed_as(kind.door)))
        raise SystemExit(0)
    options, flags = options_of(kind), flags_of(kind)
    keys = [flag[2:].replace("-", "_") for flag in [*flags, "--help"] if flag.startswith("--")]
    positional = next((option for option in options.values() if option.typed.positional), None)
    given: Given = {}
    problems: list[Finding] = []
    end = argv.index("--") if "--" in argv else len(argv)  # behind it no word is an option
    words, only_values = deque(argv[:end]), argv[end + 1 :]
    while words:
        word = words.popleft()
        if not FLAG.match(word):
            problems += _add_positional(given, positional, word, kind.door)
            continue
        flag, equals, text = word.partition("=")
        option, value = flags.get(re.sub("[_.]", "-", flag), (None, None))
        if option is None:
            problems.append(unknown("option", flag, keys, kind.door))
            _values(words)
        elif values := [text] if equals else [value] if value else _values_of(option, words):
            given[option.name] = [*given.get(option.name, []), *values] if option.is_list else values[-1]
        else:
            problems.append(_missing_value(option, kind.door))
    for word in only_values:
        problems += _add_positional(given, positional, word, kind.door)
    if problems:
        raise KitError(*problems, status=USAGE)
    return given


def _help_topic(argv: Sequence[str]) -> str | None:
    """The word after --help, "" where none stands there; None where no help is asked for."""
    for place, word in enumerate(argv):
        flag, _, topic = word.partition("=")
        if flag in ("-h", "--help"):
            return topic or next((word for word in argv[place + 1 : place + 2] if not FLAG.match(word)), "")
    return None


def flags_of(kind: type[Door]) -> dict[str, tuple[Option, str | None]]:
    """Everything that may be typed with a dash -> its option, and the value that the flag stands for by itself."""
    flags: dict[str, tuple[Option, str | None]] = {}
    for option in options_of(kind).values():
        flags[option.flag] = (option, None)
        if option.typed.short:
            flags[option.typed.short] = (option, None)
        if option.is_switch:
            flags[f"--no-{option.flag[2:]}"] = (option, "off")
    return flags


def _values(words: deque[str]) -> list[str]:
    """Takes the words before the next flag."""
    values = list(takewhile(lambda word: not FLAG.match(word), words))
    for _ in values:
        words.popleft()
    return values


def _values_of(option: Option, words: deque[str]) -> list[str]:
    """Takes what belongs to the flag that was read last; [] where its value is missing."""
    if option.is_list:
        return _values(words)
    if option.is_switch:
        return [words.popleft()] if words and words[0] in (*SWITCH_VALUES, *option.literals) else ["on"]
    return [words.popleft()] if words and not FLAG.match(words[0]) else []


def _add_positional(given: Given, option: Option | None, word: str, door: str) -> list[Finding]:
    if option and option.is_list:
        given[option.name] = [*given.get(option.name, []), word]
    elif option and option.name not in given:
        given[option.name] = word
    else:
        what = f"{word} is one too many: {typed_as(door)} takes one {option.metavar if option else 'option'} only."
        why = "A word without an option in front would otherwise be left out in silence."
        return [problem("unexpected-argument", what, why, f"{typed_as(door)} --help")]
    return []


def _missing_value(option: Option, door: str) -> Finding:
    return problem(
        "missing-value",
        f"{option.flag} needs a value: {option.takes}.",
        "A word that begins with a dash is read as the next option.",
        f"{option.flag} {option.metavar}",
        f"{option.flag}=VALUE        (for a value that begins with a dash)",
        _help_on(option, door),
    )


def unknown(
    what: Literal["option", "key"], name: str, known: Iterable[str], door: str, found_in: object = None
) -> Finding:
    """A name that no option has, with the one that was meant."""
    word = nearest(name, known)
    near = _as_typed(what, word.ours)
    return problem(
        f"unknown-{what}",
        f"There is no {what} {name}. {f'Did you mean {near}?' if near else ''}".rstrip(),
        word.remark or "A misspelt name would otherwise be left out in silence.",
        near or f"{typed_as(door)} --help",
        details={"found in": found_in} if found_in else None,
    )


def _as_typed(what: Literal["option", "key"], ours: str) -> str:
    """NAME or NAME=VALUE as a flag or as a line of a file."""
    name, equals, value = ours.partition("=")
    if what == "key" or not name:
        return f'{name} = "{value}"' if equals else name
    return f"--{name.replace('_', '-')}{f' {value}' if equals else ''}"


def build(kind: type[Model], values: Mapping[str, Any], origins: Mapping[str, str], door: str) -> Model:
    """The model of those values. origins: name -> where its value is from.

    Raises KitError (status 2): a value that is missing or wrong, one finding for each option.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise KitError(*wrong_values(kind, error, origins, door), status=USAGE) from None


def wrong_values(kind: type[BaseModel], error: ValidationError, origins: Mapping[str, str], door: str) -> list[Finding]:
    """One finding for each option that pydantic does not take, and one for options that do not go together."""
    options = options_of(kind)
    findings: dict[str, Finding] = {}
    for item in error.errors(include_url=False):
        name = next((str(part) for part in item["loc"] if part in options), "")
        if name in findings:
            continue
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            findings[key] = unknown("key", key, options, door, "the call")
        elif not name:
            what = item["msg"].removeprefix("Value error, ")
            findings[what] = _wrong_value(f"{what}.", f"{typed_as(door)} --help")
        elif item["type"] == "missing":
            findings[name] = _missing_option(options, name, door)
        else:
            findings[name] = _wrong_value_of(options[name], item["input"], origins.get(name, ""), door)
    return list(findings.values())


def _wrong_value_of(option: Option, value: object, origin: str, door: str) -> Finding:
    given = str(value) if len(str(value)) <= LONGEST_SHOWN else f"{str(value)[:LONGEST_SHOWN]}..."
    is_flag = origin == "flag"
    name = option.flag if is_flag else option.name
    near = near_name(given, option.literals)
    fixes = [_as_typed("option" if is_flag else "key", f"{option.name}={near}")] if near else []
    where = None if origin in ("", "flag", "call", "default") else origin
    return _wrong_value(f"{name} takes {option.takes}, not {given}.", *fixes, _help_on(option, door), found_in=where)


def _wrong_value(what: str, *fixes: str, found_in: str | None = None) -> Finding:
    details = {"found in": found_in} if found_in else None
    return problem("wrong-value", what, "Options are checked before anything is loaded.", *fixes, details=details)


def _missing_option(options: Mapping[str, Option], name: str, door: str) -> Finding:
    needed = (option for option in options.values() if option.is_required)
    words = (other.metavar if other.typed.positional else f"{other.flag} {other.metavar}" for other in needed)
    usage, option = " ".join([typed_as(door), *words]), options[name]
    return problem("missing-option", f"{option.flag} is missing.", option.help, usage, _help_on(option, door))


def _help_on(option: Option, door: str) -> str:
    return f"{typed_as(door)} --help {option.group}".rstrip()
