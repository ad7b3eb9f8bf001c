"""What a loaded model is asked, and its reply as it comes."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from tokenizers.decoders import DecodeStream

from kit import backend
from kit.backend.adapters_in_use import add_adapters, use_adapter
from kit.backend.generation import TokenStream, stream_answer
from kit.chat.target import Target
from kit.prompt import ChatFormat
from kit.prompt.chat_format import Message
from kit.support import console
from kit.support.errors import RowError, failure

OPEN, CLOSED = "<think>", "</think>"
OnText = Callable[[str], None]  # is called with each piece of text as it comes
StopRequested = Callable[[], bool]  # is asked after each token


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
    def answer(self) -> str:
        """Without the thoughts."""
        _, closed, after = self.text.partition(CLOSED)
        return (after if closed else "" if self.thoughts else self.text).strip()


class Speaker:
    """The loaded model with its adapters, asked in the way of training; untuned: beside a whole model the one it was
    trained from, if it is compared with."""

    def __init__(self, target: Target, longest_tokens: int):
        """Loads them. Raises KitError: one cannot be loaded, or does not fit into memory."""
        self.target, self.longest_tokens = target, longest_tokens
        chosen = backend.start(target.loading)
        for text in chosen.notes:
            console.note(text)
        models = [target.model, *([target.untuned] if target.untuned else [])]
        loaded, *others = [backend.load(model, target.loading, chosen, target.chat(None)) for model in models]
        self.loaded = add_adapters(loaded, {adapter.name: adapter.path for adapter in target.adapters})
        self.untuned = others[0] if others else None

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, it can answer."""
        with backend.answering(self.loaded), backend.answering(self.untuned) if self.untuned else nullcontext():
            yield

    def reply(
        self,
        index: int | None,
        ids: list[int],
        on_text: OnText = lambda _: None,
        stop_requested: StopRequested = lambda: False,
    ) -> Reply:
        """Of the tuned one of that index, or of the untuned model. Raises KitError: not enough memory."""
        chat, loaded = self.target.chat(index), (index is None and self.untuned) or self.loaded
        room_tokens = self.target.context_tokens - len(ids)
        pieces, opening = DecodeStream(skip_special_tokens=True), _opening(chat, ids)
        if opening:
            on_text(opening)

        def on_token(token: int) -> None:
            if piece := pieces.step(chat.tokenizer, token):
                on_text(piece)

        most_tokens, stream = min(room_tokens, self.longest_tokens), TokenStream(on_token, stop_requested)
        with use_adapter(loaded, index):
            generated = stream_answer(loaded, ids, chat.end_id, most_tokens, self.target.sampling, stream)
        reason = generated.finish_reason
        if reason == "length" and room_tokens <= self.longest_tokens:
            reason = "context"
        text = (opening + chat.tokenizer.decode(generated.ids, skip_special_tokens=True)).strip()
        return Reply(text, len(generated.ids), round(generated.tokens_per_s, 1), reason)


def _opening(chat: ChatFormat, ids: list[int]) -> str:
    """Some templates open the think block in the prompt: it belongs to what is written."""
    end = chat.tokenizer.decode(ids[-8:], skip_special_tokens=False)
    return f"{OPEN}\n" if end.rstrip().endswith(OPEN) else ""


def prompt_ids(target: Target, index: int | None, messages: list[Message], thinking: bool) -> list[int]:
    """What the model is asked with. Raises KitError: the template does not take it; no room for an answer."""
    try:
        ids = target.chat(index).prompt_ids(messages, thinking=thinking)
    except RowError as error:
        raise failure(
            "template-refuses",
            "The template does not take this conversation.",
            str(error),
            "/reset                       (begins anew)",
            "--template NAME",
        ) from None
    if len(ids) >= target.context_tokens:
        raise failure(
            "conversation-too-long",
            f"The conversation has {len(ids):,} tokens, and the model knows {target.context_tokens:,} positions.",
            "Nothing is cut from it in silence, and there is no room for an answer.",
            "/reset                       (begins anew)",
            "ask for less at once",
        )
    return ids
