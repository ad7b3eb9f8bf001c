"""What goes wrong around the steps: told once, nothing finished lost, an end that says what to do. No model here."""

import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import faults, inject
from kit import backend
from kit.backend import Backend, CardFailed, Loaded, device_memory
from kit.data import Data, Question
from kit.options import Run, TrainCommand
from kit.run import checkpoints, fit, keeping, measuring, recording
from kit.run.checkpoints import About
from kit.run.folder import RunFolder
from kit.run.measuring import NO_ANSWER, NO_ROOM
from kit.run.session import Session
from kit.run.watch import Watch
from kit.support.errors import KitError

OUT_OF_MEMORY = RuntimeError(inject.OUT_OF_MEMORY)
POSITIONS = 32
FIGURES = {"loss": 1.0, "num_tokens": 9}  # of a step


PAPER_MODEL = SimpleNamespace(
    config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=POSITIONS))
)


class SafetensorError(Exception):
    """As that of safetensors: neither an OSError nor a RuntimeError."""


@pytest.fixture
def freed(monkeypatch) -> list[bool]:
    calls: list[bool] = []
    for place in (backend, device_memory):
        monkeypatch.setattr(place, "free_memory", lambda: calls.append(True))
    return calls


class Around:
    """A run after step 2 of 6 in a folder that is its own, without a model; `said`: what the user hears."""

    def __init__(self, path: Path, **of_session: Any):
        self.said: list[str] = []
        self.session = Session(
            loaded=Loaded(PAPER_MODEL, None, Backend("hf", ""), "cpu"),
            run=Run(max_steps=6, checkpoint_minutes=1000),
            data=Data(range(48), [], tuple(Question(text, [1]) for text in "abc"), None, (), None),
            chat=None,
            folder=RunFolder(path),
            on_progress=lambda *_: None,
            say=self.said.append,
            write_page=lambda: None,
            **of_session,
        )
        self.folder, self.state, self.state.step = self.session.folder, self.session.state, 2
        self.watch = Watch(self.session, trainer=None)
        self.keep = self.watch.keeper.keep

    @property
    def events(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder.path / "events.jsonl").read_text().splitlines()]

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.path.iterdir()}


@pytest.fixture
def around(tmp_path, freed) -> Iterator[Around]:
    made = Around(tmp_path / "x")
    with made.folder.open(TrainCommand(run=made.session.run)):
        yield made


def saving(monkeypatch, name: str, *errors: Exception | None) -> None:
    """backend.NAME(_, folder) raises these in turn, the last one from then on; with None it writes a file."""
    left = list(errors)

    def save(_, folder) -> None:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error:
            raise error
        (folder / "weights").write_text("all of it")

    monkeypatch.setattr(backend, name, save)


def test_a_checkpoint_is_tried_again_where_memory_was_freed(around, monkeypatch, freed) -> None:
    saving(monkeypatch, "save_state", OUT_OF_MEMORY, None)
    around.keep()
    assert (around.state.kept_step, freed, around.said) == (2, [True], [])


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, MemoryError(), SafetensorError("No space left"), OSError(28, "full")])
def test_a_checkpoint_that_fails_stops_nothing_and_is_told(around, monkeypatch, error) -> None:
    saving(monkeypatch, "save_state", error)
    around.keep()
    (event,) = around.events
    assert event["kind"] == "checkpoint-failed"
    assert event["error"] == type(error).__name__
    assert "no checkpoint at step 2" in around.said[0]
    assert around.state.kept_step == 0
    assert list(around.folder.checkpoints.iterdir()) == []


