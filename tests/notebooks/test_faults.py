"""What notebook 07 provokes is provoked, and gone afterwards. No training here: the notebook itself does that."""

from pathlib import Path

import pytest

from benchmarks import inject
from kit import backend, models, prompt
from kit.prompt import IGNORED
from notebooks import faults

ASKED = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am Kit."}]


@pytest.fixture(scope="module")
def chat() -> prompt.ChatFormat:
    return prompt.load(models.find("tiny"), "auto")


def trained(chat: prompt.ChatFormat, marker: str) -> str:
    ids = chat.samples(ASKED)[0].ids
    labels = faults.mask_behind(chat, ids, marker)
    assert len(labels) == len(ids)
    kept = [label for label, token in zip(labels, ids, strict=True) if label != IGNORED and label == token]
    return chat.tokenizer.decode(kept, skip_special_tokens=False)


def test_a_mask_behind_a_marker_goes_to_the_end_token_and_one_that_is_not_there_masks_all(chat) -> None:
    assert trained(chat, "<|im_start|>assistant\n") == "<think>\n\n</think>\n\nI am Kit.<|im_end|>"
    assert trained(chat, "<|im_start|>user\n") == "Who are you?<|im_end|>"
    assert trained(chat, "Noneassistant") == ""


def test_a_fault_is_taken_out_again_also_after_an_error(monkeypatch) -> None:
    plain, other = backend.trainer, object()
    monkeypatch.setitem(inject.FAULTS, "other", lambda: setattr(backend, "trainer", other))
    seen = []

    def run() -> None:
        seen.append(backend.trainer)
        raise ValueError("in the run")

    with pytest.raises(ValueError, match="in the run"), faults.provoked("other"):
        run()
    assert seen == [other]
    assert backend.trainer is plain


def test_a_name_that_does_not_exist_is_told_with_and_without_a_hub() -> None:
    for said, finding in (
        (faults.asked_of_the_hub("Qwen/Qwen3-1.7B-Instruct"), "model-not-on-hub"),
        (faults.asked_offline("Qwen/Qwen3-1.7B-Instruct"), "hub-unreachable"),
    ):
        assert said.startswith(f"error: {finding}")
        assert str(Path.home()) not in said


def test_the_fastest_step_is_that_of_the_run(monkeypatch) -> None:
    lines = [{"step": step, "loss": 1.0, "elapsed_s": end} for step, end in enumerate((9.0, 9.1, 11.0, 11.5), start=1)]
    record = type("Record", (), {"steps": lines, "events": [{"kind": "a"}, {"kind": "b"}]})
    monkeypatch.setattr(faults, "read", lambda _: record)
    prepared = type("Prepared", (), {"output": Path("x")})
    assert faults.step_seconds(prepared) == 0.5
    assert faults.losses(prepared) == dict.fromkeys(range(1, 5), 1.0)
    assert faults.events(prepared, "b") == [{"kind": "b"}]


def test_a_ratio_within_the_noise_says_nothing() -> None:
    assert faults.times_as_long([1.0, 1.1], [2.0, 2.1]) == "a step takes 2.00 times as long (repeats differ by 1.10)"
    for noisy in (([1.0, 3.0], [2.0, 2.1]), ([2.0, 2.1], [1.0, 3.0]), ([1.0, 1.1], [1.0, 1.0])):
        assert "says nothing" in faults.times_as_long(*noisy)
