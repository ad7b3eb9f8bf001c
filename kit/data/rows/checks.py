"""What can be wrong with a conversation, whatever file it came from: one small function for each code.

A check gives the text of what is wrong, or None.
"""

import json
from collections.abc import Callable
from typing import Any

from kit.data.rows.formats import Conversation
from kit.support.errors import RowError

REPEATED_CHARACTERS, REPEATS, LONGEST_UNIT_CHARACTERS = 8, 4, 4
HEAD_CHARACTERS, KINDS_OF_SPACE = 32, 4


def check(conversation: Conversation) -> list[tuple[str, str]]:
    """Warnings as (code, text). Raises RowError for the first reason not to train on the conversation."""
    for code, find in ERRORS.items():
        if text := find(conversation):
            raise RowError(code, text)
    return [(code, text) for code, find in WARNINGS.items() if (text := find(conversation))]


def check_text(text: str) -> None:
    """Raise RowError for a plain text that cannot be trained on."""
    if not text.strip():
        raise RowError("data-field-empty", "text is empty")
    if unit := repeated_unit(text):
        raise RowError("data-one-character", f"text is nothing but {unit!r} repeated")
    if is_broken_unicode(text):
        raise RowError("data-lone-surrogate", "text holds half of a character")


def no_answer(conversation: Conversation) -> str | None:
    has_answer = any(message["role"] == "assistant" for message in conversation.messages)
    return None if has_answer else "no assistant turn"


def system_not_first(conversation: Conversation) -> str | None:
    for number, message in enumerate(conversation.messages, start=1):
        if message["role"] == "system" and number > 1:
            return f"turn {number} is the system's; only turn 1 can be"
    return None


def role_order(conversation: Conversation) -> str | None:
    """The user begins, then user and assistant take turns; tools answer calls."""
    before: dict[str, Any] | None = None
    for number, message in enumerate(conversation.messages, start=1):
        role = message["role"]
        if role == "system":
            continue
        if before is None and role != "user":
            return f"turn {number} is the {role}'s, but a conversation begins with the user"
        if before is not None and role == "tool" and not (before["role"] == "tool" or _calls_tools(before)):
            return f"turn {number} is a tool's, but turn {number - 1} calls none"
        if before is not None and role != "tool" and role == before["role"]:
            return f"turns {number - 1} and {number} are both the {role}'s"
        before = message
    return None


def _calls_tools(message: dict[str, Any]) -> bool:
    # Many data sets write the call into the text, in the tags that templates of the Qwen and Hermes families render.
    return message["role"] == "assistant" and bool(message.get("tool_calls") or "<tool_call>" in message["content"])


def question_empty(conversation: Conversation) -> str | None:
    for number, message in enumerate(conversation.messages, start=1):
        if message["role"] == "user" and not message["content"].strip():
            return f"turn {number} (user) is empty"
    return None


def answer_empty(conversation: Conversation) -> str | None:
    for number, message in enumerate(conversation.messages, start=1):
        if message["role"] == "assistant" and not message["content"].strip():
            reasoning = message.get("reasoning_content", "").strip()
            if not (reasoning or message.get("tool_calls")):
                return f"turn {number} (assistant) is empty"
    return None


def one_character(conversation: Conversation) -> str | None:
    for number, message in enumerate(conversation.messages, start=1):
        if unit := repeated_unit(message["content"]):
            return f"turn {number} ({message['role']}) is nothing but {unit!r} repeated"
    return None


def repeated_unit(text: str) -> str | None:
    """The few characters that the whole text repeats, spaces aside."""
    if len(set(text[:HEAD_CHARACTERS])) > LONGEST_UNIT_CHARACTERS + KINDS_OF_SPACE:
        return None  # almost every text: the beginning tells
    whole = "".join(text.split())
    for length in range(1, LONGEST_UNIT_CHARACTERS + 1):
        if len(whole) >= max(REPEATED_CHARACTERS, REPEATS * length) and whole[length:] == whole[:-length]:
            return whole[:length]
    return None


def lone_surrogate(conversation: Conversation) -> str | None:
    for number, message in enumerate(conversation.messages, start=1):
        if is_broken_unicode(message["content"]) or (len(message) > 2 and is_broken_unicode(_as_json(message))):
            return f"turn {number} ({message['role']}) holds half of a character"
    return "tools hold half of a character" if is_broken_unicode(_as_json(conversation.tools)) else None


def is_broken_unicode(text: str) -> bool:
    """Half of a UTF-16 pair, as JSON's escapes can write it: tokenizers refuse such text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if value else ""


def tool_schema(conversation: Conversation) -> str | None:
    names = set()
    for number, tool in enumerate(conversation.tools or [], start=1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not (isinstance(function, dict) and isinstance(name := function.get("name"), str) and name):
            return f"tool {number} has no function name"
        if not isinstance(function.get("parameters") or {}, dict):
            return f"the parameters of tool {name} are no object"
        names.add(name)
    for number, function in _calls(conversation):
        name = function["name"]
        if not isinstance(name, str) or not name:
            return f"turn {number} calls a tool without a name"
        if names and name not in names:
            return f"turn {number} calls {name}, which is not among the tools: {', '.join(sorted(names))}"
        if not isinstance(function["arguments"], dict):
            return f"turn {number} calls {name} with arguments that are no object"
    return None


def tools_not_listed(conversation: Conversation) -> str | None:
    calls = [] if conversation.tools else _calls(conversation)
    return f"turn {calls[0][0]} calls {calls[0][1]['name']}" if calls else None


def _calls(conversation: Conversation) -> list[tuple[int, dict[str, Any]]]:
    """(turn, function) of every call."""
    turns = enumerate(conversation.messages, start=1)
    return [(number, call["function"]) for number, turn in turns for call in turn.get("tool_calls", ())]


def trailing_turn(conversation: Conversation) -> str | None:
    after = [message["role"] for message in reversed(conversation.messages)].index("assistant")
    return f"{after} turn{'s' if after > 1 else ''} after the last answer" if after else None


Check = Callable[[Conversation], str | None]
# In this order: what a row lacks altogether is said before what is wrong with a turn.
ERRORS: dict[str, Check] = {
    "data-no-answer": no_answer,
    "data-field-empty": question_empty,
    "data-answer-empty": answer_empty,
    "data-system-not-first": system_not_first,
    "data-role-order": role_order,
    "data-one-character": one_character,
    "data-lone-surrogate": lone_surrogate,
    "data-tool-schema": tool_schema,
}
WARNINGS: dict[str, Check] = {"data-trailing-turn": trailing_turn, "data-tools-not-listed": tools_not_listed}
