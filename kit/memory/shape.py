"""The sizes of a model that decide its memory, from its config.json: layers by name, parameters exactly."""

from dataclasses import dataclass
from typing import Any

MLP = ("gate_proj", "up_proj", "down_proj")


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
    experts_per_token: int
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
            experts_per_token=config["num_experts_per_tok"] if experts else 1,
            qk_norm=str(config.get("model_type", "")).startswith("qwen3"),
        )

    @property
    def query(self) -> int:
        """Numbers of a token's queries; its keys, and its values, are `key`."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(d_in, d_out) of each linear layer of one block; of one expert for the MLP of a mixture."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key),
            "v_proj": (self.hidden, self.key),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    def copies(self, name: str) -> int:
        """How many times a block holds the layer of that name."""
        return max(1, self.experts) if name in MLP else 1

    @property
    def linear_params(self) -> int:
        """Weights of all linear layers: those that 4-bit loading quantises."""
        return self.layers * sum(d_in * d_out * self.copies(name) for name, (d_in, d_out) in self.linears.items())

    @property
    def embedding_params(self) -> int:
        return self.vocab * self.hidden

    @property
    def head_params(self) -> int:
        """0 where the head is the embedding."""
        return 0 if self.tied else self.embedding_params

    @property
    def other_params(self) -> int:
        """Norms, and the router of a mixture."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * (norms + self.experts * self.hidden) + self.hidden

    @property
    def params(self) -> int:
        return self.linear_params + self.embedding_params + self.head_params + self.other_params

    def lora_params(self, rank: int, targets: tuple[str, ...]) -> int:
        """Of A (rank, d_in) and B (d_out, rank) for each target; Hu et al. 2021, arXiv:2106.09685, section 4.1.

        >>> Shape(2048, 6144, 28, 16, 8, 128, 151936, True, 0, 1, True).lora_params(16, ("q_proj", "v_proj"))
        3211264
        """
        return sum(
            rank * side * self.layers * self.copies(name)
            for name in targets
            if name in self.linears
            for side in self.linears[name]
        )
