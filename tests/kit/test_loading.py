"""What is loaded is what was named: stand-ins for the libraries answer with other models. No torch."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from kit import models, prompt
from kit.backend import Loading, loading
from kit.backend.starting import Backend
from kit.models import Model
from tests.support.results import finding_of

QUESTION = Loading(device="cuda", precision="bf16", load_in_4bit=True, max_length_tokens=64)


def base(name: str, **facts: object) -> SimpleNamespace:
    weights = facts.pop("weights", ())
    return SimpleNamespace(config=SimpleNamespace(_name_or_path=name), is_loaded_in_4bit=True,
                           named_parameters=lambda: [(name, None) for name in weights], **facts)  # fmt: skip


def load(monkeypatch, model: Model, answer: SimpleNamespace) -> loading.Loaded:
    """As on a card, by an Unsloth that answers so."""
    monkeypatch.setattr(loading, "_load_by_unsloth", lambda model, loading: (answer, SimpleNamespace()))
    return loading.load(model, QUESTION, Backend("unsloth", "a stand-in"), prompt.load(models.find("tiny"), "auto"))


def hub_model(name: str, *, is_fetched: bool = True) -> Model:
    tiny = models.find("tiny")
    return Model(name, name, tiny.config, tiny.files if is_fetched else {})


def test_another_model_than_the_one_that_was_named_ends_the_run(monkeypatch) -> None:
    """It was trained, under the name of the other one."""
    other = base("unsloth/Qwen3-4B-unsloth-bnb-4bit")
    found = finding_of(load, monkeypatch, hub_model("Qwen/Qwen3-4B"), other)
    assert found.id == "another-base-loaded"
    assert "Qwen/Qwen3-4B was asked for, and unsloth loaded unsloth/Qwen3-4B-unsloth-bnb-4bit" in found.what


def test_a_folder_that_is_another_one_ends_the_run_too(monkeypatch, tmp_path) -> None:
    assert finding_of(load, monkeypatch, models.find("tiny"), base(str(tmp_path))).id == "another-base-loaded"


def test_a_folder_by_another_path_is_the_same_model(monkeypatch, tmp_path) -> None:
    (tmp_path / "link").symlink_to(models.TINY)
    for name in (str(models.TINY), f"{models.TINY}/", str(tmp_path / "link")):
        assert load(monkeypatch, models.find("tiny"), base(name)).backend.name == "unsloth"
    assert load(monkeypatch, hub_model("Qwen/Qwen3-4B"), base("Qwen/Qwen3-4B")).backend.name == "unsloth"


def test_a_base_that_was_left_in_16_bit_ends_the_run(monkeypatch) -> None:
    left = SimpleNamespace(config=SimpleNamespace(_name_or_path="a/b-bf16"))
    assert finding_of(load, monkeypatch, hub_model("a/b-bf16"), left).id == "not-loaded-in-4bit"


@pytest.mark.parametrize(
    ("model", "is_here"),
    [
        (models.find("tiny"), True),
        (hub_model("Qwen/Qwen3-4B"), True),
        (hub_model("no/table-knows-this", is_fetched=False), False),
    ],
)
def test_unsloth_is_asked_for_the_very_name_and_without_the_hub(monkeypatch, model: Model, is_here: bool) -> None:
    """Else it looks the name up in its tables, and asks the network for new ones where none has it; what is whole on
    this machine needs no hub."""
    asked: dict = {}

    def from_pretrained(name: str, **options: object) -> tuple[SimpleNamespace, SimpleNamespace]:
        asked.update(options, name=name)
        return base(name), SimpleNamespace()

    stand_in = ModuleType("unsloth")
    stand_in.FastLanguageModel = SimpleNamespace(from_pretrained=from_pretrained)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unsloth", stand_in)
    monkeypatch.setattr(loading, "torch_dtype", str)
    loading.load(model, QUESTION, Backend("unsloth", "a stand-in"), prompt.load(models.find("tiny"), "auto"))
    assert asked["use_exact_model_name"] is True
    assert asked["name"] == model.location
    assert asked["local_files_only"] is is_here
    assert asked["trust_remote_code"] is False


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.9.mlp.up_proj.weight"])
def test_weights_that_no_file_has_are_not_trained_over(monkeypatch, name: str) -> None:
    """transformers makes them up."""
    tiny = models.find("tiny")
    loaded = base(tiny.location, weights=["model.embed_tokens.weight", name])
    if name == "model.norm.weight":
        assert load(monkeypatch, tiny, loaded)
    else:
        found = finding_of(load, monkeypatch, tiny, loaded)
        assert found.id == "model-weights-missing"
        assert dict(found.details)["first"] == name
