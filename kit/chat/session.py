"""The chat in a terminal: questions, commands, answers as they are written."""

import contextlib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from kit.chat.asking import CLOSED, OPEN, Dialogue, Reply, Speaker, prompt_ids
from kit.chat.options import ChatCommand
from kit.chat.target import UNTUNED, Target
from kit.support import console
from kit.support.errors import KitError, did_you_mean, problem
from kit.support.files import append_whole

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a model writes must not steer the terminal
HELP = {
    "/adapter NAME": "the adapter that answers from now on; without a name: which there are",
    "/base": "the untuned model answers from now on",
    "/compare": "every answer side by side, untuned and tuned; again: off",
    "/system TEXT": "another system prompt; without a text: none. Begins anew",
    "/thinking": "let the model think before it answers; again: off",
    "/reset": "forget the conversation",
    "/save FILE": "the conversation, as one more row of a .jsonl file that kit.train can read",
    "/help": "this",
    "/quit": "leave, as Ctrl-D does",
}


class Session:
    """A conversation with one or more of the loaded ones."""

    def __init__(self, speaker: Speaker, target: Target, command: ChatCommand):
        self.speaker, self.target = speaker, target
        self.place: int | None = 0 if target.names else None
        self.thinking, self.compare = command.thinking, command.compare
        self.system = command.system
        self.interrupted = False
        self.reset()

    def reset(self) -> None:
        self.talks = {place: Dialogue.begun(self.system) for place in self.places}

    @property
    def places(self) -> list[int | None]:
        return self.target.places

    def run(self) -> None:
        """Until the end of the input."""
        console.say("/help: what can be typed; Ctrl-C stops an answer, Ctrl-D leaves", style="dim")
        for line in _lines():
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if self.obey(*_split(line)):
                        return
                else:
                    self.ask(line.removeprefix("/") if line.startswith("//") else line)
            except KitError as error:  # a question that cannot be answered ends nothing
                console.findings(error.findings)

    # questions

    def ask(self, text: str) -> None:
        """Answered by the one that is chosen, or by all; those who answer remember it."""
        places = self.places if self.compare else [self.place]
        asked = {place: self.talks[place].ask(text) for place in places}
        ids = {place: prompt_ids(self.target, place, asked[place], self.thinking) for place in places}
        with self._stoppable():
            answers = self._side_by_side(ids) if self.compare else {self.place: self._streamed(ids[self.place])}
        for place, answer in answers.items():
            talk = Dialogue([*asked[place], {"role": "assistant", "content": answer.text}])
            if self.compare:
                self.talks[place] = talk
            else:  # whoever is asked next knows what was said
                self.talks = {other: Dialogue(list(talk.messages)) for other in self.places}

    def _streamed(self, ids: list[int]) -> Reply:
        printer = Printer()
        answer = self.speaker.answer(self.place, ids, printer, lambda: self.interrupted)
        printer.end()
        console.say(footer(self.target, self.place, answer), style="dim")
        return answer

    def _side_by_side(self, ids: dict[int | None, list[int]]) -> dict[int | None, Reply]:
        return side_by_side(self.speaker, self.target, ids, lambda: self.interrupted)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Ctrl-C ends the answer while inside; pressed twice, the program."""
        self.interrupted = False

        def stop(*_: object) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # commands

    def obey(self, name: str, rest: str) -> bool:
        """Whether to leave."""
        if name in ("/quit", "/exit"):
            return True
        doing: dict[str, Callable[[str], None]] = {
            "/adapter": self._switch,
            "/base": lambda _: self._switch(UNTUNED),
            "/compare": self._toggle_compare,
            "/system": self._new_system,
            "/thinking": self._toggle_thinking,
            "/reset": self._forget,
            "/save": self._save,
            "/help": lambda _: show_help(),
        }
        if name not in doing:
            raise KitError(_unknown_command(name, doing))
        doing[name](rest)
        return False

    def _switch(self, name: str) -> None:
        if name:
            self.place = self.target.place(name)
            self.compare = False
        names = ", ".join([*self.target.names, *([UNTUNED] if None in self.places else [])])
        console.say(f"{self.target.name(self.place)} answers (there are: {names})", style="dim")

    def _toggle_compare(self, _: str) -> None:
        self.target.check_untuned()
        self.compare = not self.compare
        console.say(f"side by side: {'on' if self.compare else 'off'}", style="dim")

    def _toggle_thinking(self, _: str) -> None:
        self.thinking = not self.thinking
        console.say(f"thinking: {'on' if self.thinking else 'off'}", style="dim")

    def _new_system(self, text: str) -> None:
        self.system = text
        self._forget("")

    def _forget(self, _: str) -> None:
        self.reset()
        console.say(f"a new conversation{', with a system prompt' if self.system else ''}", style="dim")

    def _save(self, name: str) -> None:
        if not name:
            raise KitError(problem("no-file-named", "/save needs a file.", "Nothing is guessed.", "/save my.jsonl"))
        row = json.dumps({"messages": self.talks[self.place].messages}, ensure_ascii=False) + "\n"
        try:
            append_whole(Path(name).expanduser(), row)
        except OSError as error:
            raise KitError(
                problem("cannot-save", f"{name} cannot be written.", str(error), "/save another-file.jsonl")
            ) from None
        console.say(f"{name}: one row more", style="dim")


class Printer:
    """Hears the pieces of one answer: thoughts dimmed, the rest plain, marks and control characters left out."""

    def __init__(self) -> None:
        self.thinks = self.begun = False  # begun: something of the present part was shown

    def __call__(self, piece: str) -> None:
        for part in re.split(f"({OPEN}|{CLOSED})", piece):
            if part in (OPEN, CLOSED):
                if self.begun:
                    console.stdout.print("\n")
                self.thinks, self.begun = part == OPEN, False
            elif shown := CONTROL.sub("", part if self.begun else part.lstrip()):
                self.begun = True
                console.stdout.print(Text(shown, style="dim" if self.thinks else ""), end="", soft_wrap=True)
        console.stdout.file.flush()

    def end(self) -> None:
        console.stdout.print()


def side_by_side(
    speaker: Speaker, target: Target, ids: dict[int | None, list[int]], stopped: Callable[[], bool]
) -> dict[int | None, Reply]:
    """Each one's answer in a column of its own, drawn while it is written where there is a terminal."""
    texts, answers = dict.fromkeys(ids, ""), {}
    live = Live(console=console.stdout, auto_refresh=False, transient=True)  # shows what the screen holds of it
    with live if console.stdout.is_terminal else contextlib.nullcontext():
        for place in ids:

            def hear(piece: str, place: int | None = place) -> None:
                texts[place] += CONTROL.sub("", piece)
                if console.stdout.is_terminal:
                    live.update(_columns(target, texts, answers), refresh=True)

            answers[place] = speaker.answer(place, ids[place], hear, stopped)
    console.stdout.print(_columns(target, texts, answers))
    return answers


