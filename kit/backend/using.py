"""A model in use: answers, the saved adapter, the memory it took."""

import contextlib
import copy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.backend.loading import Loaded
from kit.backend.silence import silence


def answer(loaded: Loaded, prompt: list[int], longest_tokens: int) -> tuple[str, int, float]:
    """Greedy answer to a prompt's ids: the text without its end token, its tokens, and the seconds it took."""
    import torch

    ids = torch.tensor([prompt], device=loaded.model.device)
    start_s = time.perf_counter()
    with torch.no_grad(), silence():
        output = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=longest_tokens,
            do_sample=False,
            pad_token_id=loaded.tokenizer.pad_token_id,
            eos_token_id=loaded.tokenizer.eos_token_id,
            temperature=None,
            top_p=None,
            top_k=None,
        )
    new = output[0][ids.shape[1] :]
    return loaded.tokenizer.decode(new, skip_special_tokens=True).strip(), len(new), time.perf_counter() - start_s


@contextlib.contextmanager
def answering(loaded: Loaded) -> Iterator[None]:
    """The model ready to generate inside, ready to train again after."""
    converting = [module for module in loaded.model.modules() if hasattr(module, "cast_input_dtype_enabled")]
    before = [module.cast_input_dtype_enabled for module in converting]
    for module in converting:
        module.cast_input_dtype_enabled = True  # no autocast here
    try:
        with _generating(loaded):
            yield
    finally:
        for module, flag in zip(converting, before, strict=True):
            module.cast_input_dtype_enabled = flag


@contextlib.contextmanager
def _generating(loaded: Loaded) -> Iterator[None]:
    if loaded.backend.name == "unsloth":
        from unsloth import FastLanguageModel

        FastLanguageModel.for_inference(loaded.model)
        try:
            yield
        finally:
            FastLanguageModel.for_training(loaded.model)
    else:
        loaded.model.eval()
        loaded.model.config.use_cache = True
        try:
            yield
        finally:
            loaded.model.config.use_cache = False
            loaded.model.train()


@contextlib.contextmanager
def as_base(loaded: Loaded) -> Iterator[None]:
    """The base alone inside, where virtual tokens would stand before it, which begin at random. Other adapters begin as
    nothing."""
    config = getattr(loaded.model, "active_peft_config", None)
    with loaded.model.disable_adapter() if config and config.is_prompt_learning else contextlib.nullcontext():
        yield


def save_adapter(loaded: Loaded, folder: Path) -> None:
    """What was trained, with the tokenizer: a plain PEFT adapter; or the whole model, in the number format in which it
    was loaded and computes."""
    from peft import PeftModel

    with silence():
        if isinstance(loaded.model, PeftModel):
            loaded.model.save_pretrained(str(folder), safe_serialization=True)
        else:
            _save_model(loaded.model, folder)
        loaded.tokenizer.save_pretrained(str(folder))


def _save_model(model: Any, folder: Path) -> None:
    config = copy.deepcopy(model.config)
    found, converted = model.state_dict(), {}
    for weight in found.values():  # a head that is the embedding stays one tensor
        if weight.data_ptr() not in converted:
            converted[weight.data_ptr()] = weight.detach().to("cpu", config.dtype)
    weights = {name: converted[weight.data_ptr()] for name, weight in found.items()}
    model.save_pretrained(str(folder), state_dict=weights, safe_serialization=True)
    config.use_cache = True  # off in training only
    config.save_pretrained(str(folder))


def saved_bytes(loaded: Loaded) -> int:
    """At most so large is what `save_adapter` writes."""
    return sum(weight.nbytes for weight in loaded.model.parameters() if weight.requires_grad) + (1 << 24)


def memory_bytes(device: str) -> int:
    """Memory taken now: reserved by torch on a card, resident in this process on a CPU."""
    import psutil
    import torch

    return torch.cuda.memory_reserved() if device == "cuda" else psutil.Process().memory_info().rss


def peak_memory_bytes(device: str) -> int:
    """Most memory taken so far: reserved by torch on a card, resident in this process on a CPU."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    scale = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
