"""The run folder: claimed without a trace, never overwritten by another run, every file whole."""

import json
from pathlib import Path

import pytest

from kit.errors import KitError
from kit.options import Command, Run
from kit.record import Answer, Result, RunFolder

RESULT = Result(
    steps=3, tokens=100, train_s=2.0, tokens_per_s=50.0, loss_before=2.0, loss_after=1.0, peak_memory_bytes=1,
    before=(Answer("q", "a", 1, 1.0),), after=(Answer("q", "b", 1, 1.0),),
)  # fmt: skip


def finished(path, run: Run, sha256: str) -> None:
    folder = RunFolder.claim(path, run, sha256)
    folder.open(Command(run=run))
    folder.write_json("data.json", {"sha256": sha256})
    folder.write_json("manifest.json", {"status": "finished", "result": json.loads(json.dumps(RESULT, default=vars))})


def refused(path, run: Run, sha256: str = "1"):
    with pytest.raises(KitError) as error:
        RunFolder.claim(path, run, sha256)
    return error.value.findings[0]


def test_claiming_leaves_no_trace(tmp_path) -> None:
    RunFolder.claim(tmp_path / "runs" / "x", Run(), "1")
    assert list(tmp_path.iterdir()) == []


def test_the_same_finished_run_is_found_again(tmp_path) -> None:
    finished(tmp_path / "x", Run(), "1")
    assert RunFolder.claim(tmp_path / "x", Run(), "1").earlier == RESULT


def test_other_options_or_other_data_are_refused(tmp_path) -> None:
    finished(tmp_path / "x", Run(), "1")
    other = refused(tmp_path / "x", Run(learning_rate=1.0))
    assert other.id == "output-holds-another-run"
    assert dict(other.details) == {"learning_rate": "0.0002 there, 1.0 now"}
    assert other.fix == (f"--output {tmp_path / 'x-2'}",)
    assert "content of the data file" in dict(refused(tmp_path / "x", Run(), "2").details)


def test_a_folder_of_something_else_is_refused(tmp_path) -> None:
    (tmp_path / "holiday.jpg").touch()
    assert refused(tmp_path, Run()).id == "output-not-a-run"
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_place_where_nothing_can_be_written(tmp_path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "run", Run()).id == "output-not-writable"
    assert refused(Path("/proc/none/run"), Run()).id == "output-not-writable"


def test_a_write_that_fails_leaves_the_old_file(tmp_path) -> None:
    folder = RunFolder(tmp_path, None)
    folder.write_text("a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        folder.write_text("a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "old"


def write_and_fail(folder: RunFolder) -> None:
    with folder.new_folder("adapter") as new:
        (new / "weights").write_text("half")
        raise RuntimeError


def test_a_folder_that_fails_leaves_the_old_folder(tmp_path) -> None:
    folder = RunFolder(tmp_path, None)
    with folder.new_folder("adapter") as new:
        (new / "weights").write_text("old")
    with pytest.raises(RuntimeError):
        write_and_fail(folder)
    assert (tmp_path / "adapter" / "weights").read_text() == "old"
    with folder.new_folder("adapter") as new:
        (new / "weights").write_text("new")
    assert (tmp_path / "adapter" / "weights").read_text() == "new"
