"""Messages -> the exact text and token ids that the model is trained on, and asked with. No torch, no transformers.

One rule decides everything here: an answer is trained behind the very token ids that stand before it when the tuned
model is asked. So prompt and answer are encoded apart, and where a conversation that goes on would stand there in other
ids (Qwen3 takes the think block out of earlier turns; some answers melt into the header before them), the next answer
begins a sample of its own.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from tokenizers import Tokenizer

from envcheck.facts import Finding
from kit.models import Model, read_json
from kit.prompt.rendering import ChatTemplate, TemplateError
from kit.prompt.tokens import Encoder, Segment
from kit.support.errors import KitError, did_you_mean, problem, stop_on_errors

TEMPLATES = Path(__file__).parents[2] / "templates"
IGNORED = -100  # torch's and transformers' label for "not trained"
SEAM_CHARACTERS = 32  # on each side; a tokenizer decides what melts together within a word or a run of blanks
HEAD = re.compile(r"\A\{#-(?:(?!#\}).)*?end token: *([^\n]+?) *(?:-#\}|\n)", re.DOTALL)
TOKEN_LITERAL = re.compile(r"<[|｜][^<>|｜\s]+[|｜]>")
PROBE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@dataclass(frozen=True)
class Sample:
    """Token ids of one training sample; `labels` repeats the trained ones and is IGNORED elsewhere."""

    row: int
    ids: list[int]
    labels: list[int]

    @classmethod
    def of(cls, row: int, segments: Sequence[Segment], ids: Sequence[list[int]]) -> "Sample":
        """The sample of one list of segments and their ids."""
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
    """A tokenizer with the chat template it is used with; `end_token` closes every trained answer."""

    tokenizer: Tokenizer
    template_text: str
    template_origin: str
    special_tokens: dict[str, str]
    end_token: str = ""

    @property
    def pad_token(self) -> str:
        return self.special_tokens.get("pad_token", "")

    @cached_property
    def fingerprint(self) -> str:
        """Changes with everything but the code that decides ids and labels: tokenizer, template, special tokens."""
        parts = (
            self.tokenizer.to_str(),
            self.template_text,
            json.dumps([self.special_tokens, self.end_token, tokenizers.__version__, jinja2.__version__]),
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with tokenizer and template together."""
        found = (_tokens_missing(self), _end_token_missing(self), _pad_equals_end(self))
        return tuple(filter(None, found))

    # rendering

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.template_text)

    def render(self, messages: list[dict[str, Any]], tools: list | None = None, **variables: object) -> str:
        """The conversation as text. Raises TemplateError."""
        try:
            return self._template.render(messages=messages, tools=tools, **self.special_tokens, **variables)
        except TemplateError as error:
            raise TemplateError(self._encoder.restored(str(error))) from None

    def question(self, messages: list[dict[str, Any]], tools: list | None = None, thinking: bool = False) -> str:
        """The text that the model is asked with: everything up to the first token of its answer."""
        options = {} if thinking else {"enable_thinking": False}
        return self.render(messages, tools, add_generation_prompt=True, **options)

    def segments(self, messages: list[dict[str, Any]], tools: list | None = None) -> Iterator[list[Segment]]:
        """The samples of one conversation, each as its pieces in order.

        Raises RowError; it is a TemplateError where the template does not take the conversation.
        """
        messages, tools = self._encoder.hidden(messages), self._encoder.hidden(tools)
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
        `special_in` tells where that may be a surprise. Raises RowError.
        """
        start = self._start_of_text if not text.startswith(self._start_of_text) else ""
        end = self.end_token if not text.rstrip().endswith(self.end_token) else ""
        return [self._encoder.segment(start + text + end, trained=True)]

    def _up_to_end_token(self, answer: str) -> str:
        if not self.end_token:
            return answer
        body, end, _ = answer.rpartition(self.end_token)
        return body + end if end else answer + self.end_token

    def _stay_apart(self, pieces: list[str]) -> bool:
        """Whether pieces encoded one by one have the ids of the whole, as far as the characters at each seam tell."""
        seams = ((left[-SEAM_CHARACTERS:], right[:SEAM_CHARACTERS]) for left, right in itertools.pairwise(pieces))
        return all(self._ids(left + right) == self._ids(left) + self._ids(right) for left, right in seams)

    def _ids(self, text: str) -> list[int]:
        return self._encoder.encode_one(self._encoder.segment(text, trained=False))

    def _sample_segments(self, pieces: list[str]) -> list[Segment]:
        return [self._encoder.segment(text, trained=number % 2 == 1) for number, text in enumerate(pieces)]

    # token ids

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer)

    def special_in(self, text: str) -> str:
        """The first special token typed in a text, "" if there is none."""
        return self._encoder.special_in(text)

    def encode(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Token ids of each piece, encoded by itself; one call for thousands of pieces is fastest."""
        return self._encoder.encode(segments)

    @cached_property
    def _start_of_text(self) -> str:
        """The token that the tokenizer itself puts before every text, if it is one of those that do."""
        bos = self.special_tokens.get("bos_token", "")
        return bos if bos and self.tokenizer.encode("").ids[:1] == [self.tokenizer.token_to_id(bos)] else ""

    def prompt_ids(
        self, messages: list[dict[str, Any]], tools: list | None = None, thinking: bool = False
    ) -> list[int]:
        """What the tuned model is asked with. Raises RowError."""
        text = self.question(self._encoder.hidden(messages), self._encoder.hidden(tools), thinking)
        return self._ids(text)

    def samples(self, messages: list[dict[str, Any]], tools: list | None = None, row: int = 0) -> list[Sample]:
        """The samples of one conversation. Raises RowError."""
        return [Sample.of(row, pieces, self.encode(pieces)) for pieces in self.segments(messages, tools)]


