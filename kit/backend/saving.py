"""What was trained, as files that anyone can load."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from kit.backend.loading import Loaded
from kit.backend.silence import silence

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_adapter(loaded: Loaded, folder: Path) -> None:
    """What was trained, with the tokenizer: a plain PEFT adapter; or the whole model, in the number format in which it
    was loaded and computes."""
    from peft import PeftModel

    with silence():
        if isinstance(loaded.model, PeftModel):
            # PEFT would ask the hub whether the embedding was made larger, which the kit never does
            loaded.model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        else:
            _save_model(loaded.model, folder)
        loaded.tokenizer.save_pretrained(str(folder))


def _save_model(model: "PreTrainedModel", folder: Path) -> None:
    config = copy.deepcopy(model.config)
    weights, converted = model.state_dict(), {}
    for weight in weights.values():  # a head that is the embedding stays one tensor
        if weight.data_ptr() not in converted:
            converted[weight.data_ptr()] = weight.detach().to("cpu", config.dtype)
    saved = {name: converted[weight.data_ptr()] for name, weight in weights.items()}
    model.save_pretrained(str(folder), state_dict=saved, safe_serialization=True)
    config.use_cache = True  # off in training only
    config.save_pretrained(str(folder))


def saved_bytes(loaded: Loaded) -> int:
    """At most so large is what `save_adapter` writes."""
    return sum(weight.nbytes for weight in loaded.model.parameters() if weight.requires_grad) + (1 << 24)
