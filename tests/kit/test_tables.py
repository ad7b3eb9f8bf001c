"""A method of training is one record in one table, and stands by name nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.options import METHODS, Run
from kit.options.methods import TAKEN_BY, method_of

KIT = Path(__file__).parents[2] / "kit"
COMMON_WORDS = {"prompt", "prefix"}  # also keys of rows and of servers' answers


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each string in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def places(words: set[str], but: set[str]) -> list[str]:
    """Where in kit one of the words is a string of its own."""
    files = (path for path in KIT.rglob("*.py") if path.relative_to(KIT).as_posix() not in but)
    return [f"{path.relative_to(KIT)}:{line} {text}" for path in files for line, text in strings(path) if text in words]


def test_methods_are_named_in_their_table_only() -> None:
    assert places(METHODS.keys() - COMMON_WORDS, {"options/methods.py"}) == []


def test_no_method_is_compared_by_its_name() -> None:
    found = []
    for path in KIT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and getattr(node.left, "attr", getattr(node.left, "id", "")) == "method":
                found += [
                    f"{path.relative_to(KIT)}:{node.lineno}"
                    for other in node.comparators
                    for constant in ast.walk(other)
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
                ]
    assert found == []


def test_each_method_is_an_option_of_a_run() -> None:
    assert [Run(method=name).method for name in METHODS] == list(METHODS)
    with pytest.raises(ValueError, match="method"):
        Run(method="adalora")
    assert {name for names in TAKEN_BY.values() for name in names} == {
        name for name, method in METHODS.items() if not method.trains_whole_model
    }
    assert TAKEN_BY.keys() <= Run.model_fields.keys()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.trains_whole_model])
def test_an_adapters_config_names_its_method(name: str) -> None:
    method = METHODS[name]
    assert method_of({"peft_type": method.kind, **method.peft_settings}) is method


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"peft_type": "LORA", "use_dora": True, "use_rslora": True}, "dora"),
        ({"peft_type": "LORA", "use_dora": None}, "lora"),
        ({"peft_type": "PREFIX_TUNING"}, "p-tuning-v2"),
    ],
)
def test_settings_that_are_missing_or_several(config: dict, name: str) -> None:
    assert method_of(config) is METHODS[name]


@pytest.mark.parametrize("config", [{}, {"peft_type": "ADALORA"}, {"peft_type": "WEIGHTS"}, {"peft_type": ["LORA"]}])
def test_adapters_that_the_kit_does_not_use(config: dict) -> None:
    assert method_of(config) is None
