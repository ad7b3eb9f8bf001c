"""What a text gives away: clues, how strong they are, and the words that are shown with them."""

from typing import Callable, Iterator, NamedTuple

from envcheck.facts import Facts

HEAD_CHARACTERS = 200_000  # of a longer text: the command and the versions stand at its beginning
MENTIONED, SYMPTOM, TYPICAL, CERTAIN, DECIDED = 0, 1, 2, 3, 4  # DECIDED: a reader has seen the context


class Clue(NamedTuple):
    """A place in the text that points to a cause."""

    id: str
    strength: int
    excerpt: str
    severity: str = ""  # "" = that of the cause


Reader = Callable[[str, Facts], Iterator[Clue]]


def excerpt(text: str, start: int, end: int) -> str:
    """The matched words with a little of what is around them."""
    return text[max(0, start - 40) : min(len(text), max(end, start + 60) + 40)][:240].strip()
