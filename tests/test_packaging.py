"""The wheel: what it holds, and that it works in a folder that is no clone."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kit.support.version import VERSION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {
    name.lower(): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
}
BY_OTHER_MEANS = {
    "unsloth": "its own list breaks RTX 50 cards: envcheck install",
    "IPython": "there in a notebook",
    "uvicorn": "to serve only",
}
BOTH_SPELLINGS = {"python_calamine": "python-calamine", "charset_normalizer": "charset-normalizer", "yaml": "pyyaml"}


OF_THE_DEVELOPMENT_SET = {"xllamacpp"}  # asked for by --prove llama.cpp, and looked for before


def imported() -> set[str]:
    """Distributions that kit imports, wherever in a file."""
    lines = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "kit").rglob("*.py"))
    names = set(re.findall(r"^\s*(?:from|import) (\w+)", lines, re.MULTILINE))
    modules = names - set(sys.stdlib_module_names) - {"kit", "envcheck", "a", "the", "one", "this"}
    known = {name for name in modules if metadata.packages_distributions().get(name)}
    return {BOTH_SPELLINGS.get(name, name) for name in known - BY_OTHER_MEANS.keys() - OF_THE_DEVELOPMENT_SET}


def test_dependencies_are_the_pins_of_what_is_imported() -> None:
    needs = {need.name: need for need in map(Requirement, PROJECT["dependencies"])}
    pinned = {name: need for name, need in needs.items() if name != "torch"}
    assert {name: str(need.specifier) for name, need in pinned.items()} == {name: f"=={PINS[name]}" for name in pinned}
    assert imported() <= needs.keys()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel of this tree, unpacked as pip would; its version is the one in the code."""
    folder = tmp_path_factory.mktemp("wheel")
    command = ["pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, timeout=300)
    (wheel,) = folder.glob(f"finetune_kit-{VERSION}-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_nothing_of_the_packages_is_missing_in_the_wheel(installed: Path) -> None:
    here = {path.relative_to(ROOT) for top in ("kit", "envcheck") for path in (ROOT / top).rglob("*") if path.is_file()}
    there = {path.relative_to(installed) for path in installed.rglob("*")}
    assert {path for path in here if "__pycache__" not in path.parts} <= there
    templates = {path.name for path in (ROOT / "templates").iterdir()}
    assert {path.name for path in (installed / "kit" / "prompt" / "templates").iterdir()} == templates
    for name in ("identity.jsonl", "README.md", "licenses/Apache-2.0.txt"):
        assert (installed / "kit" / "options" / "examples" / name).read_bytes() == (
            ROOT / "examples" / name
        ).read_bytes()


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(installed), "KIT_CACHE": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )


def test_the_commands_work_in_any_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").write_text('{"question": "Who are you?", "answer": "A test."}\n' * 30, encoding="utf-8")
    done = run(installed, tmp_path, "kit.data", "my.jsonl", "--template", "chatml", "--json")
    assert '"rows_read": 30' in done.stdout, done.stderr
    assert '"verdict"' in run(installed, tmp_path, "kit.train", "--preset", "cpu", "--plan", "--json").stdout
    planned = run(installed, tmp_path, "kit.train", "--preset", "rtx5080", "--plan", "--json")
    assert "the shipped config of Qwen/Qwen3-4B" in planned.stdout, planned.stderr
    done = run(installed, tmp_path, "envcheck", "install", "--dry-run", "--cpu")
    assert done.returncode == 0, done.stderr
    assert f"-m venv {tmp_path / '.venv'}" in done.stdout
    assert "requirements-cpu.txt" in done.stdout


def test_the_entry_points_are_there(installed: Path) -> None:
    (info,) = installed.glob("*.dist-info")
    named = re.findall(r"^(\w+) = ([\w.]+):(\w+)$", (info / "entry_points.txt").read_text(), re.MULTILINE)
    assert {name for name, _, _ in named} == {"kit", "envcheck"}
    for _, module, function in named:
        code = f"import importlib; assert callable(importlib.import_module('{module}').{function})"
        subprocess.run([sys.executable, "-c", code], cwd=installed, check=True, timeout=60)
