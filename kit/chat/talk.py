"""Ask what was trained from Python: loaded once, asked by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envcheck import probe
from envcheck.card import Table
from kit.chat.asking import Reply, Speaker, prompt_ids
from kit.chat.names import UNTUNED
from kit.chat.options import ChatCommand
from kit.chat.prompts import question as as_messages
from kit.chat.target import find
from kit.options.command_line import from_call
from kit.support import console


class Talk:
    """A base model with its adapters over it, loaded once as kit.chat loads them. Every one is asked by its name; the
    untuned model is `base`."""

    def __init__(self, *what: str | Path, **options: Any):
        """options: of kit.chat, such as add, compare, backend, max_tokens. Raises KitError."""
        command = from_call(ChatCommand, {"what": tuple(map(str, what)), **options})
        self.target = find(command, probe.collect())
        for text in self.target.notes:
            console.note(text)
        self.speaker = Speaker(self.target, command.max_tokens)

    @property
    def model(self) -> Any:
        """The loaded model itself, of PEFT where it has adapters."""
        return self.speaker.loaded.model

    @property
    def names(self) -> list[str]:
        return [self.target.name(index) for index in self.target.indices]

    def ask(self, question: str, name: str | None = None) -> Reply:
        """The reply of the one of that name; by default of the tuned one that was named first, where there is one.

        Raises KitError: no such adapter, no room for an answer.
        """
        index = self.target.index_of(name or next(iter(self.target.names), UNTUNED))
        with self.speaker.ready():
            return self.speaker.reply(index, prompt_ids(self.target, index, as_messages(question), thinking=False))

    def compare(self, questions: Sequence[str]) -> Table:
        """The answers of everyone, side by side."""
        rows = [(question, *(self.ask(question, name).answer for name in self.names)) for question in questions]
        return Table((("question", *self.names), *rows))