def load(model: Model, template: str) -> ChatFormat:
    """The model's tokenizer with its own template (`auto`) or the one of that name in templates/.

    Raises KitError: no such template, a model without one, a tokenizer that cannot be read or lacks the template's
    tokens. What is only worth a warning is in `findings`.
    """
    settings = read_json(model.files["tokenizer_config.json"]) if "tokenizer_config.json" in model.files else {}
    own = (
        model.files["chat_template.jinja"].read_text("utf-8")
        if "chat_template.jinja" in model.files
        else settings.get("chat_template")
    )
    tokenizer, special_tokens = _tokenizer(model), _special_tokens(settings)
    if isinstance(own, list):  # several named templates: the one called "default"
        own = next((item["template"] for item in own if item["name"] == "default"), None)
    if template == "auto" and not own:
        raise KitError(_no_template(model, _fitting(tokenizer, special_tokens)))
    text, origin = (own, f"{model.name}'s own") if template == "auto" else _read(template)
    chat = _chat_format(tokenizer, text, origin, special_tokens)
    stop_on_errors(chat.findings)
    return chat


def names() -> list[str]:
    """The templates in templates/."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def _tokenizer(model: Model) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(model.files["tokenizer.json"]))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise KitError(
            problem(
                "tokenizer-unreadable",
                f"The tokenizer of {model.name} cannot be read.",
                str(error),
                "download tokenizer.json again",
            )
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _chat_format(tokenizer: Tokenizer, text: str, origin: str, special_tokens: dict[str, str]) -> ChatFormat:
    """With the end token that the head of the template names, or the model's own."""
    head = HEAD.match(text)
    own = special_tokens.get("eos_token", "")
    end_token = head[1] if head and head[1] != "the model's own" else own
    return ChatFormat(tokenizer, text, origin, special_tokens, end_token)


def _no_template(model: Model, fitting: list[str]) -> Finding:
    return problem(
        "model-has-no-chat-template",
        f"{model.name} has no chat template.",
        "It is a base model: how questions and answers are marked is your choice.",
        *(f"--template {name}" for name in fitting),
    )


