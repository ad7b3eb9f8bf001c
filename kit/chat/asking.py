"""A conversation, what is asked next, and the answer as it comes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tokenizers.decoders import DecodeStream

from kit.backend import Loaded
from kit.backend.adapters_in_use import add_adapters, use_adapter
from kit.backend.generation import TokenStream, stream_answer
from kit.chat.target import Target
from kit.options.sampling import Sampling
from kit.prompt import ChatFormat
from kit.support.errors import KitError, RowError, problem

OPEN, CLOSED = "<think>", "</think>"
OnText = Callable[[str], None]  # hears each piece of text


def nobody(piece: str) -> None:
    pass


def never() -> bool:
    return False


@dataclass(frozen=True)
class Reply:
    """`text` is all that was written; the thoughts stand before `</think>`. finish_reason: stop, length (the longest
    answer asked for), context (no more positions in the model) or interrupted."""

    text: str
    tokens: int
    tokens_per_s: float
    finish_reason: str

    @property
    def thoughts(self) -> str:
        before, closed, _ = self.text.partition(CLOSED)
        thinks = closed or self.text.lstrip().startswith(OPEN)
        return before.replace(OPEN, "", 1).strip() if thinks else ""

    @property
    def said(self) -> str:
        """Without the thoughts."""
        _, closed, after = self.text.partition(CLOSED)
        return (after if closed else "" if self.thoughts else self.text).strip()


@dataclass
class Dialogue:
    """The messages so far, the system prompt among them."""

    messages: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def begun(cls, system: str) -> "Dialogue":
        return cls([{"role": "system", "content": system}] if system else [])

    def ask(self, text: str) -> list[dict[str, str]]:
        """The messages with a question; they are kept only once it is answered."""
        return [*self.messages, {"role": "user", "content": text}]


def load(target: Target) -> tuple[Any, Any]:
    """The model with its adapters; and, beside a whole model, the one it was trained from, if it is compared with."""
    from kit import backend  # here, not above: importing it takes seconds and Unsloth must come first

    loading = backend.Loading.of(target.run)
    chosen = backend.start(loading)
    models = [target.model, *([target.untuned] if target.untuned else [])]
    loaded, *others = [backend.load(model, loading, chosen, target.chat(None)) for model in models]
    tuned = add_adapters(loaded, {adapter.name: adapter.path for adapter in target.adapters})
    return tuned, others[0] if others else None


class Speaker:
    """The loaded model, asked in the way of training; untuned: the one it was trained from, where that is another."""

    def __init__(
        self, loaded: Loaded, target: Target, sampling: Sampling, longest_tokens: int, untuned: Loaded | None = None
    ):
        self.loaded, self.target, self.sampling, self.longest_tokens = loaded, target, sampling, longest_tokens
        self.untuned = untuned

    def answer(
        self, place: int | None, ids: list[int], told: OnText = nobody, stopped: Callable[[], bool] = never
    ) -> Reply:
        """Of the tuned one of that place, or of the untuned model. Raises KitError: not enough memory."""
        chat, loaded = self.target.chat(place), (place is None and self.untuned) or self.loaded
        room = self.target.context_tokens - len(ids)
        stream, begun = DecodeStream(skip_special_tokens=True), _opened(chat, ids)
        if begun:
            told(begun)

        def hear(token: int) -> None:
            if piece := stream.step(chat.tokenizer, token):
                told(piece)

        with use_adapter(loaded, place):
            most, end = min(room, self.longest_tokens), chat.tokenizer.token_to_id(chat.end_token)
            written = stream_answer(loaded, ids, end, most, self.sampling, TokenStream(hear, stopped))
        reason = written.finish_reason
        if reason == "length" and room <= self.longest_tokens:
            reason = "context"
        text = (begun + chat.tokenizer.decode(written.ids, skip_special_tokens=True)).strip()
        return Reply(text, len(written.ids), round(written.tokens_per_s, 1), reason)


def _opened(chat: ChatFormat, ids: list[int]) -> str:
    """Some templates open the think block in the prompt: it belongs to what is written."""
    end = chat.tokenizer.decode(ids[-8:], skip_special_tokens=False)
    return f"{OPEN}\n" if end.rstrip().endswith(OPEN) else ""


def prompt_ids(target: Target, place: int | None, messages: list[dict[str, Any]], thinking: bool) -> list[int]:
    """What the model is asked with. Raises KitError: the template does not take it; no room for an answer."""
    try:
        ids = target.chat(place).prompt_ids(messages, thinking=thinking)
    except RowError as error:
        raise KitError(
            problem(
                "template-refuses",
                "The template does not take this conversation.",
                str(error),
                "/reset                       (begins anew)",
                "--template NAME",
            )
        ) from None
    if len(ids) >= target.context_tokens:
        raise KitError(
            problem(
                "conversation-too-long",
                f"The conversation has {len(ids):,} tokens, and the model knows {target.context_tokens:,} positions.",
                "Nothing is cut from it in silence, and there is no room for an answer.",
                "/reset                       (begins anew)",
                "ask for less at once",
            )
        )
    return ids
