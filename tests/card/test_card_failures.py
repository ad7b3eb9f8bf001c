"""What only a card does: its trainer counts no tokens, it refuses a prompt that leaves too little room, it fails."""

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest

from kit import data, models, prompt
from kit.data.batches import EpochSampler
from kit.options import Run
from kit.run import reading
from kit.run.measuring import NO_ROOM
from tests.support.results import losses_of

Watched = Callable[..., dict]
AFTER = 2  # steps: the first evaluation, with a checkpoint


def long_prompt(room_tokens: int) -> str:
    """A question that leaves so many positions of the embedded model for an answer."""
    model = models.find("tiny")
    chat, words = prompt.load(model, "auto"), ["one"]
    wanted = model.config["max_position_embeddings"] - room_tokens
    while len(chat.prompt_ids([{"role": "user", "content": " ".join(words)}])) < wanted:
        words.append("one")
    return " ".join(words)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("failing") / "run"
    window = ("--max-length-tokens", 1024)  # the model's own: Unsloth would widen it to the preset's
    return folder, "--preset", "rtx5080", *window, "--prompts", long_prompt(2), "--prompts", long_prompt(0)


@pytest.fixture(scope="module")
def failed(watched: Watched, command: tuple) -> dict:
    """A run whose card fails in the step after its first evaluation."""
    return watched(*command, card_fails_after=AFTER)


def test_a_card_that_fails_ends_the_run_in_a_finding(failed: dict, command: tuple) -> None:
    record = reading.read(command[0])
    assert failed["finding"] == "card-failed"
    assert record.status == "failed"
    assert "illegal memory access" in record.events[-1]["text"]
    assert (command[0] / "report.html").is_file()


def test_nothing_more_is_tried_on_a_card_that_failed(failed: dict) -> None:
    assert failed["kept"] == [AFTER]


def test_the_same_command_goes_on_after_the_newest_checkpoint(failed: dict, command: tuple, watched: Watched) -> None:
    rest = watched(*command)
    assert min(step for step, *_ in rest["micro_batches"]) == AFTER + 1
    assert reading.read(command[0]).status == "finished"
    assert [step for step, _ in losses_of(command[0])] == [1, 2, 3, 4, 5, 6]


def test_an_answer_takes_the_positions_that_are_left(failed: dict, command: tuple) -> None:
    short, none = json.loads((command[0] / "begun.json").read_text())["answers"]
    assert 0 < short["tokens"] <= 2
    assert none["text"] == NO_ROOM


def test_the_tokens_of_each_step_are_counted(finished: Path) -> None:
    """Without padding, as on a CPU; Unsloth's trainer for cards counts none."""
    asked = {name: option["value"] for name, option in reading.read(finished).options.items()}
    run = Run(data=["examples/identity.jsonl"], held_out_rows=5, max_length_tokens=int(asked["max_length_tokens"]))
    lengths = data.read(run, prompt.load(models.find("tiny"), "auto")).train.lengths
    size, steps = int(asked["batch_size"]), reading.read(finished).steps
    order = list(EpochSampler(lengths, size, int(asked["seed"])))
    per_step = [int(lengths[order[size * step : size * (step + 1)]].sum()) for step in range(len(steps))]
    assert [line["tokens"] for line in steps] == list(accumulate(per_step))
