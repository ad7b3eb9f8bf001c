"""What the kit adds to the libraries' classes, over bases made of paper: no torch here."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from kit.backend import Backend, Loaded, ladder
from kit.backend.generation import TokenStream, answering
from kit.backend.ladder import Ladder
from kit.backend.listener import ListenerCallback
from kit.backend.loading import Loading
from kit.backend.steps import SPIKE, Steps
from kit.options import Run


class Base:
    """In the place of TRL's trainer."""

    state = SimpleNamespace(global_step=0)


class FakeSamples:
    lengths = np.array([5, 9, 3, 7, 4])
    row = np.array([10, 11, 12, 13, 14])


@pytest.fixture
def trainer() -> Steps:
    made = type("StepTrainer", (Steps, Base), {})()
    loaded = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(vocab_size=1000)))
    run = Run(batch_size=2, micro_batch_size=2, gradient_checkpointing="off")
    made.prepare(loaded, run, FakeSamples(), lambda *_, **__: None)
    return made


def test_a_sample_of_any_step_is_named_by_its_data_row(trainer) -> None:
    sampler = trainer._get_train_sampler()
    for epoch in range(2):
        sampler.set_epoch(epoch)
        rows = [int(FakeSamples.row[index]) for index in sampler]
        steps = [1, 1, 2, 2, 3]
        assert rows == [trainer.data_row(3 * epoch + step, number % 2) for number, step in enumerate(steps)]


def test_a_spike_is_one_only_after_the_loss_was_below_guessing(trainer) -> None:
    loss = 1.01 * SPIKE * trainer.guessing_loss
    assert not trainer.is_spike(loss)
    trainer.was_below_guessing = True
    assert trainer.is_spike(loss)
    assert not trainer.is_spike(0.98 * loss)


def test_the_listener_hears_of_steps_and_may_stop_after_one() -> None:
    steps = []
    listener = SimpleNamespace(on_step=lambda *step: steps.append(step), stop_requested=lambda: len(steps) == 2)
    trainer = SimpleNamespace(tokens=7, count_update=lambda: None, check_updates=lambda: None)
    callback, control = ListenerCallback(listener, trainer), SimpleNamespace(should_training_stop=False)
    for step in (1, 2):
        state = SimpleNamespace(global_step=step, log_history=[{"loss": 1}])
        assert not control.should_training_stop
        callback.on_log(None, state, control, logs={"loss": 2})
        callback.on_log(None, state, control, logs={"train_runtime": 1})
        assert state.log_history == []
    assert steps == [(1, {"loss": 2.0, "num_tokens": 7}), (2, {"loss": 2.0, "num_tokens": 7})]
    assert control.should_training_stop


class PaperModel:
    """Two modules, of which one recomputes activations where it is told to."""

    def __init__(self):
        self.layer = SimpleNamespace(gradient_checkpointing=False)

    def modules(self):
        return [SimpleNamespace(), self.layer]


class PaperUnsloth:
    """Its two switches as they are on a card: asked for nothing, it goes back to what the model began with."""

    @staticmethod
    def for_inference(model: PaperModel) -> None:
        model.layer.gradient_checkpointing = False

    @staticmethod
    def for_training(model: PaperModel, use_gradient_checkpointing=None) -> None:
        model.layer.gradient_checkpointing = use_gradient_checkpointing or False


@pytest.mark.parametrize("way", [False, True, "unsloth"])
def test_answers_leave_the_checkpointing_of_the_ladder_on(monkeypatch, way) -> None:
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=PaperUnsloth))
    model = PaperModel()
    model.layer.gradient_checkpointing = way
    with answering(Loaded(model, None, Backend("unsloth", ""), "cuda")):
        assert model.layer.gradient_checkpointing is False
    assert model.layer.gradient_checkpointing == way


@pytest.mark.parametrize(("asked", "saved", "then"), [("off", True, "on"), ("unsloth", True, "unsloth"),
                                                      ("off", False, "off")])  # fmt: skip
def test_a_resumed_run_is_on_the_rungs_that_it_was_on(monkeypatch, asked, saved, then) -> None:
    events, switched = [], []
    monkeypatch.setattr(ladder, "recompute_activations", switched.append)
    run = Run(batch_size=4, micro_batch_size=4, gradient_checkpointing=asked)
    resumed = Ladder(None, run, FakeSamples(), lambda kind, _: events.append(kind))
    resumed.go_on_from(9, saved)
    assert (resumed.budget_tokens, resumed.checkpointing) == (9, then)
    assert len(switched) == len(events) == (then != asked)


def test_the_prompt_is_no_part_of_the_answer() -> None:
    heard: list[int] = []
    stream = TokenStream(heard.append, lambda: False)
    for ids in ([[1, 2, 3]], [4], [5]):
        stream.put(np.array(ids))
    assert stream.ids == heard == [4, 5]


def test_a_method_that_unsloth_has_not_is_loaded_without_it() -> None:
    loading = Loading.of(Run(method="dora", device="cpu", precision="bf16"))
    assert loading.backend == "hf"
    assert "dora is no method of Unsloth's" in loading.reason
    assert Loading.of(Run(method="rslora", device="cpu", precision="bf16")).backend == "auto"
