"""What the kit takes from the libraries, read from its own sources: every name, and every call with its keywords."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARIES = frozenset(
    ("unsloth", "unsloth_zoo", "trl", "transformers", "peft", "accelerate", "bitsandbytes", "datasets",
     "huggingface_hub", "optuna")
)  # fmt: skip
IMPORTS = re.compile(rf"^\s*(?:from|import) (?:{'|'.join(LIBRARIES)})\b", re.MULTILINE)


@dataclass(frozen=True)
class Use:
    """A dotted name of a library; where it is called, the names of its keywords."""

    name: str
    keywords: frozenset[str]
    file: str


@cache
def uses() -> tuple[Use, ...]:
    """Of the kit and of envcheck, whose smoke tests are programs in texts."""
    found = [
        use
        for room in ("kit", "envcheck")
        for path in sorted((ROOT / room).rglob("*.py"))
        for tree in _programs(path)
        for use in _uses(tree, path.relative_to(ROOT).as_posix())
    ]
    return tuple(dict.fromkeys(found))


def _programs(path: Path) -> Iterator[ast.Module]:
    text = path.read_text(encoding="utf-8")
    if not IMPORTS.search(text):
        return
    tree = ast.parse(text)
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nimport " in node.value:
            yield ast.parse(node.value)


def _uses(tree: ast.Module, file: str) -> Iterator[Use]:
    names = dict(_imports(tree))
    yield from (Use(name, frozenset(), file) for name in names.values())
    nodes = list(ast.walk(tree))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    called = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        first, _, rest = dotted(node).partition(".")
        if first in names and id(node) not in inner:
            call = called.get(id(node))
            keywords = frozenset(word.arg for word in call.keywords if word.arg) if call else frozenset()
            yield Use(f"{names[first]}.{rest}".rstrip("."), keywords, file)


def dotted(node: ast.AST) -> str:
    """a.b.c of such an expression; "" of others."""
    if isinstance(node, ast.Name):
        return node.id
    above = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{above}.{node.attr}" if above else ""


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name in the file -> dotted name of the library's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in LIBRARIES:
                    bound = alias.name if alias.asname else alias.name.partition(".")[0]
                    yield alias.asname or bound, bound
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def passed(file: str, callee: str) -> frozenset[str]:
    """Keywords that a file of the kit passes to what it calls by this name."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == callee]
    if not calls:
        raise ValueError(f"{file} does not call {callee} any more: its contract goes")
    return frozenset(word.arg for call in calls for word in call.keywords if word.arg)
