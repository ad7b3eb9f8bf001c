"""The model families that the kit knows: one record for each, in one table. Every other one is *unknown*.

All are built alike: blocks under BLOCKS, two norms in a block, and its MLP of gate, up and down with SiLU. What differs
stands in the record. Sizes, memory, exports and merges of a family that is not in the table are not guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kit.options import LINEAR_LAYERS
from kit.options.sampling import Sampling

BLOCKS = "model.layers."  # 4-bit loading quantises the linear layers in these, and neither embedding nor head
ATTENTION, MLP = LINEAR_LAYERS[:4], LINEAR_LAYERS[4:]
# What the makers of Qwen3 advise (model card, "Best Practices") with and without thinking, for models whose
# generation_config.json says nothing.
ADVISED_SAMPLING = {True: Sampling(0.6, 0.95, 20), False: Sampling(0.7, 0.8, 20)}

# What Unsloth has layers of its own for on a card, by model_type; of all others it compiles those of transformers.
WITH_UNSLOTH_LAYERS = frozenset(("llama", "mistral", "gemma", "gemma2", "qwen2", "qwen3"))

# model_type -> linear layers of a block, of families in which several of LINEAR_LAYERS are one.
FUSED_LAYERS: Mapping[str, tuple[str, ...]] = {
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "glm": (*ATTENTION, "gate_up_proj", "down_proj"),
    "glm4": (*ATTENTION, "gate_up_proj", "down_proj"),
}

# What a config that holds another as text_config says for both.
OF_THE_WHOLE = ("tie_word_embeddings", "quantization_config", "torch_dtype", "dtype")


@dataclass(frozen=True)
class Family:
    """model_type and architecture: as config.json writes them.

    has_qk_norm: queries and keys have norms of their own. biased: linear layers that have a bias whatever the config
    says. is_mixture: its MLPs are experts. gguf_architecture: its name in gguf.MODEL_ARCH, "" where no GGUF
    file of it was compared; where two share one, a file is read as the first. gguf_pairs_neighbours: rotary pairs lie
    side by side in GGUF, half a head apart in transformers. window_tokens: how far its attention reaches where the
    config does not say, 0 for all the way.
    """

    model_type: str
    architecture: str
    has_qk_norm: bool = False
    biased: tuple[str, ...] = ()
    is_mixture: bool = False
    gguf_architecture: str = ""
    gguf_pairs_neighbours: bool = False
    window_tokens: int = 0


_RECORDS = (
    Family("qwen3", "Qwen3ForCausalLM", has_qk_norm=True, gguf_architecture="QWEN3"),
    Family("qwen3_moe", "Qwen3MoeForCausalLM", has_qk_norm=True, is_mixture=True),
    Family("qwen2", "Qwen2ForCausalLM", biased=("q_proj", "k_proj", "v_proj"), gguf_architecture="QWEN2"),
    Family("llama", "LlamaForCausalLM", gguf_architecture="LLAMA", gguf_pairs_neighbours=True),
    Family("mistral", "MistralForCausalLM", gguf_architecture="LLAMA", gguf_pairs_neighbours=True, window_tokens=4096),
)
FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _RECORDS}
WRITTEN_AS_GGUF = [family.model_type for family in _RECORDS if family.gguf_architecture]


def family_of(config: Mapping[str, Any]) -> Family | None:
    """The family of a model with that config.json; None for one that the kit does not know."""
    model_type, architectures = config.get("model_type"), config.get("architectures")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family and isinstance(architectures, list) and architectures and family.architecture not in architectures:
        return None
    return family


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the language model, which stands in that of a larger one as text_config; what is said of the whole
    (tied weights, how they are stored) holds for it too where it says nothing else."""
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        return dict(config)
    return {name: value for name, value in config.items() if name in OF_THE_WHOLE} | dict(inner)


def name_of(config: Mapping[str, Any]) -> str:
    """What config.json calls the family, for messages."""
    return f"model_type {config.get('model_type') or 'missing'}"


def head_dim(config: Mapping[str, Any]) -> int:
    """Numbers of one attention head. Raises KeyError: the config does not say."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def key_value_heads(config: Mapping[str, Any]) -> int:
    """Heads of keys, and of values. Raises KeyError: the config does not say."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def window_tokens(config: Mapping[str, Any]) -> int:
    """How many tokens back its attention reaches; 0: to the first one that it was made for."""
    family = family_of(config)
    window = int(config.get("sliding_window", family.window_tokens if family else 0) or 0)
    return window if window < int(config.get("max_position_embeddings", window + 1)) else 0


def biased_layers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Linear layers of a block that have a bias."""
    family = family_of(config)
    switched = (*(ATTENTION if config.get("attention_bias") else ()), *(MLP if config.get("mlp_bias") else ()))
    return tuple(dict.fromkeys((*(family.biased if family else ()), *switched)))


def expert_count(config: Mapping[str, Any]) -> int:
    """Experts of a block's MLP, 0 where it is no mixture; of a known family or of another."""
    return int(config.get("num_experts") or config.get("num_local_experts") or 0)  # transformers 5 writes the latter
