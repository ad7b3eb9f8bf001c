"""Files and folders as Windows treats them: refused for a moment, or for as long as a program has them open."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.data import __main__ as data_door
from kit.data import store
from kit.options import Run, TrainCommand
from kit.run import checkpoints
from kit.run.checkpoints import About
from kit.run.folder import RunFolder
from kit.support import files
from tests.support.processes import run_python
from tests.support.results import finding_of, record_of

ON_WINDOWS = "win32"


@pytest.fixture
def windows(monkeypatch) -> list[float]:
    """The pauses that were taken there, in seconds; none of them is waited for."""
    pauses: list[float] = []
    monkeypatch.setattr(sys, "platform", ON_WINDOWS)
    monkeypatch.setattr(files.time, "sleep", pauses.append)
    return pauses


class Refusing:
    """A method of Path that Windows refuses so many times while the path, or what it stands in, has this name."""

    def __init__(self, method: Callable, name: str, times: float):
        self.method, self.name, self.left = method, name, times

    def __get__(self, path: Path, kind: type) -> Callable:
        return lambda *arguments, **options: self.call(path, *arguments, **options)

    def call(self, path: Path, *arguments, **options):
        if path.name == self.name and self.left:
            self.left -= 1
            raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
        return self.method(path, *arguments, **options)


@pytest.fixture
def refuse(monkeypatch):
    def refuse(name: str, times: float = float("inf"), method: str = "replace") -> None:
        monkeypatch.setattr(Path, method, Refusing(getattr(Path, method), name, times))

    return refuse


def a_folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "a").write_text(text)
    (path / "b").write_text(text)
    return path


def texts(path: Path) -> list[str]:
    return [file.read_text() for file in sorted(path.iterdir())]


def names(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())


def write_file(tmp_path: Path) -> None:
    files.write_whole(tmp_path / "target", ["new"])


def replace_folder(tmp_path: Path) -> None:
    files.replace_folder(a_folder(tmp_path / ".target.part", "new"), tmp_path / "target")


def write_checkpoint(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, About(1, 1, 1.0), lambda path: path.joinpath("w").touch())


def write_adapter(tmp_path: Path) -> None:
    with RunFolder(tmp_path).new_folder("target") as new:
        (new / "w").touch()


def store_data(tmp_path: Path) -> None:
    with store.new_folder("target") as folder:
        (folder / "w").touch()


WRITERS = [  # what writes, and the name that is refused
    (write_file, ".target.part"), (replace_folder, ".target.part"), (write_checkpoint, ".step-00000001.part"),
    (write_adapter, ".target.part"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_what_a_scanner_holds_for_a_moment_is_tried_again(tmp_path, windows, refuse, write, name: str) -> None:
    refuse(name, times=2)
    write(tmp_path)
    assert len(names(tmp_path)) == 1
    assert not names(tmp_path)[0].startswith(".")
    assert windows == list(files.PAUSES_S[:2])


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_what_stays_refused_is_an_error_and_leaves_nothing_beside(tmp_path, windows, refuse, write, name: str) -> None:
    refuse(name)
    with pytest.raises(PermissionError):
        write(tmp_path)
    assert [found for found in names(tmp_path) if found != ".target.part"] == []
    assert windows == list(files.PAUSES_S)
    assert 1.5 < sum(windows) < 3


def test_elsewhere_a_refusal_is_final(tmp_path, monkeypatch, refuse) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(files.time, "sleep", lambda _: pytest.fail("waits for rights that nobody gives"))
    refuse(".target.part", times=1)
    with pytest.raises(PermissionError):
        write_file(tmp_path)


@pytest.mark.parametrize("target", ["file", "folder"])
def test_the_earlier_one_is_left_where_the_new_one_cannot_have_its_name(tmp_path, windows, refuse, target) -> None:
    if target == "file":
        (tmp_path / "target").write_text("old")
    else:
        a_folder(tmp_path / "target", "old")
    refuse(".target.part")
    with pytest.raises(PermissionError):
        (write_file if target == "file" else replace_folder)(tmp_path)
    there = tmp_path / "target"
    assert (there.read_text() if target == "file" else texts(there)) in ("old", ["old", "old"])
    assert ".target.earlier" not in names(tmp_path)


def test_a_folder_in_use_is_left_whole_and_the_new_one_too(tmp_path, windows, refuse) -> None:
    """As `kit chat` has an adapter open: Windows would delete the files that are not open, and keep the rest."""
    a_folder(tmp_path / "target", "old")
    refuse("target")
    with pytest.raises(PermissionError):
        replace_folder(tmp_path)
    assert texts(tmp_path / "target") == ["old", "old"]
    assert texts(tmp_path / ".target.part") == ["new", "new"]


@pytest.mark.parametrize("done", ["one step", "both steps", "half deleted"])
def test_the_next_command_ends_what_a_kill_broke_off(tmp_path, done: str) -> None:
    a_folder(tmp_path / ".adapter.earlier", "old")
    a_folder(tmp_path / ".step-00000002.deleted", "half")
    a_folder(tmp_path / ".model.part", "half")
    (tmp_path / ".run.toml.part").write_text("half")
    if done != "one step":
        a_folder(tmp_path / "adapter", "new")
    if done == "half deleted":
        (tmp_path / ".adapter.earlier" / "a").unlink()
    command = TrainCommand(run=Run())
    with RunFolder(tmp_path).open(command):
        assert names(tmp_path) == [".lock", "adapter", "run.toml"]
    assert texts(tmp_path / "adapter") == [{"one step": "old"}.get(done, "new")] * 2


def test_the_next_command_ends_what_a_kill_broke_off_among_checkpoints(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    written = checkpoints.write(folder.checkpoints, About(7, 1, 1.0), lambda path: path.joinpath("w").touch())
    written.path.rename(folder.checkpoints / ".step-00000007.earlier")
    a_folder(folder.checkpoints / ".step-00000008.part", "half")
    with folder.open(TrainCommand(run=Run())):
        assert [one.about.step for one in checkpoints.whole(folder.checkpoints)[0]] == [7]
        assert names(folder.checkpoints) == ["step-00000007"]


def test_a_checkpoint_in_use_is_not_half_deleted(tmp_path, windows, refuse) -> None:
    for step in (1, 2, 3):
        checkpoints.write(tmp_path, About(step, 1, 1.0), lambda path: path.joinpath("w").touch())
    refuse("step-00000001")
    checkpoints.prune(tmp_path, keep=1)
    assert [one.about.step for one in checkpoints.whole(tmp_path)[0]] == [1, 3]


def test_fresh_deletes_all_or_nothing(tmp_path, windows, refuse) -> None:
    """A folder in use must not leave a run without its options, or an adapter without its weights."""
    folder = RunFolder(tmp_path)
    with folder.open(TrainCommand(run=Run())):
        folder.write_text("manifest.json", "{}")
    a_folder(tmp_path / "adapter", "old")
    (tmp_path / "metrics.jsonl").touch()
    before = names(tmp_path)
    refuse("adapter")
    finding = finding_of(folder.open(TrainCommand(run=Run(), fresh=True)).__enter__)
    assert finding.id == "output-cannot-be-written"
    assert any("kit chat" in line for line in finding.fix)
    assert names(tmp_path) == before
    assert texts(tmp_path / "adapter") == ["old", "old"]


def test_a_stored_data_set_in_use_stays_whole(tmp_path, monkeypatch, windows, refuse) -> None:
    """Another run maps its files into memory."""
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    cache = store.store_folder()
    cache.mkdir()
    a_folder(cache / "used", "old")
    a_folder(cache / "other", "old")
    refuse("used")
    store.keep_within(cache, 0, cache / "newest")
    assert names(cache) == ["used"]
    assert texts(cache / "used") == ["old", "old"]
    refuse("target")
    a_folder(cache / "target", "old")
    store_data(cache)  # another process has the same data open: it is as good
    assert texts(cache / "target") == ["old", "old"]


# Windows renames no folder in which a file is open. Linux does, and can be asked for the open files of a process.

ASKS_LINUX = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc that lists open files")
WATCHED = """
import os, sys
from pathlib import Path

