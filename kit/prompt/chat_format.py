"""A tokenizer with its chat template: conversations -> text -> token ids and labels.

One rule decides everything here: an answer is trained behind the very token ids that stand before it when the tuned
model is asked, in the ids that it has there. So the ids of the prompt stay as they are, and where a conversation that
goes on would stand there in other ids (Qwen3 takes the think block out of earlier turns; some answers melt into the
header before them), the next answer begins a sample of its own.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import jinja2
import tokenizers
from tokenizers import Tokenizer

from envcheck.facts import Finding
from kit.prompt.messages import Message, plain_answer, system_folded, thinking_switch, thinks
from kit.prompt.probing import ANSWER, USER, end_of_turn, takes_system
from kit.prompt.rendering import TemplateError, render
from kit.prompt.templates import end_token_of, switched_off
from kit.prompt.tokens import Encoder, Segment

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

    `end_token` closes every trained answer; `findings`: what is odd about tokenizer and template together;
    `added_tokens`: those that the user added to be trained, which are no special ones to `tokenizer`.
    """

    tokenizer: Tokenizer
    template_text: str
    template_origin: str
    special_tokens: dict[str, str]
    end_token: str = ""
    findings: tuple[Finding, ...] = ()
    added_tokens: tuple[str, ...] = ()

    @classmethod
    def from_template(
        cls, tokenizer: Tokenizer, text: str, origin: str, special_tokens: dict[str, str]
    ) -> "ChatFormat":
        """The end token is the one that the head of the template names, or that stands behind an answer in its text, or
        the model's own."""
        end_token = end_token_of(text) or end_of_turn(tokenizer, text, special_tokens)
        return cls(tokenizer, text, origin, special_tokens, end_token or special_tokens.get("eos_token", ""))

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

    @cached_property
    def folds_system(self) -> bool:
        """Whether the template refuses a system text, or leaves it out."""
        return not takes_system(self.template_text, self.special_tokens)

    def placed(self, messages: list[Message]) -> list[Message]:
        """The conversation as the template takes it."""
        return system_folded(messages) if self.folds_system else messages

    def render(self, messages: list[Message], tools: list | None = None, **variables: object) -> str:
        """The conversation as text, a system text in the first question where the template has no place for it.

        Raises TemplateError.
        """
        try:
            return render(
                self.template_text,
                {"messages": self.placed(messages), "tools": tools, **self.special_tokens, **variables},
            )
        except TemplateError as error:
            raise TemplateError(self.encoder.restore_special_tokens(str(error))) from None

    def question(self, messages: list[Message], tools: list | None = None, thinking: bool = False) -> str:
        """The text that the model is asked with: everything up to the first token of its answer."""
        return self.render(messages, tools, add_generation_prompt=True, **thinking_switch(thinking))

    def default_question(self, messages: list[Message]) -> str:
        """The text that others ask with, who say nothing of thinking."""
        return self.render(messages, add_generation_prompt=True)

    def as_trained(self, purpose: str, rows_thinking: int) -> "ChatFormat":
        """The format of a model that was trained on answers without reasoning: it is asked so, too, where nothing is
        said. The same one where the template does that already, knows no such switch, or the rows are others.

        purpose, rows_thinking: as a DataReport has them.
        """
        if rows_thinking or purpose != "answers":
            return self
        asked = self.question([USER])
        if self.default_question([USER]) == asked:
            return self
        switched = replace(self, template_text=switched_off(self.template_text))
        return switched if switched.default_question([USER]) == asked else self

    def segments(self, messages: list[Message], tools: list | None = None) -> Iterator[list[Segment]]:
        """The samples of one conversation, each as its pieces in order: what is asked, what is answered, in turn.

        Raises RowError; it is a TemplateError where the template does not take the conversation.
        """
        messages, tools = self.encoder.hide_special_tokens([messages, tools])
        pieces: list[str] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            question, answer = self._question_and_answer(messages[: index + 1], tools)
            done = "".join(pieces)
            if pieces and not (question.startswith(done) and self._goes_on([*pieces, question[len(done) :]])):
                yield self._sample_segments(pieces)
                pieces, done = [], ""
            pieces += [question[len(done) :], answer]
        if pieces:
            yield self._sample_segments(pieces)

    def _question_and_answer(self, messages: list[Message], tools: list | None) -> tuple[str, str]:
        """What the model is asked with before the last of these messages, and that message, up to its end token."""
        thinking = thinks(messages[-1])
        question = self.question(messages[:-1], tools, thinking)
        whole = self.render(messages, tools, **thinking_switch(thinking))
        if whole.startswith(question):
            return question, self._up_to_end_token(whole[len(question) :])
        # the template writes an answer that is given otherwise than one that is asked for
        return question, self._up_to_end_token(plain_answer(question, messages[-1], self._lead))

    @cached_property
    def _lead(self) -> str:
        """What stands between the prompt and the text of an answer, such as a blank."""
        question, whole = self.question([USER]), self.render([USER, ANSWER], **thinking_switch(False))
        return whole[len(question) :].partition(ANSWER["content"])[0] if whole.startswith(question) else ""

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

    def _goes_on(self, pieces: list[str]) -> bool:
        """Whether the last piece stands behind the others in the ids that it has when the model is asked; where a text
        has the same ids anywhere, the characters at each seam tell."""
        if not self.encoder.encodes_alike_anywhere:
            return self.encoder.are_whole(self._sample_segments(pieces))
        seams = ((left[-SEAM_CHARACTERS:], right[:SEAM_CHARACTERS]) for left, right in pairwise(pieces[-3:]))
        return all(self._ids(left + right) == self._ids(left) + self._ids(right) for left, right in seams)

    def _ids(self, text: str) -> list[int]:
        return self.encoder.encode_one(self.encoder.segment(text, trained=False))

    def _sample_segments(self, pieces: list[str]) -> list[Segment]:
        return [self.encoder.segment(text, trained=number % 2 == 1) for number, text in enumerate(pieces)]

    # token ids

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.tokenizer)

    def writes(self, token: str) -> bool:
        """Whether the template, or the tokenizer itself, gives the token a meaning: it marks a turn, ends an answer,
        fills up a batch."""
        return token in self.template_text or token in (self.end_token, *self.special_tokens.values())

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
        samples = list(self.segments(messages, tools))
        return [
            Sample.from_segments(row, pieces, ids)
            for pieces, ids in zip(samples, self.encoder.encode(samples), strict=True)
        ]
