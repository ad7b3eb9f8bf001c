"""Sources of the installed libraries, read and never imported: a definition is cut out by its lines and parsed alone,
as a whole file of Unsloth's takes half a second.

Names are dotted. Of a module: transformers.trainer; of a definition in it, with its class: Trainer.training_step.
"""

import ast
import contextlib
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

HEAD = re.compile(r"(?P<indent>[ ]*)(?:(?:async )?def |class |(?=\w+(?:: [^\n=]+)? = ))(?P<name>\w+)")
IMPORT = re.compile(r"^[ ]*from (\.*[\w.]*) import (\((?:[^)#]|#[^\n]*)*\)|[^\n(]+)", re.MULTILINE)

# where star imports and lazy modules hide a name
HIDDEN = {
    "transformers.AutoConfig": "transformers.models.auto.configuration_auto",
    "transformers.AutoModelForCausalLM": "transformers.models.auto.modeling_auto",
    "transformers.AutoTokenizer": "transformers.models.auto.tokenization_auto",
    "unsloth.FastLanguageModel": "unsloth.models.loader",
}


class Missing(Exception):
    """A module or a definition that is not, or no longer, there; says which."""


@dataclass(frozen=True)
class Place:
    """A definition in a module; name "": the module itself."""

    module: str
    name: str = ""

    def __str__(self) -> str:
        return f"{path_of(self.module).relative_to(site(self.module))}{f', {self.name}' if self.name else ''}"


@cache
def site(module: str) -> Path:
    """The folder that the library of a module is installed in."""
    library = module.partition(".")[0]
    try:
        return Path(str(distribution(library).locate_file("")))
    except PackageNotFoundError:
        raise Missing(f"there is no library {library}") from None


@cache
def path_of(module: str) -> Path:
    folder = site(module).joinpath(*module.split("."))
    for path in (folder / "__init__.py", folder.with_name(f"{folder.name}.py")):
        if path.is_file():
            return path
    raise Missing(f"there is no module {module}")


@cache
def text_of(module: str) -> str:
    return path_of(module).read_text(encoding="utf-8")


def is_module(name: str) -> bool:
    try:
        return bool(path_of(name))
    except Missing:
        return False


@cache
def definition(place: Place) -> ast.Module:
    """The parsed definition: a function, class or assignment; of a place without a name the whole file.

    Raises Missing.
    """
    return _cut(text_of(place.module), place) if place.name else ast.parse(text_of(place.module))


def _cut(text: str, place: Place) -> ast.Module:
    """The shortest piece from the definition's first line that is a program: what follows stands no further in."""
    indent = None
    for name in place.name.split("."):
        inside = [head for head in _named(name, text) if indent is None or head.indent == indent + 4]
        found = min(inside, key=lambda head: head.indent, default=None)  # the first of those furthest out
        if found is None or (indent is not None and any(True for _ in _ends(text[: found.start], indent))):
            raise Missing(f"{place.module} has no {place.name}")
        indent, text = found.indent, text[found.start :]
        first = text.find("\n") + 1
        head, text = text[:first], text[first:]
    for end in itertools.chain(_ends(text, indent), [len(text)]):
        piece = head + text[:end]
        if indent:
            piece = "\n".join(line[indent:] if line[:indent].isspace() else line for line in piece.split("\n"))
        with contextlib.suppress(SyntaxError):  # the middle of a text, or of a bracket
            return ast.parse(piece)
    raise Missing(f"{place} cannot be read")


def _ends(text: str, indent: int) -> Iterator[int]:
    """Where lines begin that stand no further in."""
    return (match.start() for match in re.finditer(rf"^ {{0,{indent}}}[^\s#)\]}}]", text, re.MULTILINE))


@dataclass(frozen=True)
class Head:
    """Where a definition of a name begins, and how far in."""

    start: int
    indent: int


def _named(name: str, text: str) -> Iterator[Head]:
    """Definitions of this name, by plain search: a pattern over a whole file takes longer than its parts' parsing."""
    at = text.find(name)
    while at >= 0:
        start = text.rfind("\n", 0, at) + 1
        if text[at + len(name) : at + len(name) + 1] in tuple("(:= ") and not text[:start].endswith("@overload\n"):
            found = HEAD.match(text, start)
            if found and found["name"] == name:
                yield Head(start, len(found["indent"]))
        at = text.find(name, at + 1)


@cache
def place_of(name: str) -> Place:
    """Where a public name, such as peft.PeftModel.from_pretrained, is defined: imports and base classes are followed.

    Raises Missing.
    """
    module, rest = name, ""
    while not is_module(module):
        module, _, last = module.rpartition(".")
        rest = f"{last}.{rest}".rstrip(".")
        if not module:
            raise Missing(f"there is no {name}")
    first, _, attribute = rest.partition(".")
    return _attribute(_found(module, first), attribute) if first else Place(module)


@cache
def _found(module: str, name: str) -> Place:
    if f"{module}.{name}" in HIDDEN:
        return Place(HIDDEN[f"{module}.{name}"], name)
    if any(True for _ in _named(name, text_of(module))):
        return Place(module, name)
    stars = []
    for match in IMPORT.finditer(text_of(module)):
        if name in match[2]:
            for origin, alias in re.findall(r"(\w+)(?: as (\w+))?", re.sub("#.*", "", match[2])):
                if (alias or origin) == name:
                    target = _absolute(match[1], module)
                    if target.partition(".")[0] in sys.stdlib_module_names:
                        return Place(module)
                    return Place(f"{target}.{origin}") if is_module(f"{target}.{origin}") else _found(target, origin)
        elif match[2].strip() == "*":
            stars.append(_absolute(match[1], module))
    for target in stars:
        with contextlib.suppress(Missing):
            return _found(target, name)
    raise Missing(f"{module} has no {name}")


def _absolute(target: str, module: str) -> str:
    dots = len(target) - len(target.lstrip("."))
    if not dots:
        return target
    parts = module.split(".")
    package = parts if path_of(module).name == "__init__.py" else parts[:-1]
    return ".".join([*package[: len(package) - dots + 1], *filter(None, [target.lstrip(".")])])


def _attribute(place: Place, attribute: str) -> Place:
    """A class's method, its own or the first of its base classes."""
    if not attribute:
        return place
    for owner in classes(place):
        whole = Place(owner.module, f"{owner.name}.{attribute}")
        try:
            definition(whole)
        except Missing:
            continue
        return whole
    raise Missing(f"{place.name} in {place.module} has no {attribute}")


@cache
def classes(place: Place) -> tuple[Place, ...]:
    """The class and its base classes, as far as they are in the libraries."""
    head = re.search(
        rf"^class {re.escape(place.name)}\b(?P<bases>\((?:[^()]|\([^()]*\))*\))?:", text_of(place.module), re.MULTILINE
    )
    bases: list[Place] = []
    for base in ast.parse(f"class A{head['bases'] or ''}: pass").body[0].bases if head else ():
        try:
            bases += classes(_found(place.module, ast.unparse(base)))
        except Missing:  # object, or one of another library
            continue
    return (place, *bases)