def held_in(folder):
    opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    mapped = [line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line]
    return [path for path in (*opened, *mapped) if path.startswith(f"{os.path.realpath(folder)}{os.sep}")]

def watch(path, target):
    for folder in filter(Path.is_dir, (path, Path(target))):
        renamed.append((folder.name, held_in(folder)))
    return rename(path, target)

rename, Path.replace, renamed = Path.replace, watch, []
"""


TRAIN_AND_MERGE = """
import json
from kit import merge, train

(folder,) = sys.argv[1:]
run, common = f"{folder}/run", ["--model", "tiny", "--data", "examples/identity.jsonl", "--device", "cpu"]
for _ in range(2):  # the second time over what is there
    assert train.main([*common, "--max-steps", "1", "--backend", "hf", "--output", run, "--fresh"]) == 0
assert 0 == merge.main([run, "-o", f"{folder}/merged", "--to", "hf", "gguf", "--quant", "q8_0"])
print(json.dumps(renamed))
"""


@ASKS_LINUX
def test_encoded_data_are_closed_when_they_get_their_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    monkeypatch.setattr(Path, "replace", Path.replace)  # it is put back afterwards
    watched: dict = {}
    exec(WATCHED, watched)
    data_door.main(["--model", "tiny", "examples/identity.jsonl"])
    assert watched["renamed"], "nothing was encoded"
    assert [held for _, held in watched["renamed"] if held] == []


@ASKS_LINUX
@pytest.mark.torch
def test_what_a_run_and_a_merge_write_is_closed_when_it_gets_its_name(tmp_path) -> None:
    renamed = record_of(run_python("-c", WATCHED + TRAIN_AND_MERGE, tmp_path, libraries="hf"))
    assert {name for name, _ in renamed} >= {".step-00000001.part", ".adapter.part", "adapter", ".merged.part"}
    assert [pair for pair in renamed if pair[1]] == []
