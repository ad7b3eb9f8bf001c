"""Models that are not trained are refused by name, by config.json alone; every decoder of attention blocks is not."""

import json
import shutil
from pathlib import Path

import pytest

from kit import models
from kit.models.families import FAMILIES
from kit.models.untrainable import refusal
from kit.options import Run
from tests.support.processes import NO_TORCH, run_kit
from tests.support.results import finding_of

PUBLISHED = Path(__file__).parents[1] / "data" / "families"
QWEN3 = json.loads((models.TINY / "config.json").read_text())
# What speaks against each in its published config.json.
REFUSED = {
    "t5": ("encoder-and-decoder", {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}),
    "bart": ("encoder-and-decoder", {"architectures": ["BartForCausalLM"], "is_encoder_decoder": True}),
    "gemma3": ("more-than-text", {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"depth": 1},
                                  "text_config": {"model_type": "gemma3_text"}}),
    "mistral3": ("more-than-text", {"vision_config": {"depth": 1}, "text_config": QWEN3}),
    "qwen2_audio": ("more-than-text", {"audio_config": {"d_model": 1}}),
    "llava_llama": ("more-than-text", {"architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "clip"}),
    "qwen3": ("writes-no-text", {"architectures": ["Qwen3ForSequenceClassification"]}),
    "mistral": ("writes-no-text", {"architectures": ["MistralModel"]}),
    "bert": ("writes-no-text", {"architectures": ["BertForMaskedLM"]}),
    "mamba": ("carries-a-state", {"architectures": ["MambaForCausalLM"], "state_size": 16}),
    "granitemoehybrid": ("carries-a-state", {"layer_types": ["mamba", "attention"], "num_local_experts": 8}),
    "nemotron_h": ("carries-a-state", {"hybrid_override_pattern": "M-M*-", "ssm_state_size": 128}),
    "lfm2": ("carries-a-state", {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
    "qwen3_next": ("carries-a-state", {"layer_types": ["linear_attention", "full_attention"]}),
    "gpt_oss": ("other-experts", {"architectures": ["GptOssForCausalLM"], "num_local_experts": 32}),
    "mixtral": ("other-experts", {"num_local_experts": 8}),
    "deepseek_v3": ("other-experts", {"n_routed_experts": 256}),
    "chatglm": ("its-own-code", {"architectures": ["ChatGLMModel"], "auto_map": {"AutoModel": "modeling_x.X"}}),
}  # fmt: skip


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_is_not_trained_is_named_with_its_reason(model_type: str) -> None:
    """Each was planned as "fits" or "unknown", and then loaded."""
    kind, config = REFUSED[model_type]
    found = refusal(Run(model="theirs"), {"model_type": model_type} | config)
    assert found
    assert found.id.endswith(kind)
    assert "theirs" in found.what
    assert model_type in found.what
    assert found.why
    assert found.fix


@pytest.mark.parametrize(
    "config",
    [
        *({"model_type": family.model_type, "architectures": [family.architecture]} for family in FAMILIES.values()),
        QWEN3 | {"layer_types": ["full_attention", "sliding_attention"], "is_encoder_decoder": False},
        {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128},
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        {"model_type": "falcon", "architectures": ["FalconForCausalLM"], "auto_map": {"AutoModel": "modeling_x.X"}},
        {"model_type": "unheard-of"},
        *(json.loads((PUBLISHED / f"{name}.config.json").read_text())
          for name in ("gemma-2-2b", "granite-3.1-2b-instruct")),
    ],
)  # fmt: skip
def test_every_other_decoder_is_trained(config: dict) -> None:
    assert refusal(Run(), config) is None


def test_a_mixtures_attention_is_trained_alone() -> None:
    mixture = {"model_type": "mixtral", "num_local_experts": 8}
    found = refusal(Run(target_modules=("q_proj", "up_proj")), mixture)
    assert found
    assert found.fix[0].startswith("--target-modules q_proj ")
    assert refusal(Run(target_modules=("q_proj",)), mixture) is None
    assert refusal(Run(method="full", load_in_4bit=False), mixture) is None


def test_fused_layers_are_named() -> None:
    """Was found out once the model was loaded."""
    phi3 = json.loads((PUBLISHED / "phi-3-mini-4k-instruct.config.json").read_text())
    found = refusal(Run(model="theirs"), phi3)
    assert found
    assert found.id == "model-of-fused-layers"
    assert found.fix == ("--target-modules qkv_proj o_proj gate_up_proj down_proj",)
    assert refusal(Run(target_modules=("qkv_proj", "down_proj")), phi3) is None
    assert refusal(Run(method="prompt"), phi3) is None


@pytest.mark.parametrize("given", [(), ("--plan",)])
def test_a_run_is_refused_before_a_library_is_imported(tmp_path, given: tuple[str, ...]) -> None:
    folder = shutil.copytree(models.TINY, tmp_path / "theirs")
    (folder / "config.json").write_text(json.dumps(QWEN3 | {"vision_config": {"depth": 2}}))
    done = run_kit("kit.train", "examples/identity.jsonl", "--model", folder, "--preset", "cpu", *given, env=NO_TORCH)
    assert done.returncode == 1
    assert "model-of-more-than-text" in done.stderr


def test_a_plan_of_its_config_alone_is_refused_too() -> None:
    found = finding_of(models.find_to_plan, Run(model=str(PUBLISHED / "t5-base.config.json")))
    assert found.id == "model-of-encoder-and-decoder"
