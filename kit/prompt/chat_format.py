"""A tokenizer with its chat template: conversations -> text -> token ids and labels.

One rule decides everything here: an answer is trained behind the very token ids that stand before it when the tuned
model is asked. So prompt and answer are encoded apart, and where a conversation that goes on would stand there in other
ids (Qwen3 takes the think block out of earlier turns; some answers melt into the header before them), the next answer
begins a sample of its own.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import jinja2
import tokenizers
from tokenizers import Tokenizer

from envcheck.facts import Finding
from kit.prompt.rendering import TemplateError, render
from kit.prompt.templates import end_token_of
from kit.prompt.tokens import Encoder, Segment

Message = dict[str, Any]
IGNORED = -100  # torch's and transformers' label for "not trained"
SEAM_CHARACTERS = 32  # on each side; a tokenizer decides what melts together within a word or a run of blanks


@dataclass(frozen=True)
class Sample:
    """Token ids of one training sample; `labels` repeats the trained ones and is IGNORED elsewhere."""

    row: int
    ids: list[int]
    labels: list[int]

    @classmethod
    def from_segments(cls, row: int, segments: Sequence[Segment], ids: Sequence[list[int]]) -> "Sample":
        """`ids` holds the token ids of each segment."""
        all_ids: list[int] = []
        labels: list[int] = []
        for segment, segment_ids in zip(segments, ids, strict=True):
            all_ids += segment_ids
            labels += segment_ids if segment.trained else [IGNORED] * len(segment_ids)
        return cls(row, all_ids, labels)

    @property
    def trained_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer with the chat template it is used with.

    `end_token` closes every trained answer; `findings`: what is odd about tokenizer and template together.
    """

    tokenizer: Tokenizer
    template_text: str
    template_origin: str
    special_tokens: dict[str, str]
    end_token: str = ""
    findings: tuple[Finding, ...] = ()

    @classmethod
    def from_template(
        cls, tokenizer: Tokenizer, text: str, origin: str, special_tokens: dict[str, str]
    ) -> "ChatFormat":
        """The end token is the one that the head of the template names, or the model's own."""
        end_token = end_token_of(text, special_tokens.get("eos_token", ""))
        return cls(tokenizer, text, origin, special_tokens, end_token)

    @property
    def end_id(self) -> int | None:
        """Of the end token; None: there is none."""
        return self.tokenizer.token_to_id(self.end_token)

    @property
    def pad_token(self) -> str:
        return self.special_tokens.get("pad_token", "")

    @cached_property
    def fingerprint(self) -> str:
        """Changes with everything but the code that decides ids and labels: tokenizer, template, special tokens."""
        small = json.dumps([self.special_tokens, self.end_token, tokenizers.__version__, jinja2.__version__])
        return hashlib.sha256("\0".join([self.tokenizer.to_str(), self.template_text, small]).encode()).hexdigest()

    # rendering

    def render(self, messages: list[Message], tools: list | None = None, **variables: object) -> str:
        """The conversation as text. Raises TemplateError."""
        try:
            return render(
                self.template_text, {"messages": messages, "tools": tools, **self.special_tokens, **variables}
            )
        except TemplateError as error:
            raise TemplateError(self.encoder.restore_special_tokens(str(error))) from None

    def question(self, messages: list[Message], tools: list | None = None, thinking: bool = False) -> str:
        """The text that the model is asked with: everything up to the first token of its answer."""
        options = {} if thinking else {"enable_thinking": False}
        return self.render(messages, tools, add_generation_prompt=True, **options)

    def segments(self, messages: list[Message], tools: list | None = None) -> Iterator[list[Segment]]:
        """The samples of one conversation, each as its pieces in order.

        Raises RowError; it is a TemplateError where the template does not take the conversation.
        """
        messages, tools = self.encoder.hide_special_tokens([messages, tools])
        pieces: list[str] = []  # in turn: what is asked, what is answered
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            question = self.question(messages[:index], tools, thinking=_thinks(message))
            whole = self.render(messages[: index + 1], tools)
            if not whole.startswith(question):
                raise TemplateError("the template renders the answer without the prompt it is asked with")
            answer = self._up_to_end_token(whole[len(question) :])
            done = "".join(pieces)
            goes_on = question.startswith(done) and self._stay_apart([*pieces[-2:], question[len(done) :]])
            if pieces and not goes_on:
                yield self._sample_segments(pieces)
                pieces, done = [], ""
            pieces += [question[len(done) :], answer]
        if pieces:
            yield self._sample_segments(pieces)

    def text_segments(self, text: str) -> list[Segment]:
        """A row of plain text: all of it is trained, up to an end token.

        Special tokens in it are real ones: such rows often are conversations that a template has rendered already.
        `encoder.first_special_token` tells where that may be a surprise. Raises RowError.
        """
        start = self._start_of_text if not text.startswith(self._start_of_text) else ""
        end = self.end_token if not text.rstrip().endswith(self.end_token) else ""
        return [self.encoder.segment(start + text + end, trained=True)]

    def _up_to_end_token(self, answer: str) -> str:
        if not self.end_token:
            return answer
        body, end, _ = answer.rpartition(self.end_token)
        return body + end if end else answer + self.end_token

    def _stay_apart(self, pieces: list[str]) -> bool:
        """Whether pieces encoded one by one have the ids of the whole, as far as the characters at each seam tell."""
        seams = ((left[-SEAM_CHARACTERS:], right[:SEAM_CHARACTERS]) for left, right in pairwise(pieces))
        return all(self._ids(left + right) == self._ids(left) + self._ids(right) for left, right in seams)

    def _ids(self, text: str) -> list[int]:
        return self.encoder.encode_one(self.encoder.segment(text, trained=False))

    def _sample_segments(self, pieces: list[str]) -> list[Segment]:
        return [self.encoder.segment(text, trained=number % 2 == 1) for number, text in enumerate(pieces)]

    # token ids

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.tokenizer)

    @cached_property
    def _start_of_text(self) -> str:
        """The token that the tokenizer itself puts before every text, if it is one of those that do."""
        bos = self.special_tokens.get("bos_token", "")
        return bos if bos and self.tokenizer.encode("").ids[:1] == [self.tokenizer.token_to_id(bos)] else ""

    def prompt_ids(self, messages: list[Message], tools: list | None = None, thinking: bool = False) -> list[int]:
        """What the tuned model is asked with. Raises RowError."""
        messages, tools = self.encoder.hide_special_tokens([messages, tools])
        return self._ids(self.question(messages, tools, thinking))

    def samples(self, messages: list[Message], tools: list | None = None, row: int = 0) -> list[Sample]:
        """The samples of one conversation. Raises RowError."""
        return [
            Sample.from_segments(row, pieces, self.encoder.encode(pieces)) for pieces in self.segments(messages, tools)
        ]


def _thinks(message: Message) -> bool:
    """Whether the answer holds reasoning; an empty think block is none."""
    before, closed, _ = (message.get("content") or "").partition("</think>")
    reasoning = (message.get("reasoning_content") or "") + (before.split("<think>")[-1] if closed else "")
    return bool(reasoning.strip("\n"))
