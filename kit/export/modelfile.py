"""An Ollama Modelfile for a GGUF file: the chat template in Ollama's own language, end tokens, context length.

Ollama does not run the Jinja template that a GGUF file holds: it looks whether it knows that very text, and where it
does not, sends the bare question. So the template is written out again, from what the Jinja template renders, and only
if both give the same text for every conversation tried.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.prompt import ChatFormat
from kit.prompt.rendering import TemplateError

CONTEXT_TOKENS = 4096  # at least, where the model has as many positions
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
NAMES = {"repetition_penalty": "repeat_penalty"}
SYSTEM, USER, ANSWER, NEXT = "One system text", "First question?", "First answer.", "Second question?"


@dataclass(frozen=True)
class Turns:
    """A chat template as fixed text around each message.

    start: before the first message where there is no system text. header: before the answer that is asked for.
    """

    start: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    header: str

    def render(self, messages: list[dict[str, Any]]) -> str:
        """What Ollama makes of the template below."""
        has_system = any(message["role"] == "system" for message in messages)
        body = ""
        for message in messages:
            before, after = getattr(self, message["role"])
            body += before + message["content"] + after
        return ("" if has_system else self.start) + body + self.header

    def template(self) -> str:
        """In Go's template language, as Ollama takes it."""
        branches = "".join(
            f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for word, role, (before, after) in (
                ("if", "system", self.system),
                ("else if", "user", self.user),
                ("else if", "assistant", self.assistant),
            )
        )
        start = f"{{{{ if not .System }}}}{self.start}{{{{ end }}}}" if self.start else ""
        return f"{start}{{{{ range .Messages }}}}{branches}{{{{ end }}}}{{{{ end }}}}{self.header}"


@dataclass(frozen=True)
class Modelfile:
    """What the Modelfiles of one model say. turns: None for a template that does more. sampling: how it is advised to
    be drawn from, as in generation_config.json."""

    turns: Turns | None
    stops: list[str]
    context_tokens: int
    sampling: dict[str, Any]

    def text(self, file: str) -> str:
        """For a GGUF file beside it; without a template of its own it says so."""
        lines = [f"# ollama create NAME -f {name_for(file)}", f"FROM ./{file}"]
        if self.turns:
            lines.append(f'TEMPLATE """{self.turns.template()}"""')
        else:
            lines.append("# The chat template does more than Ollama's language was given: send raw prompts, or use")
            lines.append(f"# llama-server --jinja -m {file}, which runs the template in the file.")
        lines += [f'PARAMETER stop "{stop}"' for stop in self.stops]
        lines.append(f"PARAMETER num_ctx {self.context_tokens}")
        lines += [f"PARAMETER {NAMES.get(name, name)} {self.sampling[name]}" for name in SAMPLING
                  if name in self.sampling]  # fmt: skip
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, files: Iterable[str]) -> None:
        """One for each GGUF file, and `Modelfile` for the first."""
        for number, file in enumerate(files):
            for name in [name_for(file), *(["Modelfile"] if number == 0 else [])]:
                (folder / name).write_text(self.text(file), encoding="utf-8", newline="\n")


def name_for(file: str) -> str:
    return f"Modelfile.{file.removesuffix('.gguf')}"


def turns(chat: ChatFormat, added_bos: str) -> Turns | None:
    """The template as turns; None where it does more than that. added_bos: what the tokenizer writes by itself."""
    try:
        found = _probed(chat, added_bos)
        tried = [_conversation(kinds) for kinds in ("u", "su", "uau", "suauau")]
        if any(added_bos + found.render(messages) != _question(chat, messages, added_bos) for messages in tried):
            return None
    except (TemplateError, ValueError):
        return None
    texts = [found.start, *found.system, *found.user, *found.assistant, found.header]
    return None if any("{{" in text or '"""' in text for text in texts) else found


def _question(chat: ChatFormat, messages: list[dict[str, str]], added_bos: str) -> str:
    """What the model gets: the tokenizer's own begin token stands before every text, once."""
    return added_bos + chat.question(messages).removeprefix(added_bos)


def _conversation(kinds: str) -> list[dict[str, str]]:
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[kind], "content": f"text {number}"} for number, kind in enumerate(kinds)]


def _probed(chat: ChatFormat, added_bos: str) -> Turns:
    """Raises ValueError: a message is not in the text as it was given."""
    user, answer = {"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}
    after = {"role": "user", "content": NEXT}
    system = {"role": "system", "content": SYSTEM}
    talk, briefed = (
        chat.question(messages).removeprefix(added_bos) for messages in ([user, answer, after], [system, user])
    )
    before_user, user_to_answer, answer_to_user, at_end = _gaps(talk, (USER, ANSWER, NEXT))
    before_system, system_to_user, _ = _gaps(briefed, (SYSTEM, USER))
    user_before = _common_end(before_user, answer_to_user, system_to_user)
    if chat.end_token and chat.end_token in user_before:  # that belongs to the turn before
        user_before = user_before.rpartition(chat.end_token)[2].lstrip()
    user_after = _common_start(user_to_answer, at_end)
    if chat.end_token and chat.end_token in user_after:  # up to the end of the turn
        head, token, tail = user_after.rpartition(chat.end_token)
        user_after = head + token + tail[: len(tail) - len(tail.lstrip())]
    cut = len(user_before)
    return Turns(
        start=before_user[: len(before_user) - cut],
        system=(before_system, system_to_user[: len(system_to_user) - cut]),
        user=(user_before, user_after),
        assistant=(user_to_answer[len(user_after) :], answer_to_user[: len(answer_to_user) - cut]),
        header=at_end[len(user_after) :],
    )


def _gaps(text: str, marks: tuple[str, ...]) -> list[str]:
    gaps = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            raise ValueError(mark)
        gaps.append(before)
    return [*gaps, text]


def _common_end(*texts: str) -> str:
    return _common_start(*(text[::-1] for text in texts))[::-1]


def _common_start(*texts: str) -> str:
    length = 0
    while len({text[length : length + 1] for text in texts}) == 1 and length < len(texts[0]):
        length += 1
    return texts[0][:length]
