"""The chat in a terminal: questions, commands, answers as they are written."""

import contextlib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from envcheck.facts import Finding
from kit.backend import CardFailed
from kit.chat.asking import CLOSED, OPEN, Reply, Speaker, StopRequested, prompt_ids
from kit.chat.names import UNTUNED
from kit.chat.options import ChatCommand
from kit.chat.prompts import question
from kit.chat.target import Target
from kit.run.signals import StopSignals
from kit.support import console
from kit.support.errors import KitError, did_you_mean, failure, problem
from kit.support.files import append_whole
from kit.support.user_shell import shell

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a model writes must not steer the terminal
END_OF_INPUT = "Ctrl-Z and Enter" if sys.platform == "win32" else "Ctrl-D"
HELP = {
    "/adapter NAME": "the adapter that answers from now on; without a name: which there are",
    "/base": "the untuned model answers from now on",
    "/compare": "every answer side by side, untuned and tuned; again: off",
    "/system TEXT": "another system prompt; without a text: none. Begins anew",
    "/thinking": "let the model think before it answers; again: off",
    "/reset": "forget the conversation",
    "/save FILE": "the conversation, as one more row of a .jsonl file that kit.train can read",
    "/help": "this",
    "/quit": f"leave, as {END_OF_INPUT} does",
}


class TerminalChat:
    """A conversation with one or more of the loaded ones."""

    def __init__(self, speaker: Speaker, command: ChatCommand):
        self.speaker, self.target = speaker, speaker.target
        self.index: int | None = 0 if self.target.names else None  # of the one who answers
        self.thinking, self.compare = command.thinking, command.compare
        self.begin(command.system)

    def begin(self, system: str) -> None:
        """A new conversation with that system prompt; everyone has heard nothing else."""
        self.system = system
        self.messages = dict.fromkeys(self.target.indices, [{"role": "system", "content": system}] if system else [])

    def run(self) -> None:
        """Until the end of the input."""
        console.say(f"/help: what can be typed; Ctrl-C stops an answer, {END_OF_INPUT} leaves", style="dim")
        for line in _lines():
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if self.obey(*_split(line)):
                        return
                else:
                    self.ask(line.removeprefix("/") if line.startswith("//") else line)
            except CardFailed:
                raise
            except KitError as error:  # a question that cannot be answered ends nothing
                console.findings(error.findings)

    # questions

    def ask(self, text: str) -> None:
        """Answered by the one that is chosen, or by all; those who answer remember it."""
        indices = self.target.indices if self.compare else [self.index]
        asked = {index: [*self.messages[index], *question(text)] for index in indices}
        ids = {index: prompt_ids(self.target, index, asked[index], self.thinking) for index in indices}
        with StopSignals(signal.SIGINT) as signals:
            if self.compare:
                replies = side_by_side(self.speaker, ids, lambda: signals.is_requested)
            else:
                replies = {self.index: stream(self.speaker, self.index, ids[self.index], lambda: signals.is_requested)}
        for index, reply in replies.items():
            messages = [*asked[index], {"role": "assistant", "content": reply.text}]
            if self.compare:
                self.messages[index] = messages
            else:  # whoever is asked next knows what was said
                self.messages = dict.fromkeys(self.target.indices, messages)

    # commands

    def obey(self, name: str, rest: str) -> bool:
        """Whether to leave."""
        if name in ("/quit", "/exit"):
            return True
        commands: dict[str, Callable[[str], None]] = {
            "/adapter": self._switch,
            "/base": lambda _: self._switch(UNTUNED),
            "/compare": self._toggle_compare,
            "/system": self._begin,
            "/thinking": self._toggle_thinking,
            "/reset": lambda _: self._begin(self.system),
            "/save": self._save,
            "/help": lambda _: show_help(),
        }
        if name not in commands:
            raise KitError(_unknown_command(name, commands))
        commands[name](rest)
        return False

    def _switch(self, name: str) -> None:
        if name:
            self.index = self.target.index_of(name)
            self.compare = False
        names = ", ".join([*self.target.names, *([UNTUNED] if None in self.target.indices else [])])
        console.say(f"{self.target.name(self.index)} answers (there are: {names})", style="dim")

    def _toggle_compare(self, _: str) -> None:
        self.target.check_untuned()
        self.compare = not self.compare
        console.say(f"side by side: {'on' if self.compare else 'off'}", style="dim")

    def _toggle_thinking(self, _: str) -> None:
        self.thinking = not self.thinking
        console.say(f"thinking: {'on' if self.thinking else 'off'}", style="dim")

    def _begin(self, system: str) -> None:
        self.begin(system)
        console.say(f"a new conversation{', with a system prompt' if system else ''}", style="dim")

    def _save(self, name: str) -> None:
        if not name:
            raise KitError(problem("no-file-named", "/save needs a file.", "Nothing is guessed.", "/save my.jsonl"))
        row = json.dumps({"messages": self.messages[self.index]}, ensure_ascii=False) + "\n"
        try:
            append_whole(Path(name).expanduser(), row)
        except OSError as error:
            raise KitError(
                problem("cannot-save", f"{name} cannot be written.", str(error), "/save another-file.jsonl")
            ) from None
        console.say(f"{name}: one row more", style="dim")


