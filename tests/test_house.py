"""The house: a name means one thing, a function is read at one sight."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("kit", "envcheck", "notebooks", "benchmarks", "scripts")
PROMISED = ("kit", "envcheck")  # what others import; the rest are programs of our own
LONGEST_FUNCTION_LINES = 60
MOST_ARGUMENTS = 6
EVERY_PACKAGE_HAS = ("__init__.py", "__main__.py")
SAME_THING = {  # file name -> why two files of kit have it
    "methods.py": "a method's record, and what PEFT makes of it",
    "merging.py": "the arithmetic of a merge, and how a notebook shows one",
    "options.py": "the options of one door, in its own room",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def files(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def nodes(kind: type | object, *packages: str) -> Iterator[tuple[str, ast.AST]]:
    """(file, node) for each node of that kind."""
    for path in files(*packages):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield str(path.relative_to(ROOT)), node


def arguments(function: Function) -> list[str]:
    found = function.args
    names = [one.arg for one in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def test_a_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for file, node in nodes(ast.ClassDef, *PACKAGES):
        places[node.name].append(file)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_a_file_name_means_one_thing() -> None:
    places = defaultdict(list)
    for path in files("kit"):
        places[path.name].append(str(path.relative_to(ROOT)))
    twice = {name: found for name, found in places.items() if len(found) > 1 and name not in EVERY_PACKAGE_HAS}
    assert {name: found for name, found in twice.items() if name not in SAME_THING} == {}
    assert SAME_THING.keys() <= twice.keys(), "a reason without two files"


def test_a_function_is_read_at_one_sight() -> None:
    lengths = [(file, node.name, node.end_lineno - node.lineno + 1) for file, node in nodes(Function, *PROMISED)]
    assert [found for found in lengths if found[2] > LONGEST_FUNCTION_LINES] == []


def test_a_function_takes_few_arguments() -> None:
    counts = [(file, node.name, len(arguments(node))) for file, node in nodes(Function, *PROMISED)]
    assert [found for found in counts if found[2] > MOST_ARGUMENTS] == []


def test_no_class_stands_in_a_function() -> None:
    """It would be another class at each call, and nobody could name or test it."""
    inside = [(file, node.name, inner.name) for file, node in nodes(Function, *PROMISED) for inner in ast.walk(node)
              if isinstance(inner, ast.ClassDef)]  # fmt: skip
    assert inside == []
