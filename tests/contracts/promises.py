"""Kinds of promise that a library's definition makes, and what in its source keeps them.

`kept` gives for each part of a promise the nodes that keep it: none, and the part is broken.
"""

import ast
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.contracts.kit_uses import dotted
from tests.contracts.library_source import Place, classes, definition, place_of


class Promise(ABC):
    @abstractmethod
    def kept(self, tree: ast.AST) -> dict[str, list[ast.AST]]:
        """Part of the promise in words -> the nodes that keep it."""

    def broken(self, tree: ast.AST) -> list[str]:
        return [part for part, nodes in self.kept(tree).items() if not nodes]


class Takes(Promise):
    """These can be passed by name: to a function as a parameter or out of its **kwargs, to a dataclass as a field."""

    def __init__(self, *names: str):
        self.names = sorted(names)

    def kept(self, tree: ast.AST) -> dict[str, list[ast.AST]]:
        taken: dict[str, list[ast.AST]] = {}
        for name, node in itertools.chain.from_iterable(map(_taken, ast.iter_child_nodes(tree))):
            taken.setdefault(name, []).append(node)
        return {f"takes {name}": taken.get(name, []) for name in self.names}


def _taken(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.ClassDef):
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                yield part.target.id, part.target
            elif isinstance(part, ast.FunctionDef) and part.name in ("__init__", "__new__"):
                yield from _taken(part)
    if isinstance(node, ast.FunctionDef):
        whole = node.args
        named = [*whole.posonlyargs, *whole.args, *whole.kwonlyargs, *([whole.kwarg] if whole.kwarg else [])]
        yield from ((arg.arg, arg) for arg in named)
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and dotted(call.func) in ("kwargs.pop", "kwargs.get", "kwargs.setdefault"):
                yield str(getattr(call.args[0], "value", "")), call.args[0]


class Defaults(Promise):
    """Parameters that have these values where nothing is passed."""

    def __init__(self, **values: object):
        self.values = {name: ast.dump(ast.parse(repr(value)).body[0].value) for name, value in values.items()}  # type: ignore[attr-defined]

    def kept(self, tree: ast.AST) -> dict[str, list[ast.AST]]:
        found = dict(pair for node in ast.walk(tree) if isinstance(node, ast.arguments) for pair in _defaults(node))
        return {
            f"{name} has its default": [found[name]] if name in found and ast.dump(found[name]) == form else []
            for name, form in self.values.items()
        }


def _defaults(node: ast.arguments) -> Iterator[tuple[str, ast.AST]]:
    positional = [*node.posonlyargs, *node.args]
    yield from ((arg.arg, value) for arg, value in zip(reversed(positional), reversed(node.defaults), strict=False))
    yield from ((arg.arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value)


class IsThere(Promise):
    """The definition itself; where it is gone, reading it says so."""

    def kept(self, tree: ast.AST) -> dict[str, list[ast.AST]]:
        return {"is there": [node for node in ast.iter_child_nodes(tree) if hasattr(node, "name")]}


class Parameters(Promise):
    """Its parameters begin with these, in this order: so it is called, or so the kit's own is called in its place."""

    def __init__(self, *names: str):
        self.names = list(names)

    def kept(self, tree: ast.AST) -> dict[str, list[ast.AST]]:
        functions = [node for node in ast.iter_child_nodes(tree) if isinstance(node, ast.FunctionDef)]
        whole = functions[0].args if functions else ast.arguments([], [], None)
        first = [*whole.posonlyargs, *whole.args][: len(self.names)]
        keeping = [arg for arg, name in zip(first, self.names, strict=False) if arg.arg == name]
        anything = functions if whole.vararg else []  # passed on to a base class's
        return {f"begins with {', '.join(self.names)}": keeping if len(keeping) == len(self.names) else anything}


class Does(Promise):
    """Each of these statements or expressions stands in it, however it is set."""

    def __init__(self, *codes: str):
        self.codes = codes

    def kept(self, tree: ast.AST) -> dict[str, list[ast.AST]]:
        return {f"`{code}`": _standing(code, tree) for code in self.codes}


class InOrder(Does):
    """Does, one after the other."""

    def kept(self, tree: ast.AST) -> dict[str, list[ast.AST]]:
        found = super().kept(tree)
        firsts = [min((node.lineno, node.col_offset) for node in nodes) for nodes in found.values() if nodes]  # type: ignore[attr-defined]
        in_order = firsts == sorted(firsts) and len(firsts) == len(found)
        return {**found, "in this order": [node for nodes in found.values() for node in nodes] if in_order else []}


class Says(Promise):
    """A text with these words stands in it."""

    def __init__(self, *words: str):
        self.words = words

    def kept(self, tree: ast.AST) -> dict[str, list[ast.AST]]:
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        return {f"says {words!r}": [node for node in texts if words in str(node.value)] for words in self.words}


def _standing(code: str, tree: ast.AST) -> list[ast.AST]:
    (statement,) = ast.parse(code).body
    wanted = statement.value if isinstance(statement, ast.Expr) else statement
    return forms(tree, type(wanted)).get(ast.dump(wanted), [])


@cache
def forms(tree: ast.AST, kind: type[ast.AST]) -> dict[str, list[ast.AST]]:
    """Nodes of a kind by what they say."""
    found: dict[str, list[ast.AST]] = {}
    for node in ast.walk(tree):
        if type(node) is kind:
            found.setdefault(ast.dump(node), []).append(node)
    return found


@dataclass(frozen=True)
class Contract:
    """What definitions in a library must hold between them, and the words in a file of the kit that rely on it.

    places: "module:definition", or a public name as the kit imports it, of a class with its base classes.
    """

    places: tuple[str, ...]
    promise: Promise
    file: str
    words: str

    def __str__(self) -> str:
        return f"{self.places[0]} for {self.file}: {self.words}"

    def source(self) -> ast.Module:
        """Raises Missing."""
        trees = [definition(place) for name in self.places for place in _read(name)]
        return trees[0] if len(trees) == 1 else ast.Module([node for tree in trees for node in tree.body], [])


def _read(name: str) -> tuple[Place, ...]:
    if ":" in name:
        return (Place(*name.split(":")),)
    return classes(place_of(name))


def contracts(*rows: tuple[str, Promise, str, str]) -> tuple[Contract, ...]:
    """Of rows: place, promise, file of the kit, words in it."""
    return tuple(Contract((place,), promise, file, words) for place, promise, file, words in rows)
