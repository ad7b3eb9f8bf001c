"""Reads signatures.txt: error texts and the cause each one points to."""

import functools
import re
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple


class Signature(NamedTuple):
    """`strength`: 4 to 0, see signatures.txt; `patterns`: regular expressions, any of which is enough."""

    id: str
    strength: int
    patterns: Tuple[str, ...]

    def find(self, lowered: str) -> "Optional[re.Match[str]]":
        """The first place in this lower-case text; the expressions are compiled once."""
        return _compiled(self.patterns).search(lowered)


@functools.lru_cache(maxsize=None)
def _compiled(patterns: Tuple[str, ...]) -> "re.Pattern[str]":
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


@functools.lru_cache(maxsize=None)
def signatures() -> Tuple[Signature, ...]:
    """All rows, in the order of the file."""
    rows: List[Signature] = []
    for line in Path(__file__).with_name("signatures.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            last = rows[-1]
            rows[-1] = last._replace(patterns=(*last.patterns, line.strip()))
        elif line and not line.startswith("#"):
            cause_id, strength = line.split()
            rows.append(Signature(cause_id, int(strength), ()))
    return tuple(rows)
