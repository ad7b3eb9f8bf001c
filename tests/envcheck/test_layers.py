"""Imports point one way, only the standard library is used, and every file parses on Python 3.8."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "envcheck"
FILES = sorted(PACKAGE.rglob("*.py"))
LEVELS = {
    "versions": 0,
    "facts": 1,
    "known": 1,
    "shell": 2,
    "streams": 0,
    "wheels": 3,
    "other_gpus": 2,
    "visible": 4,
    "causes": 4,
    "rules": 5,
    "probe": 3,
    "explain": 6,
    "settings": 5,
    "report": 6,
    "card": 7,
    "install": 7,
    "__main__": 8,
    "__init__": 0,
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].replace(".py", "")


def imports(path: Path) -> list:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file(path):
    source = path.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    assert len(source.splitlines()) <= 400
    for name in imports(path):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or top == "envcheck", name
        if top == "envcheck":
            other = name.split(".")[1]
            assert other in LEVELS, name
            assert LEVELS[other] < LEVELS[part_of(path)] or other == part_of(path), f"{path.name} imports {name}"


def test_only_the_probe_and_the_installer_touch_the_machine():
    touching = {"subprocess", "socket", "ctypes", "platform", "shutil", "glob", "sysconfig"}
    for path in FILES:
        if part_of(path) not in ("probe", "install", "__main__"):
            assert not touching & {name.split(".")[0] for name in imports(path)}, path.name


def test_every_level_exists():
    assert set(LEVELS) == {part_of(path) for path in FILES}


def python_38() -> str:
    found = [shutil.which("python3.8"), *map(str, Path.home().glob(".pyenv/versions/3.8.*/bin/python"))]
    return next(
        (
            path
            for path in found
            if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0
        ),
        "",
    )


@pytest.mark.skipif(not python_38(), reason="no Python 3.8 on this machine")
def test_it_runs_on_python_38(tmp_path):
    (tmp_path / "error.txt").write_text("Torch not compiled with CUDA enabled", encoding="utf-8")
    for arguments in (
        ["--list"],
        ["--settings"],
        ["--no-smoke", "--json"],
        ["--log", str(tmp_path / "error.txt")],
        ["install", "--dry-run", "--cpu"],
    ):
        done = subprocess.run(
            [python_38(), "-m", "envcheck", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
