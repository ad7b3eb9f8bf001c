"""Will it fit, and with which settings? Bytes by part from the model's config.json and the options. No torch.

May import: support, options, models, data.
"""

from kit.memory.activations import evaluation_tokens
from kit.memory.choosing import Checkpointing, choose, fit
from kit.memory.planning import WILL_NOT_FIT, Part, Plan, plan, with_reasons
from kit.memory.shape import Shape
from kit.memory.sizes import disagreement, known_sizes, source_of_sizes
from kit.memory.trained import trained_params
from kit.memory.weights import can_offload_embedding

__all__ = [
    "WILL_NOT_FIT",
    "Checkpointing",
    "Part",
    "Plan",
    "Shape",
    "can_offload_embedding",
    "choose",
    "disagreement",
    "evaluation_tokens",
    "fit",
    "known_sizes",
    "plan",
    "source_of_sizes",
    "trained_params",
    "with_reasons",
]
