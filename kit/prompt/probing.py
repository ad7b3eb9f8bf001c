"""What a template does, found by rendering short conversations with it: names of models and files tell less."""

import re
from collections.abc import Mapping

from tokenizers import Tokenizer

from kit.prompt.rendering import TemplateError, render

SYSTEM = {"role": "system", "content": "BRIEFED"}
USER = {"role": "user", "content": "ASKED"}
ANSWER = {"role": "assistant", "content": "ANSWERED"}


def end_of_turn(tokenizer: Tokenizer, template_text: str, special_tokens: Mapping[str, str]) -> str:
    """The first special token that the template writes behind an answer, "" if it writes none there."""
    text = _rendered([USER, ANSWER], template_text, special_tokens) or ""
    _, answer, behind = text.rpartition(ANSWER["content"])
    if not answer:
        return ""
    specials = (token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    longest_first = sorted(specials, key=len, reverse=True)
    found = re.search("|".join(map(re.escape, longest_first)) or r"(?!)", behind)
    return found[0] if found else ""


def takes_system(template_text: str, special_tokens: Mapping[str, str]) -> bool:
    """Whether the template writes a system text. One that refuses even a question without it says so with the first
    row."""
    variables = {**special_tokens, "add_generation_prompt": True}
    briefed = _rendered([SYSTEM, USER], template_text, variables)
    if briefed is None:
        return _rendered([USER], template_text, variables) is None
    return SYSTEM["content"] in briefed


def _rendered(messages: list[dict[str, str]], template_text: str, variables: Mapping[str, object]) -> str | None:
    """None: the template refuses them."""
    try:
        return render(template_text, {"messages": messages, "tools": None, **variables})
    except TemplateError:
        return None
