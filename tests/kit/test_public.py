"""import kit: the few names that scripts use, which are the commands' own paths."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kit
from kit.support.version import VERSION

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "examples" / "identity.jsonl"


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, kit; dir(kit); print({'torch', 'pydantic', 'rich', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


def test_every_public_name_is_there_and_documented() -> None:
    assert kit.__version__ == VERSION
    assert dir(kit) == sorted(kit.__all__)
    for name in kit.__all__:
        assert getattr(kit, name).__doc__, name
    with pytest.raises(AttributeError, match="nonsense"):
        kit.nonsense  # noqa: B018 - asked for on purpose


def test_what_type_checkers_see_is_what_is_there() -> None:
    """The names under TYPE_CHECKING and those that are looked up when they are used."""
    tree = ast.parse((ROOT / "kit" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    places = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in typed.body
        for alias in node.names  # type: ignore[attr-defined]
    }
    assert places.keys() == set(kit.__all__) - {"__version__"}
    for name, (module, there) in places.items():
        own = getattr(sys.modules.get(module) or __import__(module, fromlist=[there]), there)
        found = getattr(kit, name)
        assert (found.call if name in ("train", "merge") else found) is own


def test_a_plan_needs_no_file() -> None:
    plan = kit.plan(model="tiny", preset="cpu")
    assert plan.low_bytes < plan.high_bytes


def test_wrong_options_are_findings() -> None:
    for call in (kit.plan, kit.train):
        with pytest.raises(kit.KitError) as error:
            call(lerning_rate=1)
        assert error.value.findings[0].id == "unknown-key"
    with pytest.raises(kit.KitError):
        kit.merge("nowhere", "anywhere", quant="q9")


def test_the_page_is_a_module_too() -> None:
    from kit.train import main

    assert kit.train.main is main


@pytest.mark.torch
def test_from_rows_to_a_merged_model(tmp_path: Path) -> None:
    run, merged = tmp_path / "run", tmp_path / "merged"
    code = f"""
import kit
options = dict(data={str(ROWS)!r}, preset="cpu", backend="hf", output={str(run)!r}, max_steps=2, prompts=["Hi"])
result = kit.train(**options)
assert kit.train(**options) == result, "the same call again has nothing to do"
assert kit.read_run({str(run)!r}).last_step == result.steps == 2
assert kit.merge({str(run)!r}, {str(merged)!r}).passed
talk = kit.Talk({str(run)!r}, max_tokens=4)
assert talk.ask("Who are you?").tokens and talk.names == ["base", "run"]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
