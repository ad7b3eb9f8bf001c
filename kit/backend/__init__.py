"""The only room that imports unsloth, torch, trl, transformers, peft, bitsandbytes and datasets, and that late.

Unsloth comes first, because it patches the others, and after everything cheap is checked: importing them takes seconds.

Two backends, `unsloth` and plain `hf`, stand behind three functions: `load`, `adapt`, `trainer`. `start` chooses.

    starting -> loading -> methods -> training (steps, ladder, update, listener, tracking) -> state, saving    a run
    loading -> adapters_in_use -> generation, serving                                              answers
    merging, candidates                                                                           exports, proven equal

May import: support, options, models, prompt, data, memory.
"""

from kit.backend.adapters_in_use import without_virtual_tokens
from kit.backend.device_errors import CardFailed, card_error, card_errors_explained, is_out_of_memory
from kit.backend.device_memory import attempt, free_memory, memory_bytes, peak_memory_bytes
from kit.backend.embedding import check_tokens
from kit.backend.generation import answer, answering, context_tokens
from kit.backend.listener import Listener
from kit.backend.loading import Loaded, Loading, load
from kit.backend.methods import adapt
from kit.backend.saving import save_adapter, saved_bytes
from kit.backend.starting import Backend, start, starting_words
from kit.backend.state import load_weights, state_bytes
from kit.backend.state import save as save_state
from kit.backend.tracking import tell_tracker
from kit.backend.training import held_out_loss, listen, preflight, trainer
from kit.backend.update import UpdateCutShort

__all__ = [
    "Backend",
    "CardFailed",
    "Listener",
    "Loaded",
    "Loading",
    "UpdateCutShort",
    "adapt",
    "answer",
    "answering",
    "attempt",
    "card_error",
    "card_errors_explained",
    "check_tokens",
    "context_tokens",
    "free_memory",
    "held_out_loss",
    "is_out_of_memory",
    "listen",
    "load",
    "load_weights",
    "memory_bytes",
    "peak_memory_bytes",
    "preflight",
    "save_adapter",
    "save_state",
    "saved_bytes",
    "start",
    "starting_words",
    "state_bytes",
    "tell_tracker",
    "trainer",
    "without_virtual_tokens",
]
