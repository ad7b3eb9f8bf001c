"""Models that the kit does not train, told by their config.json alone: before weights are fetched or loaded. No torch.

A decoder of plain attention blocks is trained also where the kit does not know its family; only its plan is missing.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit.models.families import FUSED_LAYERS, MLP, expert_count, family_of, name_of, text_part
from kit.options import METHODS, Run
from kit.support.errors import problem

DECODERS = ("ForCausalLM", "LMHeadModel", "WithLMHead")  # how transformers ends the names of those that write text
OTHER_SENSES = ("vision_config", "audio_config", "vision_tower", "mm_vision_tower", "vq_config")
KINDS_OF_LAYERS = ("layer_types", "layers_block_type", "block_types", "hybrid_override_pattern")
COUNTS_OF_EXPERTS = ("n_routed_experts", "moe_num_experts")  # beside those of the known families
# Sizes of what carries a state from token to token: Mamba's, short convolutions', linear attention's, RWKV's.
OF_A_STATE = ("mamba_d_state", "mamba_d_conv", "ssm_cfg", "ssm_state_size", "state_size", "conv_L_cache", "lru_width",
              "linear_conv_kernel_dim", "chunkwise_kernel", "attention_hidden_size")  # fmt: skip
FIXES = ("--model tiny                  (comes with the kit)", "--model Qwen/Qwen3-0.6B       (a decoder of text)")


def refusal(run: Run, config: Mapping[str, Any]) -> Finding | None:
    """Why a run does not train the model with that config.json; None: nothing in it speaks against it."""
    for id, what, why in _reasons(config):
        return problem(id, f"{run.model} ({name_of(config)}) {what}, which the kit does not train.", why, *FIXES)
    return _of_experts(run, config) or _of_fused_layers(run, config)


def _reasons(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(id, what it is, why that is not trained)."""
    if config.get("auto_map") and not _is_in_transformers(config.get("model_type")):
        yield (
            "model-needs-its-own-code",
            "needs code of its own (auto_map)",
            "The kit runs no code that a model brings.",
        )
    if config.get("is_encoder_decoder"):
        yield (
            "model-of-encoder-and-decoder",
            "has an encoder beside its decoder",
            "Question and answer would go through different halves; the kit masks the question in one sequence.",
        )
    if senses := [name for name in OTHER_SENSES if config.get(name)]:
        inner = f" Its text model is {name_of(text_part(config))}." if config.get("text_config") else ""
        yield (
            "model-of-more-than-text",
            f"takes more than text ({', '.join(senses)})",
            f"Its text model lies inside another, where the kit's layers and merges do not look.{inner}",
        )
    if head := _other_head(config):
        yield "model-writes-no-text", f"is a {head}", "It has no head that predicts the next token, or another beside."
    if state := _state(text_part(config)):
        yield (
            "model-carries-a-state",
            f"carries a state from token to token ({state})",
            "Layers without attention have none of the target modules: they would stay as they are without a word.",
        )


def _is_in_transformers(model_type: Any) -> bool:
    """Also where nothing can be said, as transformers is not here. It is read, not imported: that takes seconds."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.origin:
        return True
    tables = Path(spec.origin).parent.glob("models/auto/*.py")
    return any(f'"{model_type}", "' in path.read_text(encoding="utf-8") for path in tables)


def _other_head(config: Mapping[str, Any]) -> str:
    """The architecture of a model that does not write text; "" for one that does, or that does not say."""
    named = config.get("architectures")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return "" if not names or any(name.endswith(DECODERS) for name in names) else names[0]


def _state(config: Mapping[str, Any]) -> str:
    """What in a config tells of layers that are no attention; "" where nothing does."""
    for name in KINDS_OF_LAYERS:
        kinds = config.get(name)
        named = {kind for kind in kinds if isinstance(kind, str)} if isinstance(kinds, list | tuple | str) else set()
        if others := sorted(kind for kind in named if not kind.endswith("attention") or kind == "linear_attention"):
            return f"{name}: {', '.join(others)}"
    return next((name for name in OF_A_STATE if config.get(name)), "")


def _of_experts(run: Run, config: Mapping[str, Any]) -> Finding | None:
    """Of a mixture of a family that the kit does not know, whose experts are to be adapted."""
    layers = [name for name in run.target_modules if name in MLP]
    inner = text_part(config)
    count = expert_count(inner) or next((int(inner[name]) for name in COUNTS_OF_EXPERTS if inner.get(name)), 0)
    if (
        count < 2
        or inner.get("is_moe") is False
        or family_of(inner)
        or not layers
        or not METHODS[run.method].adapts_layers
    ):
        return None
    others = [name for name in run.target_modules if name not in MLP]
    return problem(
        "model-of-other-experts",
        f"The {count} experts of {run.model} ({name_of(config)}) cannot be adapted.",
        f"They are no linear layers of their own, and {', '.join(layers)} would miss them without a word.",
        f"--target-modules {' '.join(others or ('q_proj', 'k_proj', 'v_proj', 'o_proj'))}        (its attention alone)",
    )


def _of_fused_layers(run: Run, config: Mapping[str, Any]) -> Finding | None:
    """Of a family that lays several layers into one, where these are to be adapted by themselves."""
    layers = FUSED_LAYERS.get(str(config.get("model_type")), ())
    missing = [name for name in run.target_modules if layers and name not in layers]
    if not missing or not METHODS[run.method].adapts_layers:
        return None
    return problem(
        "model-of-fused-layers",
        f"{run.model} ({name_of(config)}) has no layer {', '.join(missing)}.",
        f"They are parts of fused layers: a block has {', '.join(layers)}.",
        f"--target-modules {' '.join(layers)}",
    )
