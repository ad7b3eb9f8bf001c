"""What is printed goes out whole through every door, whatever encoding the system has for it."""

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envcheck import __main__ as envcheck_door
from envcheck import streams
from kit import __main__ as kit_door
from kit import merge, train
from kit.chat import __main__ as chat_door
from kit.chat import terminal
from kit.data import __main__ as data_door
from kit.report import __main__ as report_door
from kit.support import console
from kit.sweep import __main__ as sweep_door
from tests.support.processes import run_kit
from tests.support.results import finding_of

ENCODINGS = ["cp1252", "cp437", "gbk", "ascii", "shift_jis"]  # of Windows in the west, its consoles, in China, LANG=C
QUESTION, ANSWER = "世界上最高的山是什么？", "珠穆朗玛峰 🏔 é"
DOORS: dict[str, tuple[Callable, str, str]] = {  # name -> its main, what is typed, what must be read behind it
    "kit": (kit_door.main, "", "Fine-tune a language model"),
    "kit, a run": (kit_door.main, "", "é世界"),
    "kit --help": (kit_door.main, "--help", "kit.train"),
    "kit, wrong": (kit_door.main, "世界", "There is no command 世界"),
    "kit doctor": (kit_door.main, "doctor --list", "cuda"),
    "envcheck": (envcheck_door.main, "--facts facts.json", "世界"),
    "envcheck --json": (envcheck_door.main, "--facts facts.json --json", "世界"),
    "envcheck --log": (envcheck_door.main, "--log log.txt", "世界"),
    "envcheck install": (envcheck_door.main, "install --help", "--venv"),
    "data": (data_door.main, "rows.jsonl --model tiny --show 1", QUESTION),
    "data, its bars": (data_door.main, "rows.jsonl --model tiny", "█"),
    "data --json": (data_door.main, "rows.jsonl --model tiny --show 1 --json", ANSWER),
    "data, wrong": (data_door.main, "世界.jsonl --model tiny", "There is no file 世界.jsonl"),
    "train --plan": (train.main, "--data rows.jsonl --model tiny --plan", "GiB"),
    "train --plan --json": (train.main, "--data rows.jsonl --model tiny --plan --json", "low_bytes"),
    "train, wrong": (train.main, "--data rows.jsonl --model 世界", "There is no model 世界"),
    "train --help": (train.main, "--help", "--data"),
    "chat --help": (chat_door.main, "--help", "--prompt"),
    "chat, wrong": (chat_door.main, "世界 --prompt é", "世界"),
    "merge, wrong": (merge.main, "世界 -o x", "世界 is no run"),
    "report": (report_door.main, "runs/é世界", "é世界"),
    "report --json": (report_door.main, "runs/é世界 --json", "é世界"),
    "report --list": (report_door.main, "--list runs", "é世界"),
    "report, wrong": (report_door.main, "世界", "There is no folder 世界"),
    "sweep --plan": (sweep_door.main, "--data rows.jsonl --model tiny --over lora_rank=2,4 --into é世界 --plan", "GiB"),
    "sweep, wrong": (sweep_door.main, "--data rows.jsonl --model tiny --over 世界=1", "There is no option 世界"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """A folder with what the doors are given: rows, a run, facts, a log."""
    rows = [{"question": QUESTION, "answer": ANSWER}] + [
        {"question": f"q{number}", "answer": "a"} for number in range(9)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "facts.json").write_text('{"os": "Windows 11", "gpu": [{"name": "世界 RTX 5080"}]}', encoding="utf-8")
    (tmp_path / "log.txt").write_text("ModuleNotFoundError: No module named '世界'", encoding="utf-8")
    (tmp_path / "runs" / "é世界").mkdir(parents=True)
    (tmp_path / "runs" / "é世界" / "run.toml").write_text('model = "tiny"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Stream(io.TextIOWrapper):
    """Standard output as Windows has it: strict, in its own encoding; as a file, or as a terminal."""

    def __init__(self, encoding: str, is_terminal: bool = False):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def said(self, encoding: str) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(encoding)


def said_by(door: str, encoding: str, monkeypatch, is_terminal: bool = False) -> str:
    main, typed, _ = DOORS[door]
    output, errors = Stream(encoding, is_terminal), Stream(encoding, is_terminal)
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setenv("COLUMNS", "500")
    with contextlib.suppress(SystemExit):  # of --help
        main(typed.split())
    monkeypatch.undo()
    written = encoding if is_terminal else "utf-8"
    return output.said(written) + errors.said(written)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_lost_in_a_file(here, monkeypatch, door: str, encoding: str) -> None:
    assert DOORS[door][2] in said_by(door, encoding, monkeypatch)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("door", DOORS)
def test_a_terminal_is_sent_what_it_can_show(here, monkeypatch, door: str, encoding: str) -> None:
    said = said_by(door, encoding, monkeypatch, is_terminal=True)
    asked = DOORS[door][2]
    assert (asked if asked.isascii() else "") in said
    assert said.strip()


@pytest.mark.parametrize("door", ["kit.data", "envcheck", "kit.train", "kit.report"])
def test_a_process_whose_output_is_a_pipe(here, door: str) -> None:
    """The same as a user has it, where nothing of a test stands between."""
    typed = {
        "kit.data": ["rows.jsonl", "--model", "tiny", "--show", "1", "--json"],
        "envcheck": ["--facts", "facts.json", "--json"],
        "kit.train": ["--data", "世界.jsonl", "--plan"],
        "kit.report": ["--list", "runs"],
    }[door]
    env = {
        "PYTHONIOENCODING": "cp437:strict",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ["PYTHONPATH"]]),
    }
    done = run_kit(door, *typed, env=env, cwd=here)
    assert "Traceback" not in done.stderr
    assert "世界" in done.stdout + done.stderr


@given(st.text(max_size=20))
def test_whatever_is_printed_can_be_printed(text: str) -> None:
    """Half of a character too, which no encoding has."""
    for is_terminal in (False, True):
        stream, before = Stream("cp437", is_terminal), sys.stdout
        sys.stdout = stream
        try:
            streams.prepare()
            print(text)
        finally:
            sys.stdout = before
        stream.said("cp437" if is_terminal else "utf-8")


def test_half_a_character_in_json_is_read_again(monkeypatch) -> None:
    stream = Stream("cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    streams.prepare()
    print(json.dumps(["\ud83c", "峰"], ensure_ascii=False))
    monkeypatch.undo()
    assert json.loads(stream.said("utf-8")) == ["\ud83c", "峰"]


def test_a_table_keeps_its_shape_where_its_lines_are_lacking() -> None:
    streams.prepare()
    assert "┌─┬─┐│├╋█▁→–…×“é你".encode("ascii", streams.PLAIN) == b'+-+-+|++##>-.x"e?'


def test_what_is_piped_in_is_read_as_utf8(monkeypatch) -> None:
    """With a byte order mark too, which PowerShell 5 writes."""
    for text in (QUESTION.encode(), b"\xef\xbb\xbf" + QUESTION.encode()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="cp1252"))
        streams.prepare()
        assert list(terminal._lines()) == [QUESTION]


def test_what_is_piped_in_otherwise_is_a_finding(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(QUESTION.encode("gbk")), encoding="gbk"))
    monkeypatch.setattr(sys, "platform", "win32")
    streams.prepare()
    finding = finding_of(list, terminal._lines())
    assert finding.id == "input-not-utf8"
    assert finding.fix[0].startswith("$OutputEncoding = ")


