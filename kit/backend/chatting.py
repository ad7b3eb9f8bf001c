"""Answers as they are written, from one base model with any number of adapters over it."""

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.backend.loading import Loaded
from kit.backend.methods import keep_precision
from kit.backend.out_of_memory import is_out_of_memory
from kit.backend.silence import silence
from kit.models import end_ids
from kit.options.sampling import Sampling
from kit.support.errors import KitError, first_line, problem


@dataclass(frozen=True)
class Written:
    """The tokens of an answer, with the end token if it came; finish_reason: stop, length or interrupted."""

    ids: list[int]
    seconds: float
    finish_reason: str

    @property
    def tokens_per_s(self) -> float:
        return len(self.ids) / self.seconds


def add_adapters(loaded: Loaded, folders: Mapping[str, Path]) -> Loaded:
    """The base with every adapter over it; `use` says which of them answers. Raises KitError: one cannot be loaded."""
    from peft import PeftModel

    model = loaded.model
    for place, (name, folder) in enumerate(folders.items()):
        try:
            with silence():
                if place == 0:
                    model = PeftModel.from_pretrained(model, str(folder), adapter_name=_key(0))
                else:
                    model.load_adapter(str(folder), adapter_name=_key(place))
        except (RuntimeError, ValueError, OSError, KeyError, TypeError, MemoryError) as error:
            raise KitError(_cannot_load(name, folder, error)) from error
    keep_precision(model)
    return Loaded(model, loaded.tokenizer, loaded.backend, loaded.device)


def _key(place: int) -> str:
    """PEFT's name of an adapter: it takes no dots, the user's folders have them."""
    return f"adapter{place}"


def _cannot_load(name: str, folder: Path, error: Exception) -> Any:
    short = is_out_of_memory(error)
    return problem(
        "out-of-memory-at-load" if short else "adapter-cannot-be-loaded",
        f"The adapter {name} ({folder}) cannot be loaded.",
        first_line(error),
        "--load-in-4bit, or fewer adapters at once" if short else "--base MODEL        (the model it was trained on)",
    )


@contextlib.contextmanager
def use(loaded: Loaded, place: int | None) -> Iterator[None]:
    """Inside, the adapter of that place answers, in the order they were added; None: the untuned model. A model without
    adapters answers as it is."""
    if not hasattr(loaded.model, "disable_adapter"):  # only PEFT's models have it
        yield
    elif place is not None:
        loaded.model.set_adapter(_key(place))
        yield
    else:
        with loaded.model.disable_adapter():
            yield


def write(
    loaded: Loaded,
    prompt: Sequence[int],
    end_id: int | None,
    longest_tokens: int,
    sampling: Sampling,
    told: Callable[[int], None],
    stopped: Callable[[], bool],
) -> Written:
    """An answer to a prompt's ids, up to the end token of training or one that the model itself ends with. `told`
    hears of each token as it comes, and `stopped` may end it after any.

    Raises KitError: not enough memory for it.
    """
    import torch
    from transformers import StoppingCriteriaList

    ids = torch.tensor([list(prompt)], device=loaded.model.device)
    new: list[int] = []
    ends = end_ids(end_id, loaded.model.generation_config.eos_token_id)
    if sampling.temperature and sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    start_s = time.perf_counter()
    try:
        with torch.no_grad(), _no_warnings():
            loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=longest_tokens,
                pad_token_id=loaded.tokenizer.pad_token_id,
                eos_token_id=sorted(ends),
                streamer=_teller(new, told),
                stopping_criteria=StoppingCriteriaList([_stopper(stopped)]),
                **_drawn(sampling),
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        text = first_line(error)
    else:
        reason = "stop" if new and new[-1] in ends else "interrupted" if stopped() else "length"
        return Written(new, time.perf_counter() - start_s, reason)
    raise KitError(_no_room(len(ids[0]), text))


def _drawn(sampling: Sampling) -> dict[str, Any]:
    if not sampling.temperature:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
    }


def _teller(new: list[int], told: Callable[[int], None]) -> Any:
    """Collects the tokens of the answer, telling each; generate() gives it the prompt's first."""
    from transformers.generation.streamers import BaseStreamer

    class Teller(BaseStreamer):
        is_prompt = True

        def put(self, value: Any) -> None:
            if self.is_prompt:
                self.is_prompt = False
                return
            for token in value.reshape(-1).tolist():
                new.append(token)
                told(token)

        def end(self) -> None:
            pass

    return Teller()


def _stopper(stopped: Callable[[], bool]) -> Any:
    import torch
    from transformers import StoppingCriteria

    class Stopper(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return torch.full((len(input_ids),), stopped(), device=input_ids.device, dtype=torch.bool)

    return Stopper()


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """The libraries' remarks would stand in the middle of the answer. `silence` would take the answer too."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _no_room(tokens: int, why: str) -> Any:
    return problem(
        "out-of-memory-answering",
        f"Memory ran out while answering a prompt of {tokens:,} tokens.",
        why,
        "/reset                       (forgets the conversation so far)",
        "--max-tokens 256, or --load-in-4bit",
    )
