"""Names made of a user's words are names on Windows too, whatever the words are."""

import re
import string
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit import models
from kit.models import Model
from kit.options import Run, TrainCommand
from kit.run.folder import RunFolder
from kit.run.prepared import default_name
from kit.support.file_names import HASH_CHARACTERS, LONGEST_CHARACTERS, check_names, file_name
from tests.support.results import error_of, finding_of

# Written down once more, from Microsoft's page on naming files, and not with the expressions of the kit.
DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$", *(f"{port}{number}" for port in ("com", "lpt")
           for number in "0123456789\u00b9\u00b2\u00b3")}  # fmt: skip
TEXTS = st.text() | st.builds(
    "{}{}{}".format, st.sampled_from(sorted(DEVICES | {device.upper() for device in DEVICES})),
    st.sampled_from(["", " ", ".", ".txt", " .x", ":y"]), st.text(max_size=3),
)  # fmt: skip


def is_name(name: str) -> bool:
    """On Windows; what it is not there is enough to be one elsewhere."""
    return (
        0 < len(name.encode("utf-16-le")) // 2 <= 255
        and len(name.encode()) <= 255 - len("..earlier")
        and not set(name) & set('<>:"/\\|?*')
        and min(name) >= " "
        and name[-1] not in " ."
        and name.split(".")[0].rstrip().lower() not in DEVICES
    )


@given(TEXTS)
@example("")
@example("..")
@example("CoN .tar.gz")
@example("AUX\xa0")
@example("x" * 300 + ".")
@example("模型" * 60)
@example("\U0001f600" * 100)
@example("a\ud800b")
def test_every_text_becomes_a_name(text: str) -> None:
    name = file_name(text)
    assert is_name(name)
    assert not name.startswith((".", " ")), "a hidden folder is not listed"
    assert file_name(name) == name


@given(st.text(string.ascii_letters + string.digits + "-_=+", min_size=1, max_size=LONGEST_CHARACTERS))
def test_a_name_stays_what_it_is(text: str) -> None:
    assert file_name(text) == text or text.lower() in DEVICES


@given(st.text(string.ascii_letters, min_size=LONGEST_CHARACTERS, max_size=200), st.text(min_size=1, max_size=9))
def test_two_that_are_too_long_stay_two(text: str, more: str) -> None:
    first, second = file_name(text + "x"), file_name(text + "x" + more)
    assert first != second
    assert re.fullmatch(rf".*-[0-9a-f]{{{HASH_CHARACTERS}}}", second)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("tatsu-lab/alpaca:train", "alpaca-train-Qwen3-4B"),
        ("owner/set:config:split", "set-config-split-Qwen3-4B"),
        ('my "best" rows?.jsonl', "my -best- rows--Qwen3-4B"),
        ("nul.jsonl", "nul-Qwen3-4B"),
        ("con.x.jsonl", "_con.x-Qwen3-4B"),
    ],
)
def test_the_folder_of_a_run_is_a_name(data: str, name: str) -> None:
    assert default_name(Run(data=(data,)), Model("Qwen/Qwen3-4B", "", {}, {})) == name
    assert is_name(name)


def test_advice_names_folders_that_can_be_made() -> None:
    assert models.folder_for("owner/aux.v1") == Path("models", "_aux.v1")


@pytest.mark.parametrize(
    ("given_path", "wrong", "better"),
    [
        ("runs/a:b", "a:b", r"runs\a-b"), ("runs/x.", "x.", r"runs\x"), ("C:/runs/NUL/x", "NUL", r"C:\runs\_NUL\x"),
        ("C:/my runs/what?", "what?", r'"C:\my runs\what-"'),
    ],
)  # fmt: skip
def test_a_name_that_is_none_there_is_a_finding(monkeypatch, given_path: str, wrong: str, better: str) -> None:
    """In place of an alternate data stream, a device that takes everything, or a traceback."""
    monkeypatch.setattr(sys, "platform", "win32")
    finding = finding_of(check_names, Path(given_path), "--output")
    assert finding.what.startswith(f"{wrong} cannot be")
    assert finding.fix == (f"--output {better}",)
    assert error_of(RunFolder.claim, Path(given_path), TrainCommand(run=Run()), "1").findings[0] == finding


@pytest.mark.parametrize(
    "path", [r"C:\Users\Jane Doe\runs\x-1", "runs/x", "../x", r"\\server\share\runs\x", "\\\\?\\C:\\x"]
)
def test_names_that_are_right_there_pass(monkeypatch, path: str) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    check_names(Path(path), "--output")


def test_elsewhere_names_are_free(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    check_names(tmp_path / "a:b", "--output")