def test_a_console_of_windows_is_made_to_take_colours(monkeypatch) -> None:
    """Else it shows "[31m" before each error."""
    started: list[str] = []
    monkeypatch.setattr(os, "system", started.append)
    monkeypatch.setattr(sys, "platform", "win32")
    for is_terminal in (False, True):
        monkeypatch.setattr(sys, "stdout", Stream("utf-8", is_terminal))
        monkeypatch.setattr(sys, "stderr", Stream("utf-8"))
        streams.prepare()
        assert started == [""] * is_terminal


# A reader that has seen enough: `| Select-Object -First 5`.

CLOSED_ON_WINDOWS = OSError(errno.EINVAL, "Invalid argument")


class Pipe(Stream):
    """A pipe whose other end is closed, as Windows says it; number: of what really lies below it."""

    def __init__(self, number: int):
        super().__init__("utf-8")
        self.number = number

    def fileno(self) -> int:
        return self.number


@pytest.mark.parametrize("call", [console.status_of, lambda command: envcheck_door.main([])], ids=["kit", "envcheck"])
def test_a_closed_pipe_ends_quietly_on_windows(monkeypatch, call) -> None:
    def command(*_: object) -> int:
        raise CLOSED_ON_WINDOWS

    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(envcheck_door, "_run", command)
    monkeypatch.setattr(sys, "stdout", Pipe(writer))
    assert call(command) == 0
    os.close(writer)


def test_the_same_error_of_anything_else_is_not_swallowed(monkeypatch) -> None:
    """Windows says it of a wrong file name, and of much besides."""
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "stdout", Pipe(writer))
    assert not streams.is_closed_pipe(CLOSED_ON_WINDOWS)
    assert not streams.is_closed_pipe(OSError(errno.EINVAL, "Invalid argument", "a?b"))
    assert not streams.is_closed_pipe(OSError(errno.ENOSPC, "No space left on device"))
    os.close(reader)
    os.close(writer)
