"""Messages of a conversation before a template renders them, and an answer that no template renders."""

from typing import Any

from kit.prompt.rendering import TemplateError

Message = dict[str, Any]
THINK, END_THINK = "<think>", "</think>"


def thinking_switch(thinking: bool) -> dict[str, Any]:
    """The template variable by which an answer with reasoning, or without, is asked for."""
    return {"enable_thinking": thinking}


def thinks(message: Message) -> bool:
    """Whether the answer holds reasoning; an empty think block is none."""
    return bool(reasoning_and_text(message)[0].strip("\n"))


def reasoning_and_text(message: Message) -> tuple[str, str]:
    """The reasoning of an answer, which stands in a field of its own or in a think block, and the rest."""
    content, reasoning = message.get("content") or "", message.get("reasoning_content") or ""
    if END_THINK not in content:  # almost every answer
        return reasoning, content
    before, _, text = content.partition(END_THINK)
    return reasoning + before.split(THINK)[-1], text


def plain_answer(question: str, message: Message, lead: str) -> str:
    """An answer behind a prompt that the template writes only when it asks: reasoning where the prompt opens a think
    block, then the text. lead: what the template writes before the text of other answers.

    Raises TemplateError: it calls tools, which every template writes in its own way.
    """
    if message.get("tool_calls"):
        raise TemplateError("the template renders a call of a tool without the prompt it is asked with")
    reasoning, text = reasoning_and_text(message)
    if question.rstrip().endswith(THINK):
        return f"{reasoning.strip()}\n{END_THINK}\n\n{text.strip()}"
    return lead + text.strip()


def system_folded(messages: list[Message]) -> list[Message]:
    """The system text in front of the first question, where there are both."""
    if [message["role"] for message in messages[:2]] != ["system", "user"]:
        return messages
    system, first = messages[:2]
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *messages[2:]]