class Printer:
    """Prints the pieces of one answer: thoughts dimmed, the rest plain, marks and control characters left out."""

    def __init__(self) -> None:
        self.thinks = self.has_begun = False  # has_begun: something of the present part was printed

    def __call__(self, piece: str) -> None:
        for part in re.split(f"({OPEN}|{CLOSED})", piece):
            if part in (OPEN, CLOSED):
                if self.has_begun:
                    console.stdout.print("\n")
                self.thinks, self.has_begun = part == OPEN, False
            elif text := CONTROL.sub("", part if self.has_begun else part.lstrip()):
                self.has_begun = True
                console.stdout.print(Text(text, style="dim" if self.thinks else ""), end="", soft_wrap=True)
        console.stdout.file.flush()


def stream(speaker: Speaker, index: int | None, ids: list[int], stop_requested: StopRequested = lambda: False) -> Reply:
    """One answer, printed as it is written."""
    reply = speaker.reply(index, ids, Printer(), stop_requested)
    console.stdout.print()
    name = f"{speaker.target.name(index)}: " if speaker.target.names else ""
    console.say(f"{name}{_figures(reply)}", style="dim")
    return reply


def side_by_side(
    speaker: Speaker, ids: dict[int | None, list[int]], stop_requested: StopRequested = lambda: False
) -> dict[int | None, Reply]:
    """Each one's answer in a column of its own, drawn while it is written where there is a terminal."""
    texts: dict[int | None, str] = dict.fromkeys(ids, "")
    replies: dict[int | None, Reply] = {}
    live = Live(console=console.stdout, auto_refresh=False, transient=True)  # shows what the screen holds of it
    with live if console.stdout.is_terminal else contextlib.nullcontext():
        for index in ids:

            def on_text(piece: str, index: int | None = index) -> None:
                texts[index] += CONTROL.sub("", piece)
                if console.stdout.is_terminal:
                    live.update(_columns(speaker.target, texts, replies), refresh=True)

            replies[index] = speaker.reply(index, ids[index], on_text, stop_requested)
    console.stdout.print(_columns(speaker.target, texts, replies))
    return replies


def _columns(target: Target, texts: dict[int | None, str], replies: dict[int | None, Reply]) -> Table:
    table = Table(expand=True)
    for index in texts:
        reply = replies.get(index)
        figures = Text(_figures(reply) if reply else "")
        table.add_column(Text(target.name(index)), figures, ratio=1, overflow="fold")
    table.show_footer = True
    table.add_row(*map(_marked, texts.values()))
    return table


def _marked(text: str) -> Text:
    before, closed, after = text.partition(CLOSED)
    if not closed and OPEN not in text:
        return Text(text.strip())
    thoughts = before.replace(OPEN, "").strip()
    return Text.assemble((thoughts + "\n\n" * bool(closed and thoughts), "dim"), after.strip())


def _figures(reply: Reply) -> str:
    endings = {
        "stop": "",
        "length": "; cut here by --max-tokens",
        "context": "; cut here: the model has no more positions (/reset begins anew)",
        "interrupted": "; stopped",
    }
    return f"{reply.tokens} tokens, {reply.tokens_per_s:,.0f} tokens/s{endings[reply.finish_reason]}"


def show_help() -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, meaning in HELP.items():
        table.add_row(Text(name, style="bold"), Text(meaning))
    console.stderr.print(table)
    console.say(
        "A line that ends in \\ goes on in the next. A question that begins with / is typed with //.", style="dim"
    )


def _lines() -> Iterator[str]:
    """What the user types, without empty lines; a line that ends in a backslash goes on in the next."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - gives input() its history
    mark, begun = "> " if sys.stdin.isatty() else "", ""
    while True:
        try:
            line = input("… " if begun and mark else mark)
        except EOFError:
            console.say("")
            return
        except KeyboardInterrupt:
            begun = ""
            console.say(f"\n{END_OF_INPUT} leaves", style="dim")
            continue
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from None
        if line.endswith("\\"):
            begun += line[:-1] + "\n"
            continue
        text, begun = (begun + line).strip(), ""
        if text:
            yield text


def _not_utf8(error: UnicodeDecodeError) -> KitError:
    utf8 = shell().pipe_utf8()
    return failure(
        "input-not-utf8",
        "What was piped in is not UTF-8.",
        f"{str(error).capitalize()}: the model would be asked something else.",
        *([f"{utf8}        (then the same command)"] if utf8 else []),
        "--prompts FILE        (a question a line)",
    )


def _split(line: str) -> tuple[str, str]:
    name, _, rest = line.partition(" ")
    return name.lower(), rest.strip()


def _unknown_command(name: str, known: Iterable[str]) -> Finding:
    return problem(
        "unknown-command",
        f"There is no command {name}. {did_you_mean(name, known)}".rstrip(),
        "It was not sent to the model.",
        "/help",
        f"/{name}        (sends it as a question)",
    )