def _read(name: str) -> tuple[str, str]:
    """Text and origin of a template in templates/."""
    if name not in names():
        raise KitError(
            problem(
                "unknown-template",
                f"There is no template {name}. {did_you_mean(name, names())}".rstrip(),
                "Templates are the files in templates/.",
                *(f"--template {known}" for known in ("auto", *names())),
            )
        )
    return (TEMPLATES / f"{name}.jinja").read_text("utf-8"), f"templates/{name}.jinja"


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, ... as text; a config may give text or a table."""
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    found = {name: settings.get(name) for name in names}
    return {name: token["content"] if isinstance(token, dict) else token for name, token in found.items() if token}


def _tokens_missing(chat: ChatFormat) -> Finding | None:
    """The template writes <|...|> tokens that the tokenizer takes for ordinary text."""
    missing = [token for token in _written_tokens(chat) if not _is_one_token(chat, token)]
    if not missing:
        return None
    ours = HEAD.match(chat.template_text)
    return problem(
        "template-tokens-missing",
        f"The template ({chat.template_origin}) writes tokens that the tokenizer does not have.",
        "Each would be learnt as a handful of ordinary characters, with no sign where a turn ends."
        if ours
        else "It is the model's own template, so this may be meant: a turn is marked by ordinary characters.",
        *(f"--template {name}" for name in _fitting(chat.tokenizer, chat.special_tokens)),
        details={"missing": " ".join(missing)},
        severity="error" if ours else "warning",
    )


def _written_tokens(chat: ChatFormat) -> list[str]:
    try:
        text = chat.question(PROBE[:1]) + chat.render(PROBE)
    except TemplateError:
        return []  # a template that refuses even this says so with the first row
    return [token for token in dict.fromkeys(TOKEN_LITERAL.findall(chat.template_text)) if token in text]


def _is_one_token(chat: ChatFormat, token: str) -> bool:
    return len(chat.tokenizer.encode(token, add_special_tokens=False).ids) == 1


def _fitting(tokenizer: Tokenizer, special_tokens: dict[str, str]) -> list[str]:
    """Names of the templates whose tokens the tokenizer has."""
    chats = {name: _chat_format(tokenizer, *_read(name), special_tokens) for name in names()}
    return [
        name
        for name, chat in chats.items()
        if all(_is_one_token(chat, token) for token in (*_written_tokens(chat), chat.end_token))
    ]


def _end_token_missing(chat: ChatFormat) -> Finding | None:
    if chat.end_token and chat.tokenizer.token_to_id(chat.end_token) is not None:
        return None
    return problem(
        "end-token-missing",
        f"The tokenizer has no token {chat.end_token}." if chat.end_token else "The model names no end token.",
        "It closes every answer: without it the model never learns to stop.",
        'name it in the model folder: tokenizer_config.json, "eos_token": "..."',
        *(f"--template {name}" for name in _fitting(chat.tokenizer, chat.special_tokens)),
    )


def _pad_equals_end(chat: ChatFormat) -> Finding | None:
    if not chat.pad_token or chat.pad_token != chat.end_token:
        return None
    return problem(
        "pad-equals-end",
        f"{chat.pad_token} is padding and end token at once.",
        "Here padding is masked by its place, so the end of an answer is trained all the same. "
        "Tools that mask every padding token never train it, and their models do not stop.",
        'for such tools: tokenizer_config.json, "pad_token": a token that no text contains',
        severity="warning",
    )


def _thinks(message: dict[str, Any]) -> bool:
    """Whether the answer holds reasoning; an empty think block is none."""
    before, closed, _ = (message.get("content") or "").partition("</think>")
    reasoning = (message.get("reasoning_content") or "") + (before.split("<think>")[-1] if closed else "")
    return bool(reasoning.strip("\n"))
