"""The README against the code: its commands, its figures, its folders."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import readme
from kit.chat.options import ChatCommand
from kit.export.options import MergeCommand
from kit.memory.options import ModelsCommand
from kit.options import DataCommand, TrainCommand
from kit.options.command_line import flags_of
from kit.report.options import ReportCommand
from kit.sweep import SweepCommand

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_figures_come_from_the_result_files() -> None:
    assert readme.with_figures(TEXT) == TEXT
    assert readme.MODELS.read_text(encoding="utf-8") == readme.models_page()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_named_options_and_files_exist() -> None:
    doors = {
        kind.door: kind
        for kind in (TrainCommand, DataCommand, ChatCommand, MergeCommand, ModelsCommand, ReportCommand, SweepCommand)
    }
    lines = re.findall(r"\bkit[. ](train|data|chat|merge|models|report|sweep) (.*)", TEXT)
    assert {door for door, line in lines if "--" in line} >= {"train", "data"}, "the README shows how they are called"
    for door, line in lines:
        known = {"--help", *flags_of(doors[door])}
        assert set(re.findall(r"--[a-z-]+", line.split("#")[0])) <= known, line
    for path in re.findall(r"(?<![\w/])(?:examples|benchmarks|scripts|kit|templates|tests)/[\w./]*\w", TEXT):
        assert (ROOT / path).exists(), path


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize("status", [0, 3])
def test_ci_runs_the_readmes_test_command_from_the_root_and_ends_with_its_status(tmp_path: Path, status: int) -> None:
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "make $*" in "$PWD"\nexit {status}\n')
    make.chmod(0o755)
    env = {**os.environ, "PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]])}
    done = subprocess.run([ROOT / ".ci" / "run"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"make test in {ROOT}\n"
    assert done.returncode == status
    assert re.search(r"^    make test\b", TEXT, re.MULTILINE)


def test_readme_is_one_screen() -> None:
    assert len(TEXT.splitlines()) <= 70


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/design.md", "docs/models.md"])
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w-]+/)+[\w.-]*\w|\w+\.(?:py|md|toml))`", text)
    named += re.findall(r"\]\(([^)#:]+)\)", text)
    places = (ROOT, ROOT / page.rpartition("/")[0], ROOT / "kit", ROOT / "kit" / "run", ROOT / "tests" / "envcheck")
    rooms = [path for path in (ROOT / "kit").iterdir() if path.is_dir()]
    missing = [name for name in named if not any((place / name).exists() for place in (*places, *rooms))]
    assert [name for name in missing if not name.startswith(("runs/", "run.toml"))] == []
    assert named


def test_the_drawing_shows_every_room() -> None:
    drawn = set(re.findall(r'class="n">(\w+)<', (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")))
    things = {path.stem for path in (ROOT / "kit").iterdir() if path.suffix in ("", ".py")}
    assert drawn == things - {"__init__", "__main__", "__pycache__"} | {"envcheck"}
