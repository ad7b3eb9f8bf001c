"""Will it fit? Bytes by part from the model's config.json and the options, each with a low and a high bound. No torch.

A low bound may say "will not fit"; only the high bound says "fits".
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from kit.data import DataReport
from kit.options import Run

GIB = 1 << 30
NF4_BLOCK = 64  # weights that share one scale
NF4_NESTED_BLOCK = 256  # scales that share one scale of their own (double quantisation)
NF4_BYTES = (
    0.5 + 1 / NF4_BLOCK + 4 / (NF4_BLOCK * NF4_NESTED_BLOCK)
)  # a weight; Dettmers et al. 2023, arXiv:2305.14314, section 3
HEAD_CHUNK_TOKENS = 1024  # tokens whose logits exist at once where the loss is computed in chunks
# What a process holds before the model: Python and the libraries on a CPU, the CUDA context on a card.
PROCESS_BYTES = {"cpu": (0.6 * GIB, 1.9 * GIB), "cuda": (0.4 * GIB, 1.4 * GIB)}


@dataclass(frozen=True)
class Shape:
    """The sizes in a config.json that decide memory: Qwen3, Qwen3-MoE, Llama and Mistral name them alike."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    experts: int
    qk_norm: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape":
        """Raises KeyError for a config of another family."""
        heads = config["num_attention_heads"]
        experts = config.get("num_experts") or 0
        return cls(
            hidden=config["hidden_size"],
            intermediate=config["moe_intermediate_size"] if experts else config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
            experts=experts,
            qk_norm=str(config.get("model_type", "")).startswith("qwen3"),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(d_in, d_out) of each linear layer of one block; of one expert for the MLP of a mixture."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    def copies(self, name: str) -> int:
        """How many times a block holds the layer of that name."""
        return max(1, self.experts) if name in ("gate_proj", "up_proj", "down_proj") else 1

    @property
    def linear_params(self) -> int:
        """Weights of all linear layers: those that 4-bit loading quantises."""
        return self.layers * sum(d_in * d_out * self.copies(name) for name, (d_in, d_out) in self.linears.items())

    @property
    def embedding_params(self) -> int:
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def other_params(self) -> int:
        """Norms, and the router of a mixture."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * (norms + self.experts * self.hidden) + self.hidden

    @property
    def params(self) -> int:
        return self.linear_params + self.embedding_params + self.other_params

    def lora_params(self, rank: int, targets: tuple[str, ...]) -> int:
        """Weights of A (rank, d_in) and B (d_out, rank) for each target; Hu et al. 2021, arXiv:2106.09685, section 4.1.

        >>> Shape(2048, 6144, 28, 16, 8, 128, 151936, True, 0, True).lora_params(16, ("q_proj", "v_proj"))
        3211264
        """
        return self.layers * sum(
            rank * sum(self.linears[name]) * self.copies(name) for name in targets if name in self.linears
        )


@dataclass(frozen=True)
class Part:
    name: str
    low_bytes: int
    high_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a run needs. `verdict` compares the sum of the parts with the memory that may be taken."""

    parts: tuple[Part, ...]
    low_bytes: int
    high_bytes: int
    available_bytes: int | None
    verdict: Literal["fits", "tight", "will not fit", "unknown"]
    params: int
    trained_params: int
    steps: int | None
    tokens: int | None
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(config: dict[str, Any], run: Run, data: DataReport | None, available_bytes: int | None) -> Plan | None:
    """The plan of a settled run; None for a config whose sizes are named otherwise."""
    try:
        shape = Shape.of(config)
    except (KeyError, TypeError):
        return None
    length = data.longest_tokens if data else run.max_length_tokens
    parts = (
        _weights(shape, run),
        *_trained(shape, run),
        _activations(shape, run, length),
        _logits(shape, run, length),
        Part("process", *map(int, PROCESS_BYTES[run.device])),
    )
    low, high = sum(part.low_bytes for part in parts), sum(part.high_bytes for part in parts)
    steps = run.steps(data.samples) if data else run.max_steps
    return Plan(
        parts=parts,
        low_bytes=low,
        high_bytes=high,
        available_bytes=available_bytes,
        verdict=_verdict(low, high, available_bytes),
        params=shape.params,
        trained_params=shape.lora_params(run.lora_rank, run.target_modules),
        steps=steps,
        tokens=int(data.tokens / data.samples * steps * run.batch_size) if data else None,
        reasons=_reasons(run, length, data),
    )


def _verdict(low: int, high: int, available: int | None) -> Literal["fits", "tight", "will not fit", "unknown"]:
    if available is None:
        return "unknown"
    if low > available:
        return "will not fit"
    return "fits" if high <= available else "tight"


def _weights(shape: Shape, run: Run) -> Part:
    sixteen_bit = 2 * (shape.embedding_params + shape.other_params)
    linear = int(shape.linear_params * (NF4_BYTES if run.load_in_4bit else 2))
    low = linear + sixteen_bit
    # while loading, the checkpoint's pages may be resident beside the quantised weights (CPU), or one tensor (card)
    loading = 2 * shape.params if run.device == "cpu" else 2 * shape.vocab * shape.hidden
    return Part("weights", low, low + (loading if run.load_in_4bit else 0))


def _trained(shape: Shape, run: Run) -> tuple[Part, ...]:
    """Adapter, gradients and two moments a weight: one byte each in 8 bit, else as wide as the weight."""
    count = shape.lora_params(run.lora_rank, run.target_modules)
    width = {"fp32": 4, "bf16": 2}[run.adapter_precision]
    moment_low, moment_high = (1, 1.2) if "8bit" in run.optimizer else (width, width)
    return (
        Part("adapter", width * count, width * count),
        Part("gradients", width * count, width * count),
        Part("optimizer", int(2 * moment_low * count), int(2 * moment_high * count)),
    )


def _activations(shape: Shape, run: Run, length: int) -> Part:
    """What the backward pass needs: every block's inputs, or with checkpointing one block's and each block's first."""
    tokens = run.micro_batch_size * length
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    active = 8 if shape.experts else 1  # experts a token visits (Qwen3-MoE)
    block = tokens * 2 * (4 * shape.hidden + 2 * query + 2 * key + 3 * shape.intermediate * active)
    first = tokens * 2 * shape.hidden
    if run.gradient_checkpointing == "off":
        return Part("activations", shape.layers * block, int(3 * shape.layers * block))
    kept = 0 if run.gradient_checkpointing == "unsloth" and run.device == "cuda" else shape.layers * first
    return Part("activations", kept + block, shape.layers * first + 4 * block)


def _logits(shape: Shape, run: Run, length: int) -> Part:
    """One number a token and vocabulary entry, in 16 bit and again in 32 bit for the loss and its gradient."""
    tokens = run.micro_batch_size * length
    low = min(tokens, HEAD_CHUNK_TOKENS) * shape.vocab * 2
    return Part("logits", low, tokens * shape.vocab * 10)


def _reasons(run: Run, length: int, data: DataReport | None) -> tuple[str, ...]:
    longest = "the longest sample of the data" if data else "max_length_tokens: no data was given"
    return (
        f"one micro-batch is {run.micro_batch_size} x {length} tokens ({longest})",
        f"one optimiser step takes {run.batch_size} samples, shorter ones together up to as many tokens at once",
        f"gradient checkpointing {run.gradient_checkpointing}",
    )