def test_a_checkpoint_is_not_begun_where_there_is_no_room_for_it(around, monkeypatch) -> None:
    saving(monkeypatch, "save_state", None)
    around.keep()
    (first,) = around.folder.checkpoints.iterdir()
    monkeypatch.setattr(checkpoints, "free_bytes", lambda _: around.watch.keeper.size_bytes - 1)
    monkeypatch.setattr(checkpoints, "write", lambda *_: pytest.fail("begun"))
    around.state.step = 3
    around.keep()
    assert (around.state.kept_step, list(around.folder.checkpoints.iterdir())) == (2, [first])
    assert "no checkpoint at step 3: disk-too-full" in around.said[0]


@pytest.mark.torch
def test_the_last_step_has_a_checkpoint(around, monkeypatch) -> None:
    saving(monkeypatch, "save_state", None)
    around.watch.measured_steps = set()
    for step in range(1, 7):
        around.watch.on_step(step, FIGURES)
    assert [one.about.step for one in checkpoints.whole(around.folder.checkpoints)[0]] == [6]


@pytest.mark.torch
@pytest.mark.parametrize("stop_at", [0, 2, 6])
def test_a_caller_hears_each_held_out_loss_and_may_stop_the_run_there(tmp_path, monkeypatch, stop_at) -> None:
    """After the last step there is nothing to stop."""
    heard: list[tuple[int, float]] = []
    around = Around(tmp_path / "x", on_evaluation=lambda step, loss: heard.append((step, loss)) or step == stop_at)
    watch, state = around.watch, around.state
    saving(monkeypatch, "save_state", None)
    monkeypatch.setattr(measuring, "held_out_loss", lambda *_: 2.0 / state.step)
    monkeypatch.setattr(measuring, "answers", lambda _: ())
    watch.measured_steps, state.step = {2, 4, 6}, 0
    with around.folder.open(TrainCommand(run=around.session.run)):
        while state.step < 6 and not watch.stop_requested():
            watch.on_step(state.step + 1, FIGURES)
    last = stop_at or 6
    assert heard == [(step, 2.0 / step) for step in (2, 4, 6) if step <= last]
    assert (state.step, state.kept_step, watch.is_paused) == (last, last, last < 6)


def test_answers_that_memory_does_not_suffice_for_are_named(around, monkeypatch, freed) -> None:
    given = iter([("yes", 1, 0.5)])

    def answer(*_):
        try:
            return next(given)
        except StopIteration:
            raise OUT_OF_MEMORY from None

    monkeypatch.setattr(backend, "answer", answer)
    monkeypatch.setattr(backend, "answering", lambda _: shutil.os.scandir(around.folder.path))  # any context
    answers = measuring.answers(around.session)
    assert [(one.question, one.text, one.tokens) for one in answers] == [
        ("a", "yes", 1), ("b", NO_ANSWER, 0), ("c", NO_ANSWER, 0),
    ]  # fmt: skip
    assert freed == [True]
    assert "2 of 3 questions" in around.said[0]