def _columns(target: Target, texts: dict[int | None, str], answers: dict[int | None, Reply]) -> Table:
    table = Table(expand=True)
    for place in texts:
        done = answers.get(place)
        table.add_column(Text(target.name(place)), Text(_figures(done) if done else ""), ratio=1, overflow="fold")
    table.show_footer = True
    table.add_row(*(_marked(text) for text in texts.values()))
    return table


def _marked(text: str) -> Text:
    before, closed, after = text.partition(CLOSED)
    if not closed and OPEN not in text:
        return Text(text.strip())
    thoughts = before.replace(OPEN, "").strip()
    return Text.assemble((thoughts + "\n\n" * bool(closed and thoughts), "dim"), after.strip())


def footer(target: Target, place: int | None, answer: Reply) -> str:
    who = f"{target.name(place)}: " if target.names else ""
    return f"{who}{_figures(answer)}"


def _figures(answer: Reply) -> str:
    words = {
        "stop": "",
        "length": "; cut here by --max-tokens",
        "context": "; cut here: the model has no more positions (/reset begins anew)",
        "interrupted": "; stopped",
    }
    return f"{answer.tokens} tokens, {answer.tokens_per_s:,.0f} tokens/s{words[answer.finish_reason]}"


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
            console.say("\nCtrl-D leaves", style="dim")
            continue
        if line.endswith("\\"):
            begun += line[:-1] + "\n"
            continue
        text, begun = (begun + line).strip(), ""
        if text:
            yield text


def _split(line: str) -> tuple[str, str]:
    name, _, rest = line.partition(" ")
    return name.lower(), rest.strip()


def _unknown_command(name: str, known: dict) -> object:
    return problem(
        "unknown-command",
        f"There is no command {name}. {did_you_mean(name, known)}".rstrip(),
        "It was not sent to the model.",
        "/help",
        f"/{name}        (sends it as a question)",
    )
