"""Every text of "memory ran out" and "the card failed": what each is taken for, and what is said of it. No torch."""

from types import SimpleNamespace

import pytest

from kit.backend import candidates, device_errors, starting
from kit.backend.device_errors import CardFailed, card_error, card_errors_explained, is_out_of_memory
from kit.export import verifying, writing
from kit.support.errors import KitError, failure
from tests.support.error_texts import CARD, KERNEL, MEMORY, ON_A_FULL_CARD, OTHERS, error_of_text
from tests.support.results import error_of, finding_of


@pytest.fixture(autouse=True)
def card_with_room(monkeypatch) -> None:
    monkeypatch.setattr(device_errors, "_card_is_full", lambda: False)


@pytest.mark.parametrize("name", MEMORY)
def test_memory_that_ran_out_is_told_by_its_words(name) -> None:
    error = error_of_text(*MEMORY[name])
    assert is_out_of_memory(error)
    assert card_error(error) is None


@pytest.mark.parametrize("name", ON_A_FULL_CARD)
def test_a_library_that_cannot_start_lacks_memory_only_on_a_full_card(name, monkeypatch) -> None:
    error = error_of_text(*ON_A_FULL_CARD[name])
    assert not is_out_of_memory(error)
    assert card_error(error)
    monkeypatch.setattr(device_errors, "_card_is_full", lambda: True)
    assert is_out_of_memory(error)
    assert card_error(error) is None


def explained(kind: str, text: str) -> KitError:
    @card_errors_explained()
    def work() -> None:
        raise error_of_text(kind, text)

    return error_of(work)


@pytest.mark.parametrize("name", CARD)
def test_a_card_that_failed_says_how_to_go_on(name) -> None:
    kind, text = CARD[name]
    assert not is_out_of_memory(error_of_text(kind, text))
    error = explained(kind, text)
    assert isinstance(error, CardFailed)
    (finding,) = error.findings
    assert finding.id == "card-failed"
    assert text.splitlines()[0] in finding.what
    assert finding.fix[0].startswith("the same command again")


def test_each_failure_of_a_card_has_its_own_reason() -> None:
    said = {name: explained(*CARD[name]).findings[0].why for name in CARD}
    assert "token id" in said["card: assert"]
    assert said["card: ECC"] == said["card: lost"] == said["card: off the bus"]
    assert said["card: standby"] == said["card: none"] == said["card: busy"]
    assert "TDR" in said["card: watchdog"]
    assert len({said[name] for name in CARD}) == 4


@pytest.mark.parametrize("name", KERNEL)
def test_a_kernel_that_does_not_fit_the_card_is_no_lack_of_memory(name) -> None:
    kind, text = KERNEL[name]
    assert not is_out_of_memory(error_of_text(kind, text))
    error = explained(kind, text)
    assert not isinstance(error, CardFailed)
    assert error.findings[0].id == "kernel-cannot-run"


@pytest.mark.parametrize("name", OTHERS)
def test_other_errors_are_left_as_they_are(name) -> None:
    error = error_of_text(*OTHERS[name])
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), card_errors_explained():
        raise error


def lost(*_: object, **__: object) -> None:
    raise error_of_text(*CARD["card: illegal access"])


def test_a_card_that_fails_as_the_libraries_start_is_a_finding(monkeypatch) -> None:
    monkeypatch.setattr(starting, "_set_environment", lost)
    assert isinstance(error_of(starting.start, None), CardFailed)


def test_a_card_that_fails_in_a_merge_is_a_finding(monkeypatch) -> None:
    monkeypatch.setattr(writing.merging, "pieces", lost)
    assert isinstance(error_of(writing.write, [None], None, [], None), CardFailed)


def test_a_card_that_fails_in_the_comparison_leaves_the_mark_of_what_is_written(monkeypatch) -> None:
    base = SimpleNamespace(folder="base", is_saved_in_four_bit=False)
    first = SimpleNamespace(precision="bf16", is_whole=False)
    job = SimpleNamespace(weights=(), base=base, adapters=(), four_bit=False, first=first, combination=None,
                          trained_in_four_bit=None, trained_on=None, output="model")  # fmt: skip
    monkeypatch.setattr(candidates, "choose_device", lambda _: ("cuda", "fp32"))
    monkeypatch.setattr(verifying, "_exports", lambda *_: [])
    monkeypatch.setattr(verifying.parity, "compare", lost)
    error = error_of(verifying.verify, job, None, None, None)
    assert isinstance(error, CardFailed)
    assert error.findings[0].fix[0].startswith("merge again into a new folder")


def test_the_name_of_a_file_says_nothing() -> None:
    assert not is_out_of_memory(FileNotFoundError(2, "No such file or directory", "CUDA out of memory.jsonl"))
    assert card_error(FileNotFoundError(2, "No such file or directory", "CUDA error.jsonl")) is None


def test_what_has_been_judged_is_not_judged_again() -> None:
    error = failure("out-of-memory", "Memory ran out: CUDA out of memory, CUDA error.", "No room.", "less")
    assert not is_out_of_memory(error)
    with pytest.raises(KitError) as raised, card_errors_explained():
        raise error
    assert raised.value is error
    assert finding_of(lambda: (_ for _ in ()).throw(error)).id == "out-of-memory"
