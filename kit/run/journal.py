"""What happens in a run, line by line: into its folder and on the screen."""

from collections.abc import Callable
from typing import Any

from kit.run.folder import RunFolder
from kit.run.layout import EVENTS

Say = Callable[[str], None]


class Journal:
    """A disk that takes no line is no reason to end a run: lines wait in memory, and the user hears of it once, and
    once more when they are written."""

    def __init__(self, folder: RunFolder, say: Say):
        self.folder, self.say = folder, say
        self.is_waiting = False

    def write(self, name: str, line: dict[str, Any]) -> None:
        """A line of a growing file."""
        error = self.folder.add_line(name, line)
        if error and not self.is_waiting:
            self.say(f"{name} cannot be written ({error.strerror}): its lines wait in memory; free some room")
        elif self.is_waiting and not error:
            self.say(f"{name} can be written again, with the lines that waited")
        self.is_waiting = error is not None

    def event(self, kind: str, text: str, **facts: Any) -> None:
        """Something to be read later, and now."""
        self.write(EVENTS, {"kind": kind, "text": text, **facts})
        self.say(text)
