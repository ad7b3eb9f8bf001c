"""Sizes without a model: the shapes that the kit ships, config.json alone, and what the files themselves say."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from envcheck import settings
from envcheck.facts import Facts, Gpu
from kit import models, train
from kit.memory import Shape, disagreement, plan
from kit.memory import __main__ as models_command
from kit.memory.fitting import longest_tokens
from kit.models.counting import linear_weights
from kit.models.families import family_of, text_part
from kit.models.headers import headers
from kit.models.safetensors_file import PlannedTensor, TensorWriter
from kit.models.shipped import shipped_shape
from kit.options import Run, resolve
from kit.options.example_rows import example_rows
from kit.support.errors import KitError
from tests.support.processes import run_kit
from tests.support.results import losses_of

ROOT = Path(__file__).parents[2]
QWEN3 = ROOT / "tests" / "data" / "qwen3"
SHAPES = models.shipped_shapes()
NO_CARD = Facts(gpu=(), ram_gib=64, ram_free_gib=48)
OWN = Facts(
    gpu=(Gpu(name="NVIDIA GeForce RTX 5080", vram_gib=15.92, vram_free_gib=14.5, compute_capability="12.0"),),
    ram_gib=64,
    ram_free_gib=48,
)
CARD_PRESETS = [name for name in resolve.preset_names() if name != "cpu"]
BUILD = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
told = {}
for name, sizes in json.loads(sys.argv[1]).items():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**sizes))
    told[name] = sum(weight.numel() for weight in model.parameters())
print(json.dumps(told))
"""


