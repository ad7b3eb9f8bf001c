"""One base model with any number of adapters over it, of which one answers at a time."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kit.backend.device_errors import card_error, is_out_of_memory
from kit.backend.loading import Loaded
from kit.backend.methods import keep_precision
from kit.backend.silence import silence
from kit.models import read_json
from kit.models.adapters.on_disk import CONFIG
from kit.support.errors import KitError, failure, first_line


def add_adapters(loaded: Loaded, folders: Mapping[str, Path]) -> Loaded:
    """The base with every adapter over it: name -> folder. Raises KitError: one cannot be loaded."""
    from peft import PeftModel

    model: Any = loaded.model
    device = loaded.device  # else PEFT takes any GPU that it finds
    numbered = [(index, name, folder) for index, (name, folder) in enumerate(folders.items())]
    for index, name, folder in sorted(numbered, key=lambda adapter: _trains_tokens(adapter[2])):
        try:
            with silence():
                if not isinstance(model, PeftModel):
                    model = PeftModel.from_pretrained(model, str(folder), _peft_name(index), torch_device=device)
                else:
                    model.load_adapter(str(folder), _peft_name(index), torch_device=device)
        except Exception as error:  # safetensors and Triton have kinds of their own
            raise card_error(error) or _cannot_load(name, folder, error) from error
    keep_precision(model)
    return replace(loaded, model=model)


@contextlib.contextmanager
def use_adapter(loaded: Loaded, index: int | None) -> Iterator[None]:
    """Inside, this adapter answers, counted in the order they were added; None: the untuned model. A model without
    adapters answers as it is."""
    from peft import PeftModel

    if not isinstance(loaded.model, PeftModel):
        yield
    elif index is not None:
        loaded.model.set_adapter(_peft_name(index))
        yield
    else:
        with loaded.model.disable_adapter():
            yield


@contextlib.contextmanager
def without_virtual_tokens(loaded: Loaded) -> Iterator[None]:
    """The base alone inside, where virtual tokens would stand before it, which begin at random. Other adapters begin as
    nothing."""
    from peft import PeftModel

    model = loaded.model
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        with model.disable_adapter():
            yield
    else:
        yield


def _trains_tokens(folder: Path) -> bool:
    """PEFT takes an adapter without rows of the embedding before one with them, and not behind it."""
    config = folder / CONFIG
    return config.is_file() and bool(read_json(config).get("trainable_token_indices"))


def _peft_name(index: int) -> str:
    """PEFT's name of an adapter: it takes no dots, the user's folders have them."""
    return f"adapter{index}"


def _cannot_load(name: str, folder: Path, error: Exception) -> KitError:
    short = is_out_of_memory(error)
    return failure(
        "out-of-memory-at-load" if short else "adapter-cannot-be-loaded",
        f"The adapter {name} ({folder}) cannot be loaded.",
        first_line(error),
        "--load-in-4bit, or fewer adapters at once" if short else "--base MODEL        (the model it was trained on)",
    )
