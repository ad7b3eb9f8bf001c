"""The sizes of a model that decide its memory, from its config.json: layers by name, parameters exactly."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kit.models.families import (
    BLOCKS,
    MLP,
    biased_layers,
    expert_count,
    family_of,
    head_dim,
    key_value_heads,
    name_of,
    text_part,
)
from kit.models.quantised import HEAD, StoredNF4, stored_nf4


@dataclass(frozen=True)
class Shape:
    """The sizes in a config.json that decide memory, of a family that the kit knows.

    stored: of a model whose weights lie in its files in NF4.
    """

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
    biased: tuple[str, ...] = ()
    stored: StoredNF4 | None = None

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape":
        """Raises KeyError: a family that the kit does not know, or a config that lacks a size."""
        config = text_part(config)
        family = family_of(config)
        if family is None:
            raise KeyError(name_of(config))
        experts = expert_count(config) if family.is_mixture else 0
        return cls(
            hidden=config["hidden_size"],
            intermediate=config["moe_intermediate_size"] if experts else config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=key_value_heads(config),
            head_dim=head_dim(config),
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
            experts=experts,
            experts_per_token=config["num_experts_per_tok"] if experts else 1,
            qk_norm=family.has_qk_norm,
            biased=biased_layers(config),
            stored=stored_nf4(config),
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

    @cached_property
    def kept(self) -> dict[str, int]:
        """In how many blocks the layer of each name stays in 16 bit where the others are in 4 bit."""
        return {name: sum(self._is_kept(block, name) for block in range(self.layers)) for name in self.linears}

    def _is_kept(self, block: int, name: str) -> bool:
        parent = "self_attn" if name not in MLP else "mlp.experts.0" if self.experts else "mlp"
        return self.stored is not None and self.stored.keeps(f"{BLOCKS}{block}.{parent}.{name}")

    @property
    def kept_params(self) -> int:
        """Weights of those layers."""
        sides = self.linears.items()
        return sum(d_in * d_out * self.copies(name) * self.kept[name] for name, (d_in, d_out) in sides)

    @property
    def is_head_in_nf4(self) -> bool:
        """A head of its own, stored as its layers are."""
        return self.stored is not None and not self.tied and not self.stored.keeps(HEAD)

    @property
    def embedding_params(self) -> int:
        return self.vocab * self.hidden

    @property
    def head_params(self) -> int:
        """0 where the head is the embedding."""
        return 0 if self.tied else self.embedding_params

    @property
    def other_params(self) -> int:
        """Norms, biases, and the router of a mixture."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        biases = sum(self.linears[name][1] for name in self.biased)
        return self.layers * (norms + biases + self.experts * self.hidden) + self.hidden

    @property
    def params(self) -> int:
        return self.linear_params + self.embedding_params + self.head_params + self.other_params