def test_lines_that_cannot_be_written_are_told_once_and_wait(around, monkeypatch) -> None:
    with monkeypatch.context() as full:
        full.setattr("kit.run.folder.append_whole", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space")))
        for step in (1, 2, 3):
            around.session.journal.write("metrics.jsonl", {"step": step})
    assert len(around.said) == 1
    assert not (around.folder.path / "metrics.jsonl").exists()
    around.session.journal.write("metrics.jsonl", {"step": 4})
    lines = (around.folder.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert len(around.said) == 2


def test_an_adapter_that_cannot_be_saved_is_no_loss_with_a_checkpoint(around, monkeypatch) -> None:
    saving(monkeypatch, "save_state", None)
    saving(monkeypatch, "save_adapter", SafetensorError("No space left on device"))
    around.keep()
    with pytest.raises(KitError) as error:
        keeping.save(around.session)
    finding = error.value.findings[0]
    assert finding.id == "adapter-not-saved"
    assert "the checkpoint of step 2 holds all of it" in finding.why
    assert finding.fix[0].startswith("free some room")
    assert finding.details == ()
    assert around.files == {".lock", "run.toml", "checkpoints"}


def test_an_adapter_that_nothing_else_holds_is_saved_elsewhere(around, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(keeping.Path, "home", lambda: tmp_path)
    saving(monkeypatch, "save_adapter", OSError(errno.EROFS, "Read-only file system"), None)
    with pytest.raises(KitError) as error:
        keeping.save(around.session)
    (folder,) = tmp_path.glob("kit-adapter-*")
    assert error.value.findings[0].details == (("adapter saved in", str(folder)),)
    assert (folder / "weights").read_text() == "all of it"


def test_saving_the_adapter_is_tried_again_where_memory_was_freed(around, monkeypatch, freed) -> None:
    saving(monkeypatch, "save_adapter", OUT_OF_MEMORY, None)
    keeping.save(around.session)
    assert freed == [True]
    assert (around.folder.path / "adapter" / "weights").exists()


def end(around: Around, error: Exception) -> str:
    """Id of the finding that the error of a run becomes."""
    with pytest.raises(KitError) as ended, fit.errors_explained(around.session):
        raise error
    return ended.value.findings[0].id


def test_memory_and_disk_end_in_words_and_a_defect_does_not(around, monkeypatch) -> None:
    saving(monkeypatch, "save_state", None)
    around.keep()
    assert end(around, OUT_OF_MEMORY) == end(around, MemoryError()) == "out-of-memory"
    assert end(around, OSError(errno.ENOSPC, "No space left")) == "output-cannot-be-written"
    assert all("the checkpoint of step 2 is kept" in text for text in around.said)
    with pytest.raises(RuntimeError, match="shapes"), fit.errors_explained(around.session):
        raise RuntimeError("shapes do not fit")


ILLEGAL_ACCESS = RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_card_that_failed_is_left_alone_and_the_same_command_goes_on(around, monkeypatch) -> None:
    saving(monkeypatch, "save_state", None)
    around.keep()
    around.state.step = 5
    monkeypatch.setattr(around.watch.keeper, "keep", lambda: pytest.fail("something more was tried on the card"))
    with (
        pytest.raises(CardFailed) as ended,
        fit.errors_explained(around.session),
        fit.last_good_step_kept(around.watch),
    ):
        raise ILLEGAL_ACCESS
    (finding,) = ended.value.findings
    assert finding.id == "card-failed"
    assert finding.fix[0].startswith("the same command again: it goes on after step 2")
    assert around.said == ["the checkpoint of step 2 is kept; a run of the same options goes on from there"]


@pytest.mark.parametrize("error", [ILLEGAL_ACCESS, RuntimeError("shapes do not fit")])
def test_whatever_ends_a_run_is_on_record_and_the_page_is_written(around, monkeypatch, error) -> None:
    pages: list[bool] = []
    monkeypatch.setattr(recording, "manifest", lambda *given: {"status": given[3]})
    record = recording.Recording(None, around.folder, None, (), lambda: pages.append(True))
    with pytest.raises((CardFailed, RuntimeError)), record.errors(), fit.errors_explained(around.session):
        raise error
    (event,) = around.events
    assert event["kind"] == "failed"
    assert str(error) in event["text"]
    assert around.folder.read_json("manifest.json")["status"] == "failed"
    assert pages == [True]


def test_a_run_that_kept_nothing_says_that_it_begins_again(around) -> None:
    with pytest.raises(CardFailed) as ended, fit.errors_explained(around.session):
        raise ILLEGAL_ACCESS
    assert ended.value.findings[0].fix[0].startswith("the same command again: it begins with step 1")


@pytest.mark.parametrize("work", ["checkpoint", "adapter"])
def test_saving_from_a_card_that_failed_is_no_reason_to_go_on(around, monkeypatch, work) -> None:
    """No other try, no other folder: the error of the card ends the run."""
    saving(monkeypatch, "save_state", ILLEGAL_ACCESS)
    saving(monkeypatch, "save_adapter", ILLEGAL_ACCESS)
    monkeypatch.setattr(keeping, "save_elsewhere", lambda *_: pytest.fail("something more was tried on the card"))
    with pytest.raises(CardFailed), fit.errors_explained(around.session):
        around.keep() if work == "checkpoint" else keeping.save(around.session)
    assert around.said == []


def test_an_answer_takes_no_more_positions_than_there_are(around, monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(backend, "answer", lambda _, ids, most: asked.append(len(ids) + most) or ("yes", 1, 0.5))
    monkeypatch.setattr(backend, "answering", lambda _: shutil.os.scandir(around.folder.path))  # any context
    lengths = (1, POSITIONS - 1, POSITIONS)
    questions = tuple(Question(str(length), [1] * length) for length in lengths)
    session = replace(around.session, data=replace(around.session.data, questions=questions))
    answers = measuring.answers(session)
    assert [answer.text for answer in answers] == ["yes", "yes", NO_ROOM]
    assert asked == [POSITIONS, POSITIONS]
    assert around.said == ["no answer to a prompt of 32 tokens: the model has 32 positions"]


def test_a_run_without_a_checkpoint_writes_no_step_twice(around) -> None:
    """Killed between a step's line and its checkpoint, or with every checkpoint broken since."""
    around.folder.add_line("metrics.jsonl", {"step": 1, "loss": 1.0})
    (around.folder.checkpoints / "step-00000001").mkdir(parents=True)
    assert fit.resume(around.session) is None
    assert (around.folder.path / "metrics.jsonl").read_text() == ""
    assert [event["kind"] for event in around.events] == ["checkpoint-broken", "begun-again"]


@pytest.mark.torch
def test_a_deleted_run_folder_is_made_again(around, monkeypatch) -> None:
    saving(monkeypatch, "save_state", None)
    around.folder.write_json("data.json", {"sha256": "1"})
    shutil.rmtree(around.folder.path)
    around.watch.measured_steps = set()
    around.watch.on_step(3, FIGURES)
    assert around.files == {
        ".lock", "run.toml", "data.json", "metrics.jsonl", "events.jsonl", "checkpoints",
    }  # fmt: skip
    assert around.state.kept_step == 3
    around.watch.on_step(4, FIGURES)
    assert [event["kind"] for event in around.events] == ["folder-deleted"]


def test_a_run_that_another_took_the_folder_from_saves_its_adapter_elsewhere(around, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(keeping.Path, "home", lambda: tmp_path)
    saving(monkeypatch, "save_adapter", None)
    shutil.rmtree(around.folder.path)
    with RunFolder(around.folder.path).open(TrainCommand(run=around.session.run)):
        with pytest.raises(KitError) as error:
            keeping.save(around.session)
        assert error.value.findings[0].id == "output-in-use"
        assert around.files == {".lock", "run.toml"}
    with pytest.raises(KitError) as error:
        keeping.save(around.session)
    assert error.value.findings[0].id == "output-taken"
    assert len(list(tmp_path.glob("kit-adapter-*/weights"))) == len(around.said) == 2


def test_prune_leaves_what_is_whole_when_time_jumps(tmp_path) -> None:
    """Checkpoints go by their step: one that was written at an earlier time of the clock is still the newest."""
    for step, time_s in ((1, 3e9), (2, 1e9)):
        path = checkpoints.write(tmp_path, About(step, 0, 0.0), lambda part: (part / "weights").touch()).path
        shutil.os.utime(path, (time_s, time_s))
    checkpoints.prune(tmp_path, keep=1)
    assert [one.about.step for one in checkpoints.whole(tmp_path)[0]] == [2]


def test_every_fault_of_the_benchmark_can_be_provoked() -> None:
    named = {fault.inject for fault in faults.FAULTS} - {""}
    assert named == set(inject.FAULTS)
    assert len({fault.name for fault in faults.FAULTS}) == len(faults.FAULTS)
