"""Every id has a page, and every fix can be pasted into the shell of its system."""

import re

import pytest

from envcheck import report
from envcheck.causes import CAUSES
from envcheck.facts import Facts
from envcheck.shell import is_comment

SYSTEMS = {
    "linux": {"os": "Ubuntu 24.04", "python": "3.12.3"},
    "windows": {"os": "Windows 11"},
    "macos": {"os": "macOS 15.6 arm64"},
    "wsl": {"os": "Ubuntu 22.04 (WSL2)", "wsl": True},
    "docker": {"os": "Debian 12", "container": "docker"},
    "fedora": {"os": "Fedora 43"},
    "notebook": {"os": "Linux (Colab)"},
    "unknown": {},
}
COMMAND = re.compile(
    r"^!?(python|python3|python[\d.x]+|py|pip|sudo|export|unset|docker|conda|apt-get|brew|xcode-select|winget|git|cmake|cp|hf|torchrun|"
    r"accelerate|nvidia-smi|import os;|\$env:\w+ = |Remove-Item Env:)(\b|\s|$|\")"
)
CASEBOOK_IDS = 74


def test_all_causes_of_the_casebook_are_there(cases):
    named = {case["cause_id"] for case in cases if case["kind"] == "fault"}
    assert named <= set(CAUSES)
    assert len([name for name in CAUSES if not name.startswith(("install-", "smoke-"))]) >= CASEBOOK_IDS


@pytest.mark.parametrize("cause_id", sorted(CAUSES))
def test_the_page_has_every_part(cause_id):
    item = CAUSES[cause_id]
    assert re.match(r"^[a-z0-9]+(-[a-z0-9]+)+$", cause_id)
    assert all(len(text) > 5 for text in (item.title, item.why, item.check, item.source))
    page = report.page(cause_id)
    assert all(f"\n{part}" in page for part in ("Why", "Fix", "Check", "Source"))


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_every_line_of_a_fix_is_a_comment_or_a_command(system):
    facts = Facts.from_json(SYSTEMS[system])
    wrong = [
        (item.id, line)
        for item in CAUSES.values()
        for line in item.fix(facts)
        if not is_comment(line) and not COMMAND.match(line)
    ]
    assert wrong == []


def test_fixes_use_the_shell_of_their_system():
    foreign = {
        "windows": r"^(sudo|export|unset|apt-get|brew|xcode)|&&",
        "macos": r"apt-get|winget|\$env:",
        "linux": r"\$env:|winget|Remove-Item|^py ",
        "fedora": r"apt-get install",
        "docker": r"^sudo apt",
    }
    elsewhere = {"container-gpu-access-missing", "windows-vc-runtime-missing"}  # typed on the host; on Windows only
    for system, pattern in foreign.items():
        facts = Facts.from_json(SYSTEMS[system])
        wrong = [
            (item.id, line)
            for item in CAUSES.values()
            for line in item.fix(facts)
            if not is_comment(line) and re.search(pattern, line)
        ]
        assert [pair for pair in wrong if pair[0] not in elsewhere] == [], system


def test_no_command_has_a_placeholder():
    for system in SYSTEMS.values():
        for item in CAUSES.values():
            commands = [line for line in item.fix(Facts.from_json(system)) if not is_comment(line)]
            assert [line for line in commands if re.search(r"\.\.\.|\b(IMAGE|PACKAGE|DIR)\b|train\.py", line)] == []


def test_requirements_with_angle_brackets_are_quoted():
    for system in SYSTEMS.values():
        for item in CAUSES.values():
            for line in item.fix(Facts.from_json(system)):
                if " install " in line and not is_comment(line):
                    assert not re.search(r"\s[\w-]+[<>]=?\d", line), (item.id, line)


def test_the_catalogue_lists_all():
    assert len(report.catalogue().splitlines()) == len(CAUSES)
