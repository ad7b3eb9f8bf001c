"""Messages -> the exact text and token ids that the model is trained on, and asked with. No torch, no transformers.

One rule decides everything here: an answer is trained behind the very token ids that stand before it when the tuned
model is asked. So prompt and answer are encoded apart, and where a template renders a turn differently once the
conversation goes on (Qwen3 takes the think block out of earlier turns), each answer becomes a sample of its own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from kit.errors import KitError, nearest, problem
from kit.models import Model, read_json

TEMPLATES = Path(__file__).parent.parent / "templates"
IGNORED = -100  # torch's and transformers' label for "not trained"


class TemplateError(Exception):
    """The template cannot render these messages; the text says why."""


@dataclass(frozen=True)
class Sample:
    """Token ids of one training sample; `labels` repeats the trained ones and is IGNORED elsewhere."""

    row: int
    ids: list[int]
    labels: list[int]

    @property
    def trained_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Segment:
    """A piece of rendered text; the trained pieces are answers with their end token."""

    text: str
    trained: bool


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer with the chat template it is used with."""

    tokenizer: Tokenizer
    template_text: str
    template_origin: str
    special_tokens: dict[str, str]

    @cached_property
    def _template(self) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        return environment.from_string(self.template_text)

    @property
    def end_token(self) -> str:
        return self.special_tokens.get("eos_token", "")

    def render(self, messages: list[dict[str, Any]], tools: list | None = None, **variables: object) -> str:
        """The conversation as text. Raises TemplateError."""
        try:
            return self._template.render(messages=messages, tools=tools, **self.special_tokens, **variables)
        except jinja2.TemplateError as error:
            raise TemplateError(str(error)) from None
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            raise TemplateError(f"the template does not take such messages ({error})") from None

    def question(self, messages: list[dict[str, Any]], tools: list | None = None, thinking: bool = False) -> str:
        """The text that the model is asked with: everything up to the first token of its answer."""
        options = {} if thinking else {"enable_thinking": False}
        return self.render(messages, tools, add_generation_prompt=True, **options)

    def segments(self, messages: list[dict[str, Any]], tools: list | None = None) -> Iterator[list[Segment]]:
        """The samples of one conversation, each as its pieces in order. Raises TemplateError."""
        pieces: list[Segment] = []
        done = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            question = self.question(messages[:index], tools, thinking=_thinks(message))
            whole = self.render(messages[: index + 1], tools)
            if not whole.startswith(question):
                raise TemplateError("the template renders the answer without the prompt it is asked with")
            answer = self._up_to_end_token(whole[len(question) :])
            if pieces and not question.startswith(done):
                yield pieces
                pieces, done = [], ""
            pieces += [Segment(question[len(done) :], False), Segment(answer, True)]
            done = question + answer
        if pieces:
            yield pieces

    def _up_to_end_token(self, answer: str) -> str:
        if not self.end_token:
            return answer
        body, end, _ = answer.rpartition(self.end_token)
        return body + end if end else answer + self.end_token

    def encode(self, conversations: list[tuple[int, list[Segment]]]) -> list[Sample]:
        """Token ids and labels of (row number, pieces) pairs; each piece is encoded by itself."""
        texts = [piece.text for _, pieces in conversations for piece in pieces]
        encodings = iter(self.tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        samples = []
        for row, pieces in conversations:
            ids: list[int] = []
            labels: list[int] = []
            for piece in pieces:
                piece_ids = next(encodings).ids
                ids += piece_ids
                labels += piece_ids if piece.trained else [IGNORED] * len(piece_ids)
            samples.append(Sample(row, ids, labels))
        return samples


def load(model: Model, template: str) -> ChatFormat:
    """The model's tokenizer with its own template (`auto`) or the one of that name in templates/.

    Raises KitError: no such template, a model without one, a tokenizer that cannot be read.
    """
    settings = read_json(model.files["tokenizer_config.json"]) if "tokenizer_config.json" in model.files else {}
    own = (
        model.files["chat_template.jinja"].read_text("utf-8")
        if "chat_template.jinja" in model.files
        else settings.get("chat_template")
    )
    text, origin = _choose(template, own, model)
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
    return ChatFormat(tokenizer, text, origin, _special_tokens(settings))


def _choose(template: str, own: Any, model: Model) -> tuple[str, str]:
    if isinstance(own, list):  # several named templates: the one called "default"
        own = next((item["template"] for item in own if item["name"] == "default"), None)
    if template == "auto" and own:
        return own, f"{model.name}'s own"
    names = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
    if template in names:
        return (TEMPLATES / f"{template}.jinja").read_text("utf-8"), f"templates/{template}.jinja"
    if template == "auto":
        raise KitError(
            problem(
                "model-has-no-chat-template",
                f"{model.name} has no chat template.",
                "It is a base model: how questions and answers are marked is your choice.",
                *(f"--template {name}" for name in names),
            )
        )
    raise KitError(
        problem(
            "unknown-template",
            f"There is no template {template}. {nearest(template, names)}".rstrip(),
            "Templates are the files in templates/.",
            *(f"--template {name}" for name in ("auto", *names)),
        )
    )


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, ... as text; a config may give text or a table."""
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    found = {name: settings.get(name) for name in names}
    return {name: token["content"] if isinstance(token, dict) else token for name, token in found.items() if token}


def _thinks(message: dict[str, Any]) -> bool:
    return bool(message.get("reasoning_content")) or "</think>" in (message.get("content") or "")


def _to_json(value: Any, indent: int | None = None, **_: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
