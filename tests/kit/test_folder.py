"""The run folder: claimed without a trace, never overwritten by another run, every file whole."""

import ast
import errno
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.options import Run, TrainCommand
from kit.run import layout
from kit.run.folder import RunFolder
from kit.run.record import Answer, Result
from kit.support.errors import KitError
from kit.support.version import stamp
from tests.support.processes import run_python

ROOT = Path(__file__).parents[2]
NAMES_OF_FILES = {
    "run.toml", "manifest.json", "data.json", "left_out.jsonl", "plan.json", "begun.json", "metrics.jsonl",
    "events.jsonl", "samples.jsonl", "samples.json", "report.html", "parity.json", "NOT-VERIFIED", ".lock",
}  # fmt: skip
RESULT = Result(
    steps=3, tokens=100, train_s=2.0, tokens_per_s=50.0, loss_before=2.0, loss_after=1.0, peak_memory_bytes=1,
    before=(Answer("q", "a", 1, 1.0),), after=(Answer("q", "b", 1, 1.0),),
)  # fmt: skip


def command(**options) -> TrainCommand:
    mine = {name: options.pop(name) for name in ("fresh", "resume_anyway") if name in options}
    return TrainCommand(run=Run(**options), **mine)


def begun(path, sha256: str = "1", **options) -> RunFolder:
    folder = RunFolder.claim(path, command(**options), sha256)
    with folder.open(command(**options)):
        folder.write_json("data.json", {"sha256": sha256})
    return folder


def finished(path, sha256: str = "1", **options) -> None:
    folder = begun(path, sha256, **options)
    folder.write_json("manifest.json", {"status": "finished", "result": json.loads(json.dumps(RESULT, default=vars))})


def refused(path, sha256: str = "1", **options):
    with pytest.raises(KitError) as error:
        RunFolder.claim(path, command(**options), sha256)
    return error.value.findings[0]


def test_claiming_leaves_no_trace(tmp_path) -> None:
    RunFolder.claim(tmp_path / "runs" / "x", command(), "1")
    assert list(tmp_path.iterdir()) == []


def test_the_same_finished_run_is_found_again(tmp_path) -> None:
    finished(tmp_path / "x")
    assert RunFolder.claim(tmp_path / "x", command(), "1").earlier == RESULT
    assert RunFolder.claim(tmp_path / "x", command(fresh=True), "1").earlier is None


def test_other_options_or_other_data_are_refused(tmp_path) -> None:
    finished(tmp_path / "x")
    other = refused(tmp_path / "x", learning_rate=1.0)
    assert other.id == "output-holds-another-run"
    assert dict(other.details) == {"learning_rate": "0.0002 there, 1.0 now"}
    assert [way.split()[0] for way in other.fix] == ["--output", "--fresh", "--resume-anyway"]
    assert "content of the data file" in dict(refused(tmp_path / "x", "2").details)


def test_options_that_change_nothing_learnt_may_differ(tmp_path) -> None:
    finished(tmp_path / "x")
    assert RunFolder.claim(tmp_path / "x", command(micro_batch_size=2, on_nan="retry"), "1").earlier == RESULT


def test_checkpoints_of_a_run_that_cannot_be_read_are_not_resumed(tmp_path) -> None:
    folder = begun(tmp_path / "x")
    (folder.path / "data.json").unlink()
    assert RunFolder.claim(tmp_path / "x", command(epochs=9.0), "1").earlier is None, "never got to its data"
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    assert refused(tmp_path / "x").id == "output-holds-another-run"


def test_resume_anyway_says_what_differs(tmp_path) -> None:
    begun(tmp_path / "x")
    folder = RunFolder.claim(tmp_path / "x", command(epochs=9.0, resume_anyway=True), "1")
    assert folder.different == {"epochs": "3.0 there, 9.0 now"}


def test_fresh_empties_the_folder_of_a_run_and_of_nothing_else(tmp_path) -> None:
    folder = begun(tmp_path / "x")
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    folder.add_line("metrics.jsonl", {"step": 1})
    again = RunFolder.claim(tmp_path / "x", command(fresh=True, epochs=9.0), "1")
    assert folder.checkpoints.exists(), "claiming deletes nothing"
    with again.open(command(fresh=True, epochs=9.0)):
        assert {path.name for path in again.path.iterdir()} == {".lock", "run.toml"}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    assert refused(tmp_path / "photos", fresh=True).id == "output-not-a-run"


