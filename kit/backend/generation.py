"""Answers of a loaded model: greedy and whole, or token by token as they are drawn."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from kit.backend.device_errors import card_errors_explained, is_out_of_memory
from kit.backend.loading import Loaded
from kit.backend.methods import converting_layers
from kit.backend.silence import no_warnings, silence
from kit.models import end_ids
from kit.options.sampling import Sampling
from kit.support.errors import failure, first_line

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GeneratedTokens:
    """The tokens of an answer, with the end token if it came; finish_reason: stop, length or interrupted."""

    ids: list[int]
    seconds: float
    finish_reason: str

    @property
    def tokens_per_s(self) -> float:
        return len(self.ids) / self.seconds


class TokenStream:
    """The tokens of one answer as they come; `on_token` is called with each, `stop_requested` may end it after any.

    In the forms that transformers' generate() takes: `put` and `end` are a streamer's, `stop` is a stopping criterion.
    """

    def __init__(self, on_token: Callable[[int], None], stop_requested: Callable[[], bool]):
        self.on_token, self.stop_requested = on_token, stop_requested
        self.ids: list[int] = []
        self.is_prompt = True  # what comes first is the prompt

    def put(self, value: "torch.Tensor") -> None:
        if self.is_prompt:
            self.is_prompt = False
            return
        for token in value.reshape(-1).tolist():
            self.ids.append(token)
            self.on_token(token)

    def end(self) -> None:
        """Nothing was held back."""

    def stop(self, input_ids: "torch.Tensor", scores: Any, **_: Any) -> "torch.Tensor":
        import torch

        return torch.full((len(input_ids),), self.stop_requested(), device=input_ids.device, dtype=torch.bool)


def answer(loaded: Loaded, prompt_ids: list[int], longest_tokens: int) -> tuple[str, int, float]:
    """Greedy answer to a prompt: the text without its end token, its tokens, and the seconds it took. There must be
    positions for both: see context_tokens."""
    start_s = time.perf_counter()
    with silence():
        output = _generate(loaded, prompt_ids, longest_tokens, Sampling(), eos_token_id=loaded.tokenizer.eos_token_id)
    new = output[0][len(prompt_ids) :]
    text = cast(str, loaded.tokenizer.decode(new, skip_special_tokens=True))
    return text.strip(), len(new), time.perf_counter() - start_s


@card_errors_explained()
def stream_answer(
    loaded: Loaded,
    prompt_ids: Sequence[int],
    end_id: int | None,
    longest_tokens: int,
    sampling: Sampling,
    stream: TokenStream,
) -> GeneratedTokens:
    """An answer to a prompt, up to the end token of training or one that the model itself ends with.

    Raises KitError: not enough memory for it, the card failed.
    """
    import torch
    from transformers import StoppingCriteriaList

    ends = end_ids(end_id, loaded.model.generation_config.eos_token_id)
    if sampling.temperature and sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    start_s = time.perf_counter()
    try:
        with no_warnings():  # in the middle of the answer, which `silence` would take too
            criteria = StoppingCriteriaList([stream.stop])
            _generate(
                loaded,
                prompt_ids,
                longest_tokens,
                sampling,
                eos_token_id=sorted(ends),
                streamer=stream,
                stopping_criteria=criteria,
            )
    except Exception as error:  # of any kind: see device_errors
        if not is_out_of_memory(error):
            raise
        text = first_line(error)
    else:
        ended = stream.ids and stream.ids[-1] in ends
        reason = "stop" if ended else "interrupted" if stream.stop_requested() else "length"
        return GeneratedTokens(stream.ids, time.perf_counter() - start_s, reason)
    raise failure(  # outside of `except`: see free_memory
        "out-of-memory-answering",
        f"Memory ran out while answering a prompt of {len(prompt_ids):,} tokens.",
        text,
        "/reset                       (forgets the conversation so far)",
        "--max-tokens 256, or --load-in-4bit",
    )


def context_tokens(loaded: Loaded) -> int:
    """Positions that the model knows; without a number of its own, more than anything takes."""
    return getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30


def _generate(
    loaded: Loaded, prompt_ids: Sequence[int], longest_tokens: int, sampling: Sampling, **options: Any
) -> "torch.Tensor":
    """The ids of the prompt and the answer: (1, tokens)."""
    import torch

    ids = torch.tensor([list(prompt_ids)], device=loaded.model.device)
    is_drawn = bool(sampling.temperature)
    with torch.no_grad():
        return loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=longest_tokens,
            pad_token_id=loaded.tokenizer.pad_token_id,
            do_sample=is_drawn,
            temperature=sampling.temperature if is_drawn else None,
            top_p=sampling.top_p if is_drawn else None,
            top_k=sampling.top_k if is_drawn else None,
            **options,
        )


@contextlib.contextmanager
def answering(loaded: Loaded) -> Iterator[None]:
    """The model ready to generate inside, ready to train again after."""
    converting = converting_layers(loaded.model)
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

        # asked for nothing, Unsloth goes back to what the model began with, whatever the ladder has switched on since
        flags = [getattr(module, "gradient_checkpointing", False) for module in loaded.model.modules()]
        FastLanguageModel.for_inference(loaded.model)
        try:
            yield
        finally:
            checkpointing = next(filter(None, flags), False)
            FastLanguageModel.for_training(loaded.model, use_gradient_checkpointing=checkpointing)
    else:
        loaded.model.eval()
        loaded.model.config.use_cache = True
        try:
            yield
        finally:
            loaded.model.config.use_cache = False
            loaded.model.train()