@pytest.fixture
def empty_hub(tmp_path, monkeypatch) -> dict[str, str]:
    """No model was ever fetched and none can be."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}


def planned(facts: Facts = NO_CARD, **options) -> "train.Planned":
    return train.plan(resolve.given(options | {"plan": True}, lambda: facts), facts)


class TestShipped:
    @pytest.mark.parametrize("name", SHAPES)
    def test_a_shape_is_whole_and_says_where_it_is_from(self, name: str) -> None:
        shape = SHAPES[name]
        assert family_of(shape.config)
        assert Shape.of(shape.config).params == shape.parameters
        assert shape.licence
        assert "@" in shape.source
        assert shape.config["max_position_embeddings"] >= 8192

    @pytest.mark.parametrize("file", sorted(QWEN3.glob("Qwen3-*.config.json")), ids=lambda path: path.name)
    def test_it_is_what_the_published_config_says(self, file: Path) -> None:
        published = json.loads(file.read_text())
        shape = SHAPES[f"Qwen/{file.name.removesuffix('.config.json')}"]
        assert shape.config == {name: published[name] for name in shape.config}

    @pytest.mark.torch
    def test_the_parameters_are_those_that_transformers_builds(self) -> None:
        configs = {name: shape.config for name, shape in SHAPES.items()}
        done = subprocess.run([sys.executable, "-c", BUILD, json.dumps(configs)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == {name: shape.parameters for name, shape in SHAPES.items()}

    def test_the_model_of_every_preset_is_among_them(self) -> None:
        for preset in CARD_PRESETS:
            assert shipped_shape(resolve.load(["--preset", preset], pytest.fail).run.model), preset

    def test_a_packaged_model_has_the_shape_of_its_original(self) -> None:
        shape = shipped_shape("smollm2-135m")
        assert shape
        assert shape.name == models.PACKAGED["smollm2-135m"].hub_name


class TestPlanWithoutAnything:
    @pytest.mark.parametrize("preset", CARD_PRESETS)
    def test_of_every_preset_for_its_card(self, preset: str, empty_hub) -> None:
        made = planned(preset=preset)
        assert made.plan
        assert made.plan.verdict == "fits"
        gib, size_gib = (made.plan.available_bytes or 0) / 2**30, resolve.preset_gib(preset) or 0
        assert 0.88 * size_gib < gib < size_gib
        assert "no such card is in this machine" in made.reasons["preset"]
        assert any(made.model.name in reason and "the shipped config" in reason for reason in made.plan.reasons)

    def test_by_the_command(self, empty_hub) -> None:
        done = run_kit("kit.train", "--preset", "rtx5080", "--plan", env=empty_hub)
        assert done.returncode == 0, done.stderr
        assert "4,022,468,096 weights" in done.stderr
        assert "the shipped config of Qwen/Qwen3-4B" in done.stderr

    @pytest.mark.parametrize("preset", ["rtx5080", "vram-16", "auto"])
    def test_this_machines_own_card_is_planned_as_it_is(self, preset: str) -> None:
        command = resolve.given({"preset": preset, "plan": True}, lambda: OWN)
        assert resolve.planned_for(command, OWN) == (command.run, OWN)

    @pytest.mark.parametrize(("preset", "gib"), [("rtx4090", 24), ("rtx4080", 16), ("t4", 14.7), ("rtx3080", 10)])
    def test_the_card_that_is_named_and_not_the_one_that_is_here(self, preset: str, gib: float) -> None:
        _, facts = resolve.planned_for(resolve.given({"preset": preset, "plan": True}, lambda: OWN), OWN)
        assert [card.vram_gib for card in facts.gpu or ()] == [round(0.99 * gib, 2)]

    def test_a_run_is_never_of_another_card(self) -> None:
        command = resolve.given({"preset": "rtx4090"}, lambda: OWN)
        assert resolve.planned_for(command, OWN) == (command.run, OWN)

    def test_a_device_that_was_given_is_kept(self) -> None:
        command = resolve.given({"preset": "rtx4090", "plan": True, "device": "cpu"}, lambda: OWN)
        assert resolve.planned_for(command, OWN)[1] is OWN

    def test_rows_that_nothing_can_read_are_not_read_and_that_is_said(self, empty_hub) -> None:
        done = run_kit("kit.train", "--preset", "rtx5080", "--plan", "--data", "examples/identity.jsonl", env=empty_hub)
        assert done.returncode == 0, done.stderr
        assert "the rows are not read: the tokenizer of Qwen/Qwen3-4B is not on this machine" in done.stderr

    def test_a_model_whose_shape_is_not_shipped_is_a_finding(self, empty_hub) -> None:
        with pytest.raises(KitError) as error:
            planned(preset="rtx5080", model="someone/other")
        assert error.value.findings[0].id == "hub-unreachable"

    def test_a_run_needs_the_model_itself(self, empty_hub) -> None:
        with pytest.raises(KitError) as error:
            train.prepare(resolve.given({"model": "Qwen/Qwen3-4B", "preset": "cpu"}, pytest.fail), NO_CARD)
        assert error.value.findings[0].id == "hub-unreachable"


class TestConfigAlone:
    @pytest.mark.parametrize("form", ["folder", "file"])
    def test_is_enough_for_a_plan(self, form: str, tmp_path) -> None:
        file = Path(shutil.copy(QWEN3 / "Qwen3-0.6B.config.json", tmp_path / "config.json"))
        made = planned(preset="rtx5080", model=str(tmp_path if form == "folder" else file))
        assert made.plan
        assert made.plan.params == 596_049_920
        assert made.plan.reasons[0] == f"sizes from {file} alone"

    def test_with_a_tokenizer_beside_it_the_rows_are_read(self, qwen3_folder) -> None:
        made = planned(preset="rtx5080", model=str(qwen3_folder), data="examples/identity.jsonl")
        assert made.plan
        assert made.plan.tokens

    def test_a_run_still_needs_the_rest(self, tmp_path) -> None:
        shutil.copy(QWEN3 / "Qwen3-0.6B.config.json", tmp_path / "config.json")
        with pytest.raises(KitError) as error:
            models.find(str(tmp_path))
        assert "tokenizer.json" in error.value.findings[0].what

    def test_weights_in_a_form_that_is_not_loaded_are_refused(self, tmp_path) -> None:
        config = json.loads((QWEN3 / "Qwen3-0.6B.config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
        with pytest.raises(KitError) as error:
            planned(preset="rtx5080", model=str(tmp_path))
        assert error.value.findings[0].id == "model-quantised-otherwise"

    def test_16_bit_of_weights_that_are_stored_in_4_are_refused(self, tmp_path) -> None:
        config = json.loads((QWEN3 / "Qwen3-0.6B.config.json").read_text())
        nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": nf4}))
        assert planned(preset="rtx5080", model=str(tmp_path)).plan
        with pytest.raises(KitError) as error:
            planned(preset="rtx5080", model=str(tmp_path), load_in_4bit=False)
        assert error.value.findings[0].id == "model-stored-in-4-bit"

    def test_the_text_model_of_a_larger_one_is_unwrapped(self) -> None:
        inner = {name: value for name, value in SHAPES["Qwen/Qwen3-0.6B"].config.items() if name[:3] != "tie"}
        whole = {"model_type": "larger", "architectures": ["Larger"], "text_config": inner, "tie_word_embeddings": True}
        assert Shape.of(whole) == Shape.of(SHAPES["Qwen/Qwen3-0.6B"].config)
        assert (
            text_part(whole | {"text_config": inner | {"tie_word_embeddings": False}})["tie_word_embeddings"] is False
        )


def write_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    tensors = [PlannedTensor(name, "BF16", shape) for name, shape in shapes.items()]
    writer = TensorWriter(path, tensors)
    for tensor in tensors:
        writer.write(memoryview(bytes(tensor.nbytes)))
    writer.close()


class TestCounted:
    def test_the_embedded_models_own_tensors(self) -> None:
        tiny = models.find("tiny")
        shape = Shape.of(tiny.config)
        assert linear_weights(tiny, shape.layers) == shape.linear_params
        assert disagreement(tiny) == ""
        assert linear_weights(tiny, 1) == shape.linear_params // shape.layers

    @pytest.mark.parametrize("key", ["intermediate_size", "num_hidden_layers"])
    def test_where_config_and_files_differ_nothing_is_said_about_memory(self, key: str, tmp_path) -> None:
        """Silently planned before as config.json says."""
        folder = shutil.copytree(models.TINY, tmp_path / "x")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: config[key] * 2}))
        done = run_kit("kit.train", "--preset", "cpu", "--model", folder, "--plan")
        assert done.returncode == 0, done.stderr
        assert "its files hold 2,162,688 weights in linear layers, and by its config.json there are" in done.stderr
        assert "verdict" not in done.stderr

    def test_fused_experts_count_and_routers_norms_and_what_predicts_further_tokens_do_not(self, tmp_path) -> None:
        write_weights(
            tmp_path / "model.safetensors",
            {
                "model.embed_tokens.weight": (10, 8),
                "model.layers.0.self_attn.q_proj.weight": (8, 8),
                "model.layers.0.mlp.experts.gate_up_proj": (2, 8, 6),
                "model.layers.0.mlp.gate.weight": (2, 8),
                "model.layers.0.input_layernorm.weight": (8,),
                "model.layers.1.self_attn.q_proj.weight": (8, 8),
                "model.visual.layers.0.q_proj.weight": (8, 8),
                "lm_head.weight": (10, 8),
            },
        )
        assert linear_weights(models.Model("x", str(tmp_path), {}, {}), 1) == 64 + 96

    def test_the_text_model_in_a_larger_one(self, tmp_path) -> None:
        write_weights(
            tmp_path / "model.safetensors",
            {"model.language_model.layers.0.mlp.up_proj.weight": (4, 8), "model.vision.layers.0.w.weight": (8, 8)},
        )
        assert linear_weights(models.Model("x", str(tmp_path), {}, {}), 1) == 32

    def test_weights_that_cannot_be_counted_say_nothing(self, tmp_path) -> None:
        tiny = models.find("tiny")
        (tmp_path / "model.safetensors").write_bytes(bytes(64))
        assert linear_weights(replace(tiny, location=str(tmp_path)), 4) is None
        assert linear_weights(replace(tiny, location="someone/other", files={}), 4) is None
        nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        assert linear_weights(replace(tiny, config=tiny.config | {"quantization_config": nf4}), 4) is None

    def test_a_tensor_knows_its_weights(self) -> None:
        tensors = headers(models.TINY / "model.safetensors").values()
        assert sum(tensor.weights for tensor in tensors) == Shape.of(models.find("tiny").config).params


class TestWithoutData:
    def test_a_run_is_on_the_example_rows_and_says_so_first(self, capsys) -> None:
        prepared = train.prepare_with(preset="cpu")
        assert prepared.run.data == (str(example_rows()),)
        assert prepared.data.report.rows_read == 91
        assert prepared.command.origins["data"] == "the kit's example rows"
        assert capsys.readouterr().err.startswith("No --data: training on the kit's example rows, ")

    @pytest.mark.torch
    def test_by_the_command(self, tmp_path) -> None:
        folder = tmp_path / "x"
        done = run_kit(
            "kit.train", "--preset", "cpu", "--max-steps", 1, "--sample-tokens", 4, "-o", folder, libraries="unsloth"
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("No --data: training on the kit's example rows, ")
        assert len(losses_of(folder)) == 1

    def test_without_a_card_the_plan_and_the_cpu_are_offered(self) -> None:
        with pytest.raises(KitError) as error:
            train.prepare(resolve.given({"preset": "rtx5080"}, pytest.fail), NO_CARD)
        (finding,) = error.value.findings
        assert finding.id == "no-usable-gpu"
        assert [fix for fix in finding.fix if fix.startswith("--preset rtx5080 --plan ")]
        assert [fix for fix in finding.fix if fix.startswith("--preset cpu ")]

    def test_a_sweep_is_of_your_own(self, tmp_path) -> None:
        done = run_kit("kit.sweep", "--preset", "cpu", "--over", "seed=1,2", "--into", tmp_path / "x")
        assert done.returncode == 2
        assert "error: no-data" in done.stderr

    def test_a_plan_needs_none(self, empty_hub) -> None:
        assert planned(preset="rtx5080").run.data == ()


class TestModelsCommand:
    @pytest.fixture
    def listed(self, empty_hub, capsys) -> list[dict]:
        assert models_command.main(["--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def test_every_shape_and_the_embedded_model_smallest_first(self, listed: list[dict]) -> None:
        assert {model["name"] for model in listed} == {*SHAPES, "tiny", "smollm2-135m"} - {
            "HuggingFaceTB/SmolLM2-135M-Instruct"
        }
        sizes = [model["parameters"] for model in listed]
        assert sizes == sorted(sizes)
        assert all(model["licence"] for model in listed)

    def test_a_larger_card_takes_no_shorter_sample_and_none_beyond_the_models_positions(self, listed) -> None:
        for model in listed:
            longest = list(model["longest_tokens"].values())
            assert longest == sorted(longest)
            assert [int(gib) for gib in model["longest_tokens"]] == [8, 12, 16, 24, 32]
            shape = shipped_shape(model["name"])
            assert not shape or longest[-1] <= shape.config["max_position_embeddings"]

    @pytest.mark.parametrize("name", ["Qwen/Qwen3-4B", "Qwen/Qwen3-14B"])
    def test_what_is_said_to_fit_is_what_a_plan_says(self, name: str) -> None:
        """One token more does not fit, or the model has no position for it."""
        config = SHAPES[name].config
        for gib in (12, 16, 24):
            longest = longest_tokens(config, gib)
            verdicts = [verdict(config, gib, tokens) for tokens in (longest, longest + 1)]
            assert verdicts[0] == "fits"
            assert verdicts[1] != "fits" or longest == config["max_position_embeddings"]

    def test_what_is_here_is_said(self, empty_hub, tmp_path, monkeypatch) -> None:
        assert not models.is_here("Qwen/Qwen3-0.6B")
        folder = tmp_path / "hub" / "models--Qwen--Qwen3-0.6B"
        snapshot = folder / "snapshots" / ("0" * 40)
        shutil.copytree(models.TINY, snapshot)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0" * 40)
        assert models.is_here("Qwen/Qwen3-0.6B")
        (snapshot / "model.safetensors").unlink()
        assert not models.is_here("Qwen/Qwen3-0.6B")

    def test_a_packaged_model_is_here_when_its_file_is(self, empty_hub, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv("KIT_CACHE", str(tmp_path))
        assert not models.is_here("smollm2-135m")
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "smollm2-135m.gguf").write_bytes(b"GGUF")
        assert models.is_here("smollm2-135m")

    @pytest.mark.parametrize("module", ["kit.models", "kit.memory", "kit"])
    def test_as_a_table_under_each_name(self, module: str, empty_hub) -> None:
        done = run_kit(module, *(["models"] if module == "kit" else []), env=empty_hub)
        assert done.returncode == 0, done.stderr
        heads, *rows = [line.split() for line in done.stdout.splitlines()]
        assert heads[:4] == ["name", "licence", "parameters", "download"]
        assert rows[0][0] == "tiny"
        assert rows[0][-1] == "yes"
        assert "Under GiB: thousands of tokens" in done.stdout


def verdict(config: dict, gib: float, tokens: int) -> str:
    """Of a plan in the smallest way, as the table has it."""
    card = Gpu(name="NVIDIA card", vram_gib=gib, compute_capability="8.0", display=True)
    room = settings.choose(Facts(gpu=(card,))).memory_bytes.value
    run = Run(device="cuda", precision="bf16", optimizer="adamw_8bit", max_length_tokens=tokens)
    offload = "off" if config["tie_word_embeddings"] else "on"
    ways = {"micro_batch_size": 1, "attention": "sdpa", "embedding_offload": offload}
    made = plan(config, run.model_copy(update=ways | {"gradient_checkpointing": "unsloth"}), None, room)
    return made.verdict if made else ""
