"""What can be wrong with a tokenizer and a template together."""

import re
from collections.abc import Iterator

from tokenizers import Tokenizer

from envcheck.facts import Finding
from kit.prompt.chat_format import ChatFormat
from kit.prompt.rendering import TemplateError
from kit.prompt.templates import is_of_the_kit, read_template, template_names
from kit.support.errors import problem

TOKEN_LITERAL = re.compile(r"<[|｜][^<>|｜\s]+[|｜]>")
PROBE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def check(chat: ChatFormat) -> Iterator[Finding]:
    """What is odd about them."""
    if missing := [token for token in _written_tokens(chat) if not _is_one_token(chat, token)]:
        ours = is_of_the_kit(chat.template_text)
        yield problem(
            "template-tokens-missing",
            f"The template ({chat.template_origin}) writes tokens that the tokenizer does not have.",
            "Each would be learnt as a handful of ordinary characters, with no sign where a turn ends."
            if ours
            else "It is the model's own template, so this may be meant: a turn is marked by ordinary characters.",
            *fitting_templates(chat.tokenizer, chat.special_tokens),
            details={"missing": " ".join(missing)},
            severity="error" if ours else "warning",
        )
    if not chat.end_token or chat.end_id is None:
        yield problem(
            "end-token-missing",
            f"The tokenizer has no token {chat.end_token}." if chat.end_token else "The model names no end token.",
            "It closes every answer: without it the model never learns to stop.",
            'name it in the model folder: tokenizer_config.json, "eos_token": "..."',
            *fitting_templates(chat.tokenizer, chat.special_tokens),
        )
    if chat.pad_token and chat.pad_token == chat.end_token:
        yield problem(
            "pad-equals-end",
            f"{chat.pad_token} is padding and end token at once.",
            "Here padding is masked by its place, so the end of an answer is trained all the same. "
            "Tools that mask every padding token never train it, and their models do not stop.",
            'for such tools: tokenizer_config.json, "pad_token": a token that no text contains',
            severity="warning",
        )


def check_added(chat: ChatFormat, vectors: int | None) -> Iterator[Finding]:
    """Why a token cannot be trained as one that the user added. vectors: of the model's embedding."""
    added = {token.content: id for id, token in chat.tokenizer.get_added_tokens_decoder().items()}
    for token in chat.added_tokens:
        fix = f"tokenizer.add_tokens([{token!r}]), tokenizer.save_pretrained(FOLDER)"
        if chat.writes(token):
            what, why = (
                f"{token} is a token of the template or the tokenizer's own.",
                "A row could end its turn with it.",
            )
            fix = "take it out of --train-added-tokens"
        elif token not in added:
            count = len(chat.tokenizer.encode(token, add_special_tokens=False).ids)
            what = f"{token} was not added to the tokenizer."
            why = f"It is read as {count} ordinary piece{'s' if count != 1 else ''}, which stand in other words too."
        elif vectors is not None and added[token] >= vectors:
            what = f"The model has no vector for {token} ({added[token]})."
            why = f"Its embedding ends with id {vectors - 1:,}: the tokenizer has grown, and the model has not."
            fix = "model.resize_token_embeddings(len(tokenizer)), model.save_pretrained(FOLDER)"
        else:
            continue
        yield problem("added-token-cannot-be-trained", what, why, fix)


def check_end(chat: ChatFormat, model_end_ids: list[int]) -> Iterator[Finding]:
    """Where the end of an answer is another token than the model's files name. model_end_ids: those that its
    generation_config.json or config.json ends an answer at."""
    named = chat.special_tokens.get("eos_token", "")
    if not named or chat.end_token == named:
        return
    ends_there = chat.end_id in model_end_ids
    yield problem(
        "end-token-differs",
        f"An answer ends with {chat.end_token}, though tokenizer_config.json names {named} as eos_token.",
        f"The template ({chat.template_origin}) writes {chat.end_token} behind an answer: it is what is trained, and "
        "what the adapter and everything that is exported name as the end.",
        "nothing, if answers shall end so; else --template NAME",
        details={"ends in generation_config.json or config.json": model_end_ids or "none"},
        severity="note" if ends_there else "warning",
    )


def fitting_templates(tokenizer: Tokenizer, special_tokens: dict[str, str]) -> list[str]:
    """The options for the kit's templates whose tokens the tokenizer has, such as --template chatml."""
    options = []
    for name in template_names():
        chat = ChatFormat.from_template(tokenizer, *read_template(name), special_tokens)
        if all(_is_one_token(chat, token) for token in (*_written_tokens(chat), chat.end_token)):
            options.append(f"--template {name}")
    return options


def _written_tokens(chat: ChatFormat) -> list[str]:
    """<|...|> tokens that the template writes around a short conversation."""
    try:
        text = chat.question(PROBE[:1]) + chat.render(PROBE)
    except TemplateError:
        return []  # a template that refuses even this says so with the first row
    return [token for token in dict.fromkeys(TOKEN_LITERAL.findall(chat.template_text)) if token in text]


def _is_one_token(chat: ChatFormat, token: str) -> bool:
    return len(chat.tokenizer.encode(token, add_special_tokens=False).ids) == 1
