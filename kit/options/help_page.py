"""What --help says: a page that fits a screen, and every option with its values and default in words."""

import inspect
import shutil
import textwrap

from kit.options.option import Door, Option, groups_of, options_of
from kit.support.errors import USAGE, did_you_mean, failure

MOST_LEFT = 28  # columns of an option and its value
LEAST_WIDTH, MOST_WIDTH = 80, 110  # columns


def help_page(kind: type[Door], topic: str, typed: str) -> str:
    """The page of that door: of its common options where `topic` is "", of a group, or of "all".

    typed: how the door is called. Raises KitError (status 2): no such group.
    """
    groups = groups_of(kind)
    if not topic:
        return _first_page(kind, groups, typed)
    if topic not in (*groups, "all"):
        names = [*groups, "all"]
        what = f"There is no group of options {topic}. {did_you_mean(topic, names)}".rstrip()
        why = f"The groups are {', '.join(names)}."
        raise failure("unknown-group", what, why, f"{typed} --help GROUP", status=USAGE)
    return "\n\n".join(_group(kind, name, groups[name]) for name in (groups if topic == "all" else [topic]))


def _first_page(kind: type[Door], groups: dict[str, str], typed: str) -> str:
    options = options_of(kind)
    about = inspect.cleandoc(kind.__doc__ or "").replace(f"kit {kind.door}", typed)
    shown = [options[name] for name in kind.common] or list(options.values())
    lines = [about, "", *_entries([(_left(option), _first_sentence(option)) for option in shown]), ""]
    if kind.common:
        lines.append(f"All {len(options)} options, with their values and defaults: {typed} --help GROUP")
        lines += _entries([(f"  {name}", heading) for name, heading in (groups | {"all": "Every option."}).items()])
    else:
        lines.append(f"More on each, with its values and default: {typed} --help all")
    return "\n".join(lines)


def _group(kind: type[Door], name: str, heading: str) -> str:
    options = [option for option in options_of(kind).values() if option.group == name]
    return "\n".join([heading, *_entries([(_left(option), _whole_help(option)) for option in options])])


def _left(option: Option) -> str:
    flags = f"{option.typed.short}, {option.flag}" if option.typed.short else option.flag
    if option.typed.positional:
        flags = f"[{flags}]"
    return f"  {flags}" if option.schema.get("type") == "boolean" else f"  {flags} {option.metavar}"


def _entries(pairs: list[tuple[str, str]]) -> list[str]:
    """Lines in two columns; the right one begins on a line of its own where the left one is too long."""
    width = max(LEAST_WIDTH, min(shutil.get_terminal_size((MOST_WIDTH, 0)).columns, MOST_WIDTH))
    column = max((len(left) + 2 for left, _ in pairs if len(left) + 2 <= MOST_LEFT), default=MOST_LEFT)
    indent, lines = " " * column, []
    for left, right in pairs:
        text = textwrap.fill(right, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        lines += [left, text] if len(left) >= column else [left.ljust(column) + text[column:]]
    return lines


def _first_sentence(option: Option) -> str:
    return f"{option.help.partition('. ')[0].rstrip('.')}.{_values(option)}"


def _whole_help(option: Option) -> str:
    """With what it takes and its default, where the text does not say them."""
    takes = f" Takes {option.takes}." if "number" in option.takes else _values(option)
    is_said = "Default:" in option.help or option.default in (None, (), "", False)
    return option.help + takes + ("" if is_said else f" Default: {_in_words(option.default)}.")


def _values(option: Option) -> str:
    """The words that it takes, where they do not stand beside the flag."""
    is_shown = not option.literals or option.literals[0] in option.metavar
    return "" if is_shown else f" Takes {option.takes}."


def _in_words(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
