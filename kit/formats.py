"""One row of a data file -> one conversation. Each format is a function; `detect` picks it by the keys of a row."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kit.errors import RowError

ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
    "function_call": "assistant",
    "function": "tool",
}


@dataclass(frozen=True)
class Conversation:
    """Messages in the form chat templates take, with the tools they may call."""

    messages: list[dict[str, Any]]
    tools: list | None = None


@dataclass(frozen=True)
class Format:
    name: str
    keys: tuple[str, ...]
    convert: Callable[[dict[str, Any]], Conversation]


def convert(row: dict[str, Any], format: Format) -> Conversation | None:
    """The conversation of one row; None for a row that its annotators marked as a bad answer (KTO's `label: false`).

    Raises RowError.
    """
    missing = [key for key in format.keys if key not in row]
    if missing:
        raise RowError("data-row-format", f"no {' and no '.join(missing)} (the file began as {format.name} rows)")
    if "chosen" in row and "rejected" in row:
        raise RowError("data-preference-pair", "a pair of a chosen and a rejected answer")
    if row.get("label") is False:
        return None
    conversation = format.convert(row)
    _check(conversation.messages)
    return conversation


def detect(row: Any) -> Format | None:
    """The first format whose keys the row has."""
    if not isinstance(row, dict):
        return None
    return next((format for format in FORMATS if all(key in row for key in format.keys)), None)


def _check(messages: list[dict[str, Any]]) -> None:
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("data-no-answer", "no assistant turn: there is nothing to learn from")
    for number, message in enumerate(messages, start=1):
        says_something = message["content"].strip() or message.get("tool_calls")
        if not says_something and message["role"] in ("assistant", "user"):
            raise RowError("data-field-empty", f"turn {number} ({message['role']}) is empty")


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError("data-field-not-text", f"{key} is {type(value).__name__}, not text")
    return value


def _pair(question: str, answer: str, system: str = "") -> Conversation:
    start = [{"role": "system", "content": system}] if system else []
    return Conversation([*start, {"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def _from_alpaca(row: dict[str, Any]) -> Conversation:
    question = "\n".join(filter(None, (_text(row, "instruction"), _text(row, "input"))))
    pair = _pair(question, _text(row, "output"), _text(row, "system"))
    earlier = []
    for turn in row.get("history") or []:
        if not (isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise RowError("data-field-not-text", "history is no list of [question, answer] pairs")
        earlier += _pair(*turn).messages
    head = [message for message in pair.messages if message["role"] == "system"]
    return Conversation(head + earlier + pair.messages[len(head) :])


def _from_messages(row: dict[str, Any]) -> Conversation:
    turns = row["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise RowError("data-field-not-text", "messages is no list of {role, content}")
    return Conversation([_message(turn) for turn in turns], _tools(row))


def _message(turn: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": _role(turn.get("role")), "content": ""}
    if isinstance(turn.get("content"), list):
        _add_parts(message, turn["content"])
    else:
        message["content"] = _text(turn, "content")
    if turn.get("reasoning_content"):
        message["reasoning_content"] = _text(turn, "reasoning_content")
    if turn.get("tool_calls"):
        message["tool_calls"] = turn["tool_calls"]
    return message


def _add_parts(message: dict[str, Any], parts: list[Any]) -> None:
    """Content that comes as a list of typed parts: text, reasoning, tool calls."""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        value = part.get("value", part.get("text")) if kind else None
        if kind == "tool_call":
            call = _json(value, "tool_call")
            message.setdefault("tool_calls", []).append({"type": "function", "function": call})
        elif kind in ("text", "reasoning") and isinstance(value, str):
            key = "content" if kind == "text" else "reasoning_content"
            message[key] = message.get(key, "") + value
        else:
            raise RowError("data-field-not-text", f"a part of kind {kind} is no text")


def _from_sharegpt(row: dict[str, Any]) -> Conversation:
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise RowError("data-field-not-text", "conversations is no list of {from, value}")
    start = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return Conversation(start + [sharegpt_message(turn) for turn in turns], _tools(row))


def sharegpt_message(turn: dict[str, Any]) -> dict[str, Any]:
    """One {from, value} turn as a chat message."""
    message = {"role": _role(turn.get("from")), "content": _text(turn, "value")}
    if turn.get("from") == "function_call":
        call = _json(turn.get("value"), "function_call")
        message |= {"content": "", "tool_calls": [{"type": "function", "function": call}]}
    return message


def _role(name: Any) -> str:
    if name not in ROLES:
        raise RowError("data-role-unknown", f"role {name!r} is none of {', '.join(ROLES)}")
    return ROLES[name]


def _tools(row: dict[str, Any]) -> list | None:
    tools = row.get("tools")
    if not tools:
        return None
    return _json(tools, "tools")


def _json(value: Any, field: str) -> Any:
    """A value that data sets give as JSON text or as itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise RowError("data-field-not-json", f"{field} does not parse: {error}") from None


FORMATS = (
    Format("chat messages", ("messages",), _from_messages),
    Format("ShareGPT", ("conversations",), _from_sharegpt),
    Format("Alpaca", ("instruction", "output"), _from_alpaca),
    Format("question/answer", ("question", "answer"), lambda row: _pair(_text(row, "question"), _text(row, "answer"))),
    Format(
        "prompt/completion", ("prompt", "completion"), lambda row: _pair(_text(row, "prompt"), _text(row, "completion"))
    ),
)
