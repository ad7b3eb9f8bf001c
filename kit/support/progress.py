"""Who hears how far a piece of work is."""

from collections.abc import Callable
from contextlib import AbstractContextManager

Show = Callable[[str, int, int, str], None]  # what is being done, how much is done, of how much, a word on it
Progressing = Callable[[], AbstractContextManager[Show]]
