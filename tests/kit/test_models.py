"""Names and folders that are models, and what is said of those that are not."""

import json

import pytest

from envcheck.facts import Finding
from kit import models, prompt
from kit.support.errors import KitError
from tests.support.results import finding_of


def problem(name) -> Finding:
    return finding_of(models.find, str(name))


@pytest.fixture
def folder(tmp_path):
    """A folder that would pass for a model."""
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(64))
    return tmp_path


def test_tiny_is_a_small_real_qwen3() -> None:
    tiny = models.find("tiny")
    assert tiny.config["architectures"] == ["Qwen3ForCausalLM"]
    assert tiny.config["hidden_size"] % 64 == 0
    assert tiny.config["vocab_size"] == 6400
    weights = models.TINY / "model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    header = json.loads(weights.read_bytes()[8 : 8 + int.from_bytes(weights.read_bytes()[:8], "little")])
    assert {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"} == {"BF16"}


def test_a_good_folder(folder) -> None:
    assert models.find(str(folder)).is_local


def test_missing_config_and_tokenizer(folder) -> None:
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").unlink()
    found = problem(folder)
    assert found.id == "model-folder-incomplete"
    assert "config.json and tokenizer.json" in found.what


def test_lfs_pointer_instead_of_weights(folder) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    found = problem(folder)
    assert found.id == "model-weights-are-lfs-pointers"
    assert any("lfs pull" in step for step in found.fix)


def test_pickled_weights_are_not_read(folder) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    found = problem(folder)
    assert found.id == "model-weights-missing"
    assert "pickle" in found.why


def test_a_shard_that_is_missing(folder) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "two.safetensors"}})
    )
    assert "two.safetensors" in dict(problem(folder).details)["missing"]


@pytest.mark.parametrize("text", ["{", "[]", ""])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_config_that_is_no_json(folder, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert problem(folder).id == "model-config-unreadable"


def test_a_tokenizer_config_that_is_no_json(folder) -> None:
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(KitError) as error:
        prompt.load(models.find(str(folder)), "auto")
    assert error.value.findings[0].id == "model-config-unreadable"


@pytest.mark.parametrize("name", ["tny", "./nowhere", "/no/such/folder", "a b/c"])
def test_names_that_are_nothing(name: str) -> None:
    assert problem(name).id == "model-not-found"


def test_a_hub_model_is_whole_here_when_every_file_of_its_index_was_fetched(folder) -> None:
    """Then the hub is not asked; a download that was broken off goes on."""

    def cached() -> models.Model:
        return models.Model("a/b", "a/b", {}, {"config.json": folder / "config.json"})

    assert cached().folder == folder
    (folder / models.SINGLE).rename(folder / "one.safetensors")
    assert cached().folder is None, "which files there are to be is not known"
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / models.INDEX).write_text(json.dumps(index))
    assert cached().folder is None
    (folder / "two.safetensors").write_bytes(bytes(64))
    assert cached().folder == folder
    assert models.Model("a/b", "a/b", {}, {}).folder is None


def test_near_name() -> None:
    assert "Did you mean tiny?" in problem("tny").what


def test_a_hub_name_while_offline(kit_train) -> None:
    done = kit_train(
        "--model", "Qwen/Qwen3-0.6B", "--preset", "cpu", "--data", "examples/gsm8k.jsonl", env={"HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 1
    assert "hub-unreachable" in done.stderr
    assert "hf download Qwen/Qwen3-0.6B --local-dir models/Qwen3-0.6B" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Qwen/Qwen3-1.7B-Instruct", "Qwen/Qwen3-1.7B"),
        ("Qwen/Qwen3-8B-Chat", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-4B-Instruct-2570", "Qwen/Qwen3-4B-Instruct-2507"),
        ("Qwen/Qwen3-1.7b", "Qwen/Qwen3-1.7B"),
    ],
)
def test_a_name_that_tutorials_invent_leads_to_the_model_of_its_size(name: str, meant: str) -> None:
    assert models.near_on_hub(name) == f"Did you mean {meant}?"


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": "someone/kernel"},
        {"attn_implementation": "paged|kernels-community/flash-attn@v1"},
        {"attn_implementation": {"": "sdpa", "text_config": "someone/kernel"}},
        {"_attn_implementation_internal": "someone/kernel"},
        {"_experts_implementation_internal": "someone/kernel"},
        {"experts_implementation": "someone/kernel"},
        {"text_config": {"_attn_implementation": "someone/kernel"}},
        {"parts": [{"attn_implementation": "someone/kernel"}]},
    ],
)
def test_a_config_that_names_code_is_refused_before_a_library_reads_it(folder, config) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    found = problem(folder)
    assert found.id == "model-names-code"
    assert str(folder / "config.json") in found.what
    assert "implementation" in found.fix[0]


@pytest.mark.parametrize("value", ["flash_attention_2", "sdpa", None, {"": "eager"}, 7])
def test_a_way_that_the_libraries_have_themselves_is_no_code(folder, value) -> None:
    (folder / "config.json").write_text(json.dumps({"attn_implementation": value, "_name_or_path": "a/b"}))
    assert models.find(str(folder)).config["attn_implementation"] == value
