"""Models whose weights are not stored in 16 bit: NF4 is planned, trained, asked and merged; all else is refused."""

import json
import re
import shutil
from dataclasses import replace
from importlib import util
from pathlib import Path

import pytest

from envcheck import probe
from kit import memory, models
from kit.chat.options import read_command
from kit.chat.target import find
from kit.export.job import prepare
from kit.export.options import MergeCommand
from kit.memory import Shape
from kit.memory.weights import head_bytes, kept_bytes, linear_bytes, nf4_bytes
from kit.models.known import KNOWN_ON_HUB, WITHOUT_NF4, nf4_of
from kit.models.quantised import StoredNF4, original_of, stored_nf4
from kit.options import LINEAR_LAYERS, Run
from tests.kit.exports import write_adapter
from tests.kit.nf4 import CONFIG, SKIPPED
from tests.support.processes import NO_TORCH, run_kit, run_python
from tests.support.results import finding_of, losses_of, record_of

TINY_CONFIG = json.loads((models.TINY / "config.json").read_text())
NF4_CONFIG = TINY_CONFIG | {"quantization_config": CONFIG}
REFUSED = [
    ("GPTQ", {"quant_method": "gptq", "bits": 4}),
    ("AWQ", {"quant_method": "awq", "bits": 4}),
    ("FP8", {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    ("MXFP4", {"quant_method": "mxfp4"}),
    ("COMPRESSED-TENSORS", {"quant_method": "compressed-tensors", "format": "pack-quantized"}),
    ("MLX", {"group_size": 64, "bits": 4}),
    ("UNNAMED", {"modules_to_not_convert": []}),
    ("UNNAMED", ["what is this?"]),
    ("bitsandbytes 8 bit", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    ("bitsandbytes 8 bit", {"load_in_8bit": True}),
    ("FP4", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("FP4", CONFIG | {"bnb_4bit_quant_type": "fp4"}),
    ("cannot be read", CONFIG | {"llm_int8_skip_modules": ["model.layers.(1"]}),
    ("cannot be read", CONFIG | {"llm_int8_skip_modules": {"lm_head": 1}}),
    ("cannot be read", CONFIG | {"llm_int8_skip_modules": ["(m|o|d|.)*(m|o|d|.)*(m|o|d|.)*!"]}),
    ("cannot be read", CONFIG | {"llm_int8_skip_modules": ["m.*.*.*.*.*.*.*.*.*!"]}),
]


def folder_with(path: Path, quantization: object) -> Path:
    shutil.copytree(models.TINY, path)
    (path / "config.json").write_text(json.dumps(TINY_CONFIG | {"quantization_config": quantization}))
    return path


@pytest.mark.parametrize(("kind", "quantization"), REFUSED)
def test_weights_that_are_stored_otherwise_are_refused_by_name(tmp_path, kind: str, quantization: object) -> None:
    """Each was planned, and begun to be loaded, as if it were in 16 bit."""
    found = finding_of(models.find, str(folder_with(tmp_path / "Qwen3-8B-int4", quantization)))
    assert found.id == "model-quantised-otherwise"
    assert kind in found.what
    assert any(way.startswith("--model Qwen/Qwen3-8B ") for way in found.fix)
    assert any(way.startswith("--model unsloth/Qwen3-8B-unsloth-bnb-4bit ") for way in found.fix)


@pytest.mark.parametrize("module", ["kit.train", "kit.data", "kit.chat"])
def test_every_door_refuses_them_before_a_library_is_imported(tmp_path, module: str) -> None:
    model = str(folder_with(tmp_path / "x-AWQ", {"quant_method": "awq"}))
    given = (model,) if module == "kit.chat" else ("--data", "examples/identity.jsonl", "--model", model)
    done = run_kit(module, *given, env=NO_TORCH)
    assert done.returncode == 1
    assert "model-quantised-otherwise" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_merge_refuses_them_in_its_own_words(tmp_path) -> None:
    model = folder_with(tmp_path / "Qwen3-8B-AWQ", {"quant_method": "awq"})
    command = MergeCommand(source=write_adapter(tmp_path / "adapter"), output=tmp_path / "out", base=str(model))
    assert any(way.startswith("--base Qwen/Qwen3-8B ") for way in finding_of(prepare, command).fix)


def test_a_plain_config_is_in_16_bit() -> None:
    for nothing in ({}, {"quantization_config": None}, {"quantization_config": {}}):
        assert stored_nf4(TINY_CONFIG | nothing) is None


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("unsloth/Qwen3-4B-unsloth-bnb-4bit", "unsloth/Qwen3-4B"),
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "unsloth/Llama-3.2-1B-Instruct"),
        ("Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-4B-GPTQ-Int4", "Qwen/Qwen3-4B"),
        ("RedHatAI/Qwen3-8B-quantized.w4a16", "Qwen/Qwen3-8B"),
        ("mlx-community/Qwen3-8B-4bit", "Qwen/Qwen3-8B"),
        ("someone/Their-FP8-dynamic", "someone/Their"),
        ("C:\\models\\Qwen3-8B-bnb-4bit", "Qwen/Qwen3-8B"),
        ("/models/theirs-bnb-4bit", ""),
        ("openai/gpt-oss-20b", ""),
    ],
)
def test_the_model_that_a_quantised_one_was_made_from(name: str, original: str) -> None:
    assert original_of(name) == original


def test_what_its_config_or_a_folder_beside_it_says_comes_first(tmp_path) -> None:
    assert original_of("a/b-bnb-4bit", {"_name_or_path": "Qwen/Qwen3-4B"}) == "Qwen/Qwen3-4B"
    assert original_of("a/b-bnb-4bit", {"_name_or_path": "c/b-bnb-4bit"}) == "a/b"
    assert original_of("a/b-bnb-4bit", {"_name_or_path": "/home/maker/b"}) == "a/b"
    (tmp_path / "mine").mkdir()
    assert original_of(f"{tmp_path}/mine-bnb-4bit/") == f"{tmp_path}/mine"


def test_the_repositories_that_are_advised_are_unsloths() -> None:
    """By Unsloth's own table, which is read without importing it."""
    package = Path(util.find_spec("unsloth").submodule_search_locations[0])
    table: dict = {}
    exec((package / "models" / "mapper.py").read_text(encoding="utf-8"), table)
    for known in KNOWN_ON_HUB:
        assert (table["FLOAT_TO_INT_MAPPER"][known] == nf4_of(known)) == (known not in WITHOUT_NF4)


# the plan


def test_layers_that_stay_in_16_bit_are_planned_so() -> None:
    """Layer 0 has its four of the attention, layer 1 its three of the MLP, layer 2 one of them."""
    shape, run = Shape.of(NF4_CONFIG), Run(precision="bf16")
    kept = {"q_proj": 1, "k_proj": 1, "v_proj": 1, "o_proj": 1, "gate_proj": 1, "up_proj": 1, "down_proj": 2}
    assert shape.kept == kept
    weights = {name: d_in * d_out for name, (d_in, d_out) in shape.linears.items()}
    assert kept_bytes(shape, run) == sum(2 * weights[name] * count for name, count in kept.items())
    assert linear_bytes(shape, run) == sum(nf4_bytes(weights[name]) * (4 - kept[name]) for name in LINEAR_LAYERS)
    assert shape.params == Shape.of(TINY_CONFIG).params


def test_scales_that_are_not_quantised_take_four_bytes_for_64_weights() -> None:
    plain = Shape.of(TINY_CONFIG | {"quantization_config": CONFIG | {"bnb_4bit_use_double_quant": False}})
    linears = [d_in * d_out * (4 - plain.kept[name]) for name, (d_in, d_out) in plain.linears.items()]
    layers = 4 * 7 - sum(plain.kept.values())
    assert linear_bytes(plain, Run()) == sum(linears) // 2 + sum(linears) // 64 * 4 + layers * 16 * 4


def test_a_head_that_is_stored_in_nf4_is_planned_so() -> None:
    untied = TINY_CONFIG | {"tie_word_embeddings": False}
    weights = Shape.of(untied).head_params
    of_all = Shape.of(untied | {"quantization_config": CONFIG | {"llm_int8_skip_modules": []}})
    unsaid = Shape.of(untied | {"quantization_config": CONFIG | {"llm_int8_skip_modules": None}})
    assert head_bytes(of_all, Run()) == nf4_bytes(weights)
    assert head_bytes(unsaid, Run(precision="bf16")) == 2 * weights
    assert unsaid.kept_params == 0


def test_the_plan_says_what_stays_in_16_bit() -> None:
    run = Run(device="cpu", precision="bf16", micro_batch_size=1, gradient_checkpointing="off")
    plain, stored = (memory.plan(config, run, None, None) for config in (TINY_CONFIG, NF4_CONFIG))
    assert "8 of 28 linear layers are in 16 bit, as the model's quantization_config says" in stored.reasons
    sizes = {part.name: part.high_bytes for part in stored.parts}
    assert sizes["layers kept in 16 bit"] > sizes["4-bit weights"] * 8 / 20
    assert "layers kept in 16 bit" not in {part.name for part in plain.parts}


@pytest.mark.torch
def test_which_layers_stay_is_decided_as_by_transformers() -> None:
    names = [f"model.layers.{block}.{name}" for block in (0, 1, 11) for name in ("self_attn.q_proj", "mlp.up_proj")]
    lists = [SKIPPED, [], ["lm_head"], ["model.layers.1"], ["up_proj"], ["layers.0.mlp"], ["model.layers.1.*.q_proj"]]
    code = (
        "import json, sys; from transformers.quantizers.quantizers_utils import should_convert_module as converts;"
        "names, lists = json.loads(sys.argv[1]);"
        "print(json.dumps([[not converts(name, skipped) for name in names] for skipped in lists]))"
    )
    theirs = record_of(run_python("-c", code, json.dumps([names, lists]), libraries="hf"))
    assert [[StoredNF4(tuple(one), True).keeps(name) for name in names] for one in lists] == theirs
    assert {True, False} <= {kept for row in theirs for kept in row}


# 16 bit of it


def test_16_bit_of_what_is_stored_in_4_is_refused(tmp_path) -> None:
    model = folder_with(tmp_path / "Qwen3-4B-bnb-4bit", CONFIG)
    found = finding_of(models.find_for, Run(model=str(model), load_in_4bit=False))
    assert found.id == "model-stored-in-4-bit"
    assert found.fix[0].startswith("--model Qwen/Qwen3-4B ")
    assert models.find_for(Run(model=str(model))).stored_nf4
    full = finding_of(models.find_for, Run(model=str(model), load_in_4bit=False, method="full"))
    assert not any("--load-in-4bit" in way for way in full.fix), "which every weight cannot be trained in"
    done = run_kit("kit.train", "--model", model, "--no-load-in-4bit", "--preset", "cpu", "--plan", env=NO_TORCH)
    assert done.returncode == 1
    assert "model-stored-in-4-bit" in done.stderr


def test_a_model_without_a_run_is_asked_as_it_is_stored(tmp_path) -> None:
    model, facts = folder_with(tmp_path / "x", CONFIG), replace(probe.collect(), gpu=())
    assert find(read_command([str(model)]), facts).loading.load_in_4bit
    assert not find(read_command(["tiny"]), facts).loading.load_in_4bit
    found = finding_of(find, read_command([str(model), "--load-in-4bit", "off"]), facts)
    assert found.id == "model-stored-in-4-bit"


# a run over it


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """tiny in NF4, named after the model in 16 bit that lies beside it."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(models.TINY, folder / "small")
    done = run_python("-m", "tests.kit.nf4", "save", folder / "small-bnb-4bit", libraries="hf")
    assert done.returncode == 0, done.stderr
    return folder / "small-bnb-4bit"


def run_over(kit_train, model: Path, output: Path, backend: str, *options: object) -> Path:
    done = kit_train(
        "--model", model, "--preset", "cpu", "--backend", backend, "--data", "examples/identity.jsonl", "--output",
        output, "--max-steps", 4, "--evaluations", 1, "--sample-tokens", 4, *options, libraries=backend,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def trained(kit_train, stored, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: run_over(kit_train, stored, folder / name, name) for name in ("unsloth", "hf")}


@pytest.mark.torch
@pytest.mark.parametrize(("backend", "precision"), [("unsloth", "bf16"), ("hf", "bf16"), ("hf", "fp32")])
def test_both_backends_load_it_as_planned(stored, backend: str, precision: str) -> None:
    done = run_python("-m", "tests.kit.nf4", "loaded", stored, backend, precision, libraries=backend)
    got, shape = record_of(done), Shape.of(models.find(str(stored)).config)
    layers = {f"model.layers.{block}.{'mlp' if name in LINEAR_LAYERS[4:] else 'self_attn'}.{name}"
              for block in range(4) for name in LINEAR_LAYERS}  # fmt: skip
    assert set(got["in_4bit"]) == {name for name in layers if not re.match("|".join(SKIPPED), name)}
    assert len(got["in_4bit"]) == 20
    run = Run(precision=precision)
    assert got["bytes"] == linear_bytes(shape, run) + kept_bytes(shape, run)
    assert got["dtypes"] == [{"bf16": "torch.bfloat16", "fp32": "torch.float32"}[precision]]
    assert got["base"] == str(stored)


@pytest.mark.torch
def test_both_backends_train_over_it_alike(trained) -> None:
    unsloth, hf = ([loss for _, loss in losses_of(trained[name])] for name in ("unsloth", "hf"))
    assert unsloth == pytest.approx(hf, rel=1e-3)
    assert len(unsloth) == 4


@pytest.mark.torch
@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_its_name_is_carried_everywhere(trained, stored, backend: str) -> None:
    run = trained[backend]
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(stored)
    assert json.loads((run / "manifest.json").read_text())["model"]["name"] == str(stored)
    assert f"model = {json.dumps(str(stored))}" in (run / "run.toml").read_text()
    assert stored.name in (run / "report.html").read_text()


@pytest.mark.torch
def test_a_run_over_it_that_was_stopped_goes_on_to_the_last_bit(trained, stored, tmp_path) -> None:
    options = {"model": str(stored), "preset": "cpu", "backend": "unsloth", "data": "examples/identity.jsonl",
               "output": str(tmp_path / "x"), "max_steps": 4, "evaluations": 1, "sample_tokens": 4}  # fmt: skip
    done = run_python("-m", "tests.kit.nf4", "paused", json.dumps(options), libraries="unsloth")
    assert done.returncode == 0, done.stderr
    assert "going on after step 2 of 4" in done.stderr
    assert losses_of(tmp_path / "x") == losses_of(trained["unsloth"])


@pytest.mark.torch
def test_it_is_asked_over_the_same_base(trained, stored) -> None:
    """With plain transformers, also what Unsloth trained: the answers written down at the end of training."""
    assert find(read_command([str(trained["unsloth"])]), replace(probe.collect(), gpu=())).model.location == str(stored)
    answers = json.loads((trained["unsloth"] / "samples.json").read_text())["after"]
    asked = answers[0]["question"]
    done = run_kit("kit.chat", trained["unsloth"], "--prompt", asked, "--max-tokens", 4, "--json", libraries="hf")
    assert record_of(done)["answer"] == answers[0]["text"].strip()


# a merge of it


def merged(run: Path, output: Path, *options: object):
    return run_kit("kit.merge", run, "-o", output, *options, libraries="hf")


@pytest.mark.torch
def test_a_merge_takes_the_weights_of_training_and_says_so(trained, stored, tmp_path) -> None:
    done = merged(trained["hf"], tmp_path / "out", "--json")
    assert record_of_json(done)["passed"]
    assert (
        f"its weights are stored in 4 bit and dequantised; --base-precision 16bit takes {stored.parent / 'small'}"
        in flat(done)
    )
    assert models.find(str(tmp_path / "out")).stored_nf4 is None, "it is plain and in 16 bit"


@pytest.mark.torch
def test_16_bit_is_the_model_that_it_was_made_from(trained, stored, tmp_path) -> None:
    done = merged(trained["hf"], tmp_path / "out", "--base-precision", "16bit", "--json")
    rows = {row["name"]: row for row in record_of_json(done)["rows"]}
    assert f"base      {stored.parent / 'small'} (16 bit): asked for" in flat(done)
    assert rows["base of training"]["precision"] == "nf4", "what was trained is there to be compared with"
    assert rows["base of training"]["top1_pct"] < 100


@pytest.mark.torch
def test_16_bit_that_nothing_tells_of_is_asked_for(trained, stored, tmp_path) -> None:
    """It was taken in 4 bit: `no other is here`."""
    adapter = tmp_path / "adapter"
    shutil.copytree(trained["hf"] / "adapter", adapter)
    shutil.copytree(stored, tmp_path / "theirs")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "theirs")})
    )
    asked = MergeCommand(source=adapter, output=tmp_path / "out", base_precision="16bit")
    found = finding_of(prepare, asked)
    assert found.id == "model-stored-in-4-bit"
    assert found.fix[0].startswith("--base OWNER/NAME ")
    for given in (asked, MergeCommand(source=adapter, output=tmp_path / "out")):
        job = prepare(given.model_copy(update={"base": "tiny"}))
        assert (job.four_bit, job.trained_in_four_bit, job.trained_on) == (False, True, tmp_path / "theirs")
        assert f"the adapter was trained on {tmp_path / 'theirs'}, which is stored in 4 bit" in job.reason


def record_of_json(done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def flat(done) -> str:
    """What was said, without the breaks of its lines."""
    return done.stderr.replace("\n", "")
