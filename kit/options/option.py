"""What an option is: a field of a pydantic model. Its name is the flag and the key in a file, its docstring the help,
and its type says which values it takes."""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LONGEST_LITERALS = 18  # characters; longer lists stand in the text only


@dataclass(frozen=True)
class Typed:
    """How an option is typed, where it is not as --its-name VALUE.

    positional: words that follow no flag are its values too. hidden: it is not typed at all.
    """

    name: str = ""
    short: str = ""
    positional: bool = False
    hidden: bool = False


class Options(BaseModel):
    """Options that belong together; a model that has others among its fields has their options too.

    The first line of a docstring is the heading of the group.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    group: ClassVar[str] = ""  # the word after --help that tells of these

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object, info: ValidationInfo) -> object:
        """What is given in Python for an option that takes several may be one alone: prompts="Who are you?"."""
        takes_several = get_origin(cls.model_fields[info.field_name or ""].annotation) is tuple
        return (value,) if takes_several and isinstance(value, str | Path | int | float) else value


class Door(Options):
    """What the command does with them.

    The options of one command. The docstring of each is the head of its --help: what it does, then examples, set in.
    """

    group = "command"
    door: ClassVar[str]  # as in `kit train`
    common: ClassVar[tuple[str, ...]] = ()  # those that --help tells of; () where it tells of all

    json_output: Annotated[bool, Typed("json")] = False
    """Print the result as JSON on standard output."""


@dataclass(frozen=True)
class Option:
    """name: the field's, and the key in a file. schema: JSON schema of its values."""

    name: str
    typed: Typed
    group: str
    help: str
    default: Any
    is_required: bool
    schema: Mapping[str, Any]

    @property
    def flag(self) -> str:
        return f"--{(self.typed.name or self.name).replace('_', '-')}"

    @property
    def is_list(self) -> bool:
        return self.schema.get("type") == "array"

    @property
    def is_switch(self) -> bool:
        """Whether the flag alone means on, and --no-FLAG off."""
        return self.schema.get("type") == "boolean" or {"on", "off"} <= set(self.schema.get("enum", ()))

    @property
    def literals(self) -> list[str]:
        """The words that it takes, [] where others are taken too."""
        values = self.schema.get("items", self.schema)
        return [str(value) for value in values.get("enum", ())]

    @property
    def metavar(self) -> str:
        """What stands for its value in an example."""
        values = self.schema.get("items", self.schema)
        kinds = {"integer": "N", "number": "X", "path": "PATH"}
        name = kinds.get(values.get("format", values.get("type")), self.name.rpartition("_")[2].upper())
        literals = "|".join(self.literals)
        if literals and len(literals) <= LONGEST_LITERALS:
            name = literals
        return f"{name} ..." if self.is_list else name

    @property
    def takes(self) -> str:
        """Its values in words."""
        return _in_words(self.schema)


@functools.cache
def options_of(kind: type[BaseModel]) -> dict[str, Option]:
    """Name -> option, those of models among the fields included."""
    schemas = kind.model_json_schema()["properties"]
    options: dict[str, Option] = {}
    for name, field in sorted(kind.model_fields.items(), key=lambda item: item[0] in Door.model_fields):
        typed = next((mark for mark in field.metadata if isinstance(mark, Typed)), Typed())
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            options |= options_of(field.annotation)
        elif not typed.hidden:
            group = getattr(_owner(kind, name), "group", "")
            text = " ".join((field.description or "").split())
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            schema = _without_null(schemas[name])
            options[name] = Option(name, typed, group, text, default, field.is_required(), schema)
    return options


def groups_of(kind: type[BaseModel]) -> dict[str, str]:
    """Group of options -> its heading."""
    nested = [field.annotation for field in kind.model_fields.values() if isinstance(field.annotation, type)]
    headings: dict[str, str] = {}
    for model in nested:
        if issubclass(model, BaseModel):
            headings |= groups_of(model)
    owners = {_owner(kind, name) for name in kind.model_fields}
    for base in reversed(kind.__mro__):
        if base in owners and (group := getattr(base, "group", "")) and group not in headings:
            headings[group] = inspect.cleandoc(base.__doc__ or "").partition("\n")[0]
    return headings


def _owner(kind: type[BaseModel], name: str) -> type[BaseModel]:
    """The class that the field of that name comes from."""
    return [base for base in kind.__mro__ if name in inspect.get_annotations(base)][-1]


def _without_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the values other than None; of a single literal as of several."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    return kinds[0] if len(kinds) == 1 else {**schema, "anyOf": kinds} if kinds else schema


def _in_words(schema: Mapping[str, Any]) -> str:
    if kinds := schema.get("anyOf"):
        return " or ".join(map(_in_words, kinds))
    if literals := schema.get("enum", [schema["const"]] if "const" in schema else []):
        *others, last = map(str, literals)
        return f"{', '.join(others)} or {last}" if others else last
    if schema.get("type") == "array":
        return f"one or more, each {_in_words(schema['items'])}"
    if schema.get("type") in ("integer", "number"):
        return f"{'a whole number' if schema['type'] == 'integer' else 'a number'}{_bounds(schema)}"
    return {"boolean": "on or off", "path": "a path"}.get(schema.get("format", schema.get("type")), "a text")


def _bounds(schema: Mapping[str, Any]) -> str:
    words = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "up to"}
    return "".join(f" {word} {schema[key]:g}" for key, word in words.items() if key in schema)
