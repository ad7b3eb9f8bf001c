"""A model's tokenizer files and a template -> ChatFormat."""

from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer

from kit.models import Model, read_json
from kit.models.families import text_part
from kit.prompt.chat_format import ChatFormat
from kit.prompt.findings import check, check_added, check_end, fitting_templates
from kit.prompt.templates import read_template
from kit.prompt.tokens import not_special
from kit.support.errors import failure, stop_on_errors

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def load(model: Model, template: str, added_tokens: tuple[str, ...] = ()) -> ChatFormat:
    """The model's tokenizer with its own template (`auto`) or the one of that name in templates/. added_tokens: those
    that are tokens where they are typed, and are trained.

    Raises KitError: no such template, a model without one, a tokenizer that cannot be read or lacks the template's
    tokens or the added ones. What is only worth a warning is in `findings`.
    """
    settings = _settings(model, "special_tokens_map.json") | _settings(model, "tokenizer_config.json")
    named = {name: token for name in SPECIAL_TOKENS if (token := settings.get(name))}  # each a text or a table
    special_tokens = {name: token["content"] if isinstance(token, dict) else token for name, token in named.items()}
    tokenizer = _tokenizer(model)
    if template != "auto":
        text, origin = read_template(template)
    elif own := _own_template(model, settings):
        text, origin = own, f"{model.name}'s own"
    else:
        raise failure(
            "model-has-no-chat-template",
            f"{model.name} has no chat template.",
            "It is a base model: how questions and answers are marked is your choice.",
            *fitting_templates(tokenizer, special_tokens),
        )
    chat = ChatFormat.from_template(tokenizer, text, origin, special_tokens)
    chat = replace(chat, added_tokens=tuple(dict.fromkeys(added_tokens)))
    vectors = text_part(model.config).get("vocab_size")
    found = (*check(chat), *check_end(chat, model.end_ids(None)), *check_added(chat, vectors))
    chat = replace(chat, findings=found)
    stop_on_errors(chat.findings)
    return replace(chat, tokenizer=not_special(tokenizer, chat.added_tokens)) if added_tokens else chat


def _settings(model: Model, file: str) -> dict[str, Any]:
    return read_json(model.files[file]) if file in model.files else {}


def _own_template(model: Model, settings: dict[str, Any]) -> str | None:
    """Of several named templates the one called "default"."""
    if "chat_template.jinja" in model.files:
        return model.files["chat_template.jinja"].read_text("utf-8")
    own = settings.get("chat_template") or _settings(model, "chat_template.json").get("chat_template")
    if isinstance(own, list):
        return next((item["template"] for item in own if item["name"] == "default"), None)
    return own


def _tokenizer(model: Model) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(model.files["tokenizer.json"]))
    except Exception as error:  # the tokenizers library raises plain Exception
        what = f"The tokenizer of {model.name} cannot be read."
        raise failure("tokenizer-unreadable", what, str(error), "download tokenizer.json again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
