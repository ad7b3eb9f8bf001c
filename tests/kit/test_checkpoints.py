"""Checkpoints on disk: whole or absent, broken ones named and passed over, the best never deleted."""

import json
import math
import shutil

import pytest

from benchmarks import resume
from kit.run import checkpoints
from kit.run.checkpoints import About
from kit.support.errors import KitError


def fill(text: str):
    return lambda path: (path / "weights").write_text(text)


def write(folder, step: int, loss: float | None = None):
    return checkpoints.write(folder, About(step, 10 * step, 1.5, loss), fill(f"step {step}"))


def test_what_is_written_is_found_whole_and_in_order(tmp_path) -> None:
    for step in (100, 7, 30):
        write(tmp_path, step, loss=1 / step)
    found, broken = checkpoints.whole(tmp_path)
    assert [one.about.step for one in found] == [7, 30, 100]
    assert found[-1].about == About(100, 1000, 1.5, 0.01)
    assert broken == []


@pytest.mark.parametrize("harm", ["changed", "cut", "missing", "no sums", "sums broken", "empty folder"])
def test_a_broken_one_is_named_and_passed_over(tmp_path, harm: str) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2).path
    if harm == "changed":
        (path / "weights").write_text("step 3")
    elif harm == "cut":
        (path / "weights").write_text("ste")
    elif harm == "missing":
        (path / "weights").unlink()
    elif harm == "no sums":
        (path / checkpoints.SUMS).unlink()
    elif harm == "sums broken":
        (path / checkpoints.SUMS).write_text("[1")
    else:
        shutil.rmtree(path)
        path.mkdir()
    found, (finding,) = checkpoints.whole(tmp_path)
    assert [one.about.step for one in found] == [1]
    assert str(path) in finding.what
    assert finding.severity == "warning"


def test_an_error_while_writing_leaves_the_earlier_ones_and_no_trace(tmp_path) -> None:
    write(tmp_path, 1)

    def full(path):
        (path / "weights").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.write(tmp_path, About(2, 0, 0.0), full)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_newest_and_the_best_are_kept(tmp_path) -> None:
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 2.5)):
        write(tmp_path, step, loss)
    checkpoints.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004", "step-00000005"]


def test_writing_a_step_again_replaces_it(tmp_path) -> None:
    write(tmp_path, 1)
    checkpoints.write(tmp_path, About(1, 0, 0.0), fill("again"))
    ((one,), broken) = checkpoints.whole(tmp_path)
    assert (one.path / "weights").read_text() == "again"
    assert json.loads((one.path / checkpoints.SUMS).read_text()).keys() == {"weights", checkpoints.ABOUT}
    assert not broken


def test_too_little_room_is_told_before(tmp_path) -> None:
    checkpoints.check_disk(tmp_path / "not" / "there" / "yet", 1, "A checkpoint")
    with pytest.raises(KitError) as error:
        checkpoints.check_disk(tmp_path, 1 << 60, "A checkpoint")
    assert error.value.findings[0].id == "disk-too-full"


def test_a_run_that_went_on_is_measured_by_its_most_different_step() -> None:
    plain = [(1, 4.0), (2, 2.0)]
    assert resume.apart(plain, plain) == 0
    assert resume.apart([(1, 4.0), (2, 2.002)], plain) == pytest.approx(1e-3)
    assert resume.apart(plain[:1], plain) == math.inf, "a step is missing"
