"""A method of training and a family of models are one record in one table each, and stand by name nowhere else."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.memory import Shape
from kit.models.families import BLOCKS, FAMILIES, family_of, head_dim, key_value_heads
from kit.options import METHODS, Run
from kit.options.methods import TAKEN_BY, method_of

KIT = Path(__file__).parents[2] / "kit"
TOKENIZERS = {
    "models/vocabulary.py",
    "models/gguf_in.py",
}  # llama.cpp's names of tokenizers, some of which are also those of families
COMMON_WORDS = {"prompt", "prefix"}  # also keys of rows and of servers' answers


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each string in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def places(words: set[str], but: set[str]) -> list[str]:
    """Where in kit one of the words is a string of its own."""
    files = (path for path in KIT.rglob("*.py") if path.relative_to(KIT).as_posix() not in but)
    return [f"{path.relative_to(KIT)}:{line} {text}" for path in files for line, text in strings(path) if text in words]


def test_methods_are_named_in_their_table_only() -> None:
    assert places(METHODS.keys() - COMMON_WORDS, {"options/methods.py"}) == []


def test_no_method_is_compared_by_its_name() -> None:
    found = []
    for path in KIT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and getattr(node.left, "attr", getattr(node.left, "id", "")) == "method":
                found += [
                    f"{path.relative_to(KIT)}:{node.lineno}"
                    for other in node.comparators
                    for constant in ast.walk(other)
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
                ]
    assert found == []


def test_each_method_is_an_option_of_a_run() -> None:
    assert [Run(method=name).method for name in METHODS] == list(METHODS)
    with pytest.raises(ValueError, match="method"):
        Run(method="adalora")
    assert {name for names in TAKEN_BY.values() for name in names} == {
        name for name, method in METHODS.items() if not method.trains_whole_model
    }
    assert TAKEN_BY.keys() <= Run.model_fields.keys()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.trains_whole_model])
def test_an_adapters_config_names_its_method(name: str) -> None:
    method = METHODS[name]
    assert method_of({"peft_type": method.kind, **method.peft_settings}) is method


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"peft_type": "LORA", "use_dora": True, "use_rslora": True}, "dora"),
        ({"peft_type": "LORA", "use_dora": None}, "lora"),
        ({"peft_type": "PREFIX_TUNING"}, "p-tuning-v2"),
    ],
)
def test_settings_that_are_missing_or_several(config: dict, name: str) -> None:
    assert method_of(config) is METHODS[name]


@pytest.mark.parametrize("config", [{}, {"peft_type": "ADALORA"}, {"peft_type": "WEIGHTS"}, {"peft_type": ["LORA"]}])
def test_adapters_that_the_kit_does_not_use(config: dict) -> None:
    assert method_of(config) is None


def test_families_are_named_in_their_table_only() -> None:
    names = {*FAMILIES, *(family.architecture for family in FAMILIES.values())}
    assert places(names, {"models/families.py", *TOKENIZERS}) == []
    assert places({BLOCKS, BLOCKS.rstrip(".")}, {"models/families.py"}) == []


SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
BUILD = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
told = {}
for title, (model_type, sizes) in json.loads(sys.argv[1]).items():
    config = AutoConfig.for_model(model_type, **sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    told[title] = {"class": type(model).__name__, "config": config.to_dict(), "layers": layers,
                   "params": sum(weight.numel() for weight in model.parameters())}
print(json.dumps(told))
"""


@pytest.mark.torch
def test_each_family_is_what_transformers_builds() -> None:
    """Its class, its weights to the last one, and where its linear layers are; no weight is made."""
    cases = {name: (name, SIZES) for name in FAMILIES}
    cases |= {f"{name}, biased": (name, SIZES | {"attention_bias": True}) for name in ("qwen3", "qwen3_moe")}
    cases["llama, biased"] = ("llama", SIZES | {"attention_bias": True, "mlp_bias": True})
    done = subprocess.run([sys.executable, "-c", BUILD, json.dumps(cases)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for title, built in json.loads(done.stdout.splitlines()[-1]).items():
        family = FAMILIES[cases[title][0]]
        assert built["class"] == family.architecture, title
        assert Shape.of(built["config"]).params == built["params"], title
        outside = [name for name in built["layers"] if not name.startswith(BLOCKS)]
        assert outside == ["lm_head"], title


@pytest.mark.parametrize(
    "config",
    [{}, {"model_type": "phi3"}, {"model_type": ["qwen3"]}, {"model_type": "llama", "architectures": ["Other"]}],
)
def test_other_families_are_unknown(config: dict) -> None:
    assert family_of(config) is None


def test_sizes_that_a_config_leaves_out() -> None:
    assert head_dim({"hidden_size": 64, "num_attention_heads": 4}) == 16
    assert head_dim({"hidden_size": 64, "num_attention_heads": 4, "head_dim": 32}) == 32
    assert [key_value_heads({"num_attention_heads": 4} | more) for more in ({}, {"num_key_value_heads": 2})] == [4, 2]
