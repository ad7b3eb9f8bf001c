"""Prompts of scripts: a text of the command line, or a file of many."""

import json
from pathlib import Path

from envcheck.facts import Finding
from kit.prompt.chat_format import Message
from kit.support.errors import KitError, problem


def read_prompts(path: Path, system: str) -> list[tuple[int, list[Message]]]:
    """(line, messages) of each prompt in a .txt or .jsonl file. A last answer in a row is left out: it is asked for.

    Raises KitError: a file that cannot be read, or a line that holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(_unreadable(path, str(error))) from None
    found: list[tuple[int, list[Message]]] = []
    wrong: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            messages = _messages(line) if path.suffix.lower() in (".jsonl", ".ndjson") else question(line.strip())
            found.append((number, with_system(messages, system)))
        except (ValueError, RecursionError) as error:
            wrong.append((number, str(error)))
    if wrong or not found:
        first_wrong, why = wrong[0] if wrong else (1, "it is empty")
        raise KitError(_unreadable(path, why, first_wrong, len(wrong)))
    return found


def _messages(line: str) -> list[Message]:
    row = json.loads(line)
    if isinstance(row, str):
        return question(row)
    if not isinstance(row, dict):
        raise ValueError(f"{type(row).__name__} where an object should be")
    if isinstance(row.get("prompt"), str):
        return question(row["prompt"])
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("neither messages nor prompt in it")
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError("a message without a role and a content of text")
    messages = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    if not messages or messages[-1]["role"] == "system":
        raise ValueError("it asks nothing")
    return messages


def question(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def with_system(messages: list[Message], system: str) -> list[Message]:
    if not system or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _unreadable(path: Path, why: str, line: int = 0, wrong: int = 0) -> Finding:
    return problem(
        "prompts-unreadable",
        f"{path} cannot be read as prompts." if not line else f"Line {line} of {path} holds no prompt.",
        why,
        "a .txt file with one prompt a line",
        'a .jsonl file of {"messages": [{"role": "user", "content": "..."}]} or {"prompt": "..."}',
        details={"such lines": wrong} if wrong > 1 else None,
    )
