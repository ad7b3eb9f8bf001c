"""Who hears how far a piece of work is."""

from collections.abc import Callable
from contextlib import AbstractContextManager

OnProgress = Callable[[str, int, int, str], None]  # stage, done, total, detail
ProgressBars = Callable[[], AbstractContextManager[OnProgress]]
