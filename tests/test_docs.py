"""The README against the code: its commands, its figures, its folders."""

import re
from pathlib import Path

from benchmarks import readme
from kit.chat.options import ChatCommand
from kit.export.options import MergeCommand
from kit.options import DataCommand, TrainCommand
from kit.options.command_line import flags_of
from kit.report.options import ReportCommand
from kit.sweep import SweepCommand

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_figures_come_from_the_result_files() -> None:
    assert readme.with_figures(TEXT) == TEXT


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_named_options_and_files_exist() -> None:
    doors = {
        kind.door: kind for kind in (TrainCommand, DataCommand, ChatCommand, MergeCommand, ReportCommand, SweepCommand)
    }
    for door, line in re.findall(r"kit\.(train|data|chat|merge|report|sweep) (.*)", TEXT):
        known = {"--help", *flags_of(doors[door])}
        assert set(re.findall(r"--[a-z-]+", line.split("#")[0])) <= known, line
    for path in re.findall(r"(?<![\w/])(?:examples|benchmarks|scripts|kit|templates|tests)/[\w./]*\w", TEXT):
        assert (ROOT / path).exists(), path


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_readme_is_one_screen() -> None:
    assert len(TEXT.splitlines()) <= 70