def test_a_second_process_is_refused(tmp_path) -> None:
    folder = RunFolder.claim(tmp_path / "x", command(), "1")
    with folder.open(command()):
        code = (
            "import sys; from pathlib import Path\n"
            "from kit.run.folder import RunFolder; from kit.options import TrainCommand, Run\n"
            "from kit.support.errors import KitError\n"
            "command = TrainCommand(run=Run())\n"
            "try:\n    with RunFolder(Path(sys.argv[1])).open(command): pass\n"
            "except KitError as error: print(error.findings[0].id)"
        )
        assert run_python("-c", code, tmp_path / "x").stdout.strip() == "output-in-use"
    assert run_python("-c", code, tmp_path / "x").stdout == ""


def test_going_back_takes_out_what_is_done_again(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.add_line("metrics.jsonl", {"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    assert folder.back_to(2) == [{"step": 1}, {"step": 2}]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_folder_of_something_else_is_refused(tmp_path) -> None:
    (tmp_path / "holiday.jpg").touch()
    assert refused(tmp_path).id == "output-not-a-run"
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_place_where_nothing_can_be_written(tmp_path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "run").id == "output-not-writable"
    assert refused(Path("/proc/none/run")).id == "output-not-writable"


def test_a_write_that_fails_leaves_the_old_file(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        folder.write_text("a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE")
def test_a_disk_that_takes_no_more_leaves_whole_lines_and_no_rest(tmp_path) -> None:
    import resource

    folder = RunFolder(tmp_path)
    folder.add_line("metrics.jsonl", {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        error = folder.add_line("metrics.jsonl", {"step": 2})
        with pytest.raises(KitError) as told:
            folder.write_text("manifest.json", "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.errno == errno.EFBIG
    assert told.value.findings[0].id == "output-cannot-be-written"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"metrics.jsonl": '{"step": 1}\n'}
    assert folder.add_line("metrics.jsonl", {"step": 3}) is None
    assert [line["step"] for line in folder.back_to(3)] == [1, 2, 3]


def test_lines_are_what_they_were_whatever_is_in_them(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_line("samples.jsonl", {"step": 1, "answers": ["two\u2028lines"]})
    with (tmp_path / "samples.jsonl").open("ab") as file:
        file.write(b'7\n{"step": "x"}\n\xff\x00\n')  # valid JSON that is no line of ours, and a broken disk
    folder.back_to(1)
    assert json.loads((tmp_path / "samples.jsonl").read_text()) == {"step": 1, "answers": ["two\u2028lines"]}


def test_a_broken_file_is_as_good_as_none(tmp_path) -> None:
    (tmp_path / "begun.json").write_bytes(b"\xff{")
    assert RunFolder(tmp_path).read_json("begun.json") is None


def write_and_fail(folder: RunFolder) -> None:
    with folder.new_folder("adapter") as new:
        (new / "weights").write_text("half")
        raise RuntimeError


def test_a_folder_that_fails_leaves_the_old_folder(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    with folder.new_folder("adapter") as new:
        (new / "weights").write_text("old")
    with pytest.raises(RuntimeError):
        write_and_fail(folder)
    assert (tmp_path / "adapter" / "weights").read_text() == "old"
    with folder.new_folder("adapter") as new:
        (new / "weights").write_text("new")
    assert (tmp_path / "adapter" / "weights").read_text() == "new"


def test_a_record_begins_with_the_kit_and_the_schema_that_wrote_it(tmp_path) -> None:
    """One without, of an earlier kit, is read all the same: those that other tests write by hand have none."""
    folder = begun(tmp_path / "x")
    record = json.loads((folder.path / "data.json").read_text())
    assert list(record.items()) == [*stamp().items(), ("sha256", "1")]


def plain_texts(tree: ast.Module) -> Iterator[str]:
    """The literals of a file, without the pieces between the values of f-strings."""
    pieces = {piece for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for piece in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in pieces:
            yield node.value


def test_the_names_of_a_runs_files_are_written_down_once() -> None:
    """Not the folders' names, which are plain words."""
    names = {value for value in vars(layout).values() if isinstance(value, str)} & NAMES_OF_FILES
    assert len(names) == len(NAMES_OF_FILES)
    written = {
        (path.relative_to(ROOT).as_posix(), text)
        for path in (ROOT / "kit").rglob("*.py")
        for text in plain_texts(ast.parse(path.read_text(encoding="utf-8")))
        if text in names
    }
    assert written == {("kit/run/layout.py", name) for name in names}
