"""Versions and version ranges as pip prints them. Imports nothing of ours; what cannot be parsed is None, never an
exception.

>>> matches("2.7.1+cu128", ">=2.7,<2.8")
True
>>> implies("<4.42", "<4.50"), implies(">=4.40", "<4.50")
(True, False)
"""

import re
from typing import List, NamedTuple, Optional, Tuple

_VERSION = re.compile(
    r"^\s*v?(\d+(?:\.\d+)*)[-_.]?(?:(dev|a|alpha|b|beta|rc|c|pre|post|rev|r)[-_.]?(\d*))?(?:[-_.]?(dev|post)[-_.]?(\d*))?"
    r"(?:\+([A-Za-z0-9][A-Za-z0-9._-]*))?"
)
_STAGES = {
    "dev": -4,
    "a": -3,
    "alpha": -3,
    "b": -2,
    "beta": -2,
    "rc": -1,
    "c": -1,
    "pre": -1,
    "post": 1,
    "rev": 1,
    "r": 1,
}
_CLAUSE = re.compile(r"^\s*(===|==|!=|>=|<=|~=|>|<)\s*([^\s,;]+)\s*$")


class Version(NamedTuple):
    """Ordered by `key`; `local` is the part after "+", such as cu128."""

    key: Tuple[Tuple[int, ...], int, int]
    release: Tuple[int, ...]
    local: str

    @property
    def minor(self) -> str:
        """First two numbers as text: "2.7"."""
        return ".".join(str(part) for part in (*self.release, 0)[:2])


def parse(text: Optional[str]) -> Optional[Version]:
    """Read a version; trailing zeros do not matter, a dev or rc release sorts before the final one."""
    found = _VERSION.match(text[:80]) if isinstance(text, str) else None
    if not found:
        return None
    release = tuple(int(part[:9]) for part in found.group(1).split("."))
    stage = _STAGES.get(found.group(2) or "", 0)
    number = int((found.group(3) or "0")[:9])
    if found.group(4) == "dev" and stage >= 0:
        stage, number = -4, int((found.group(5) or "0")[:9])
    shortened = list(release)
    while len(shortened) > 1 and shortened[-1] == 0:
        shortened.pop()
    return Version((tuple(shortened), stage, number), release, (found.group(6) or "").lower())


def minor_of(text: Optional[str]) -> Optional[str]:
    """ "2.7.1+cu128" -> "2.7"; None where the text is no version."""
    version = parse(text)
    return version.minor if version else None


def same_release(one: Optional[str], other: Optional[str]) -> bool:
    """Equal but for what follows the numbers: 2.7.1 and 2.7.1+cu128."""
    first, second = parse(one), parse(other)
    return first is not None and second is not None and first.release == second.release


def below(text: Optional[str], limit: str) -> bool:
    """True only when both are known and text < limit; the local tag does not count."""
    left, right = parse(text), parse(limit)
    return bool(left and right and left.key < right.key)


def at_least(text: Optional[str], limit: str) -> bool:
    """True only when both are known and text >= limit."""
    left, right = parse(text), parse(limit)
    return bool(left and right and left.key >= right.key)


def _clauses(spec: str) -> List[Tuple[str, str]]:
    found = (_CLAUSE.match(part) for part in spec.split(",") if part.strip() not in ("", "*"))
    return [(part.group(1), part.group(2)) for part in found if part]


def matches(text: Optional[str], spec: str) -> Optional[bool]:
    """Does a version fulfil a specifier? None where the version cannot be read. An empty specifier takes everything."""
    version = parse(text)
    if version is None:
        return None
    return all(_fulfils(version, operator, limit) for operator, limit in _clauses(spec))


def _fulfils(version: Version, operator: str, limit: str) -> bool:
    if limit.endswith(".*"):
        bound = parse(limit[:-2])
        same = bool(bound) and version.release[: len(bound.release)] == bound.release  # type: ignore[union-attr]
        return same if operator in ("==", "===") else not same
    bound = parse(limit)
    if bound is None:
        return True
    if operator == "~=":
        return version.key >= bound.key and version.release[: len(bound.release) - 1] == bound.release[:-1]
    if operator in ("==", "===", "!="):
        same = version.key == bound.key and (not bound.local or version.local == bound.local)
        return same != (operator == "!=")
    return {
        ">=": version.key >= bound.key,
        "<=": version.key <= bound.key,
        ">": version.key > bound.key,
        "<": version.key < bound.key,
    }[operator]


class _Interval(NamedTuple):
    low: Optional[Version]
    low_open: bool
    high: Optional[Version]
    high_open: bool


def _interval(spec: str) -> _Interval:
    low: Optional[Version] = None
    high: Optional[Version] = None
    low_open = high_open = False
    for operator, limit in _clauses(spec):
        bound = parse(limit[:-2] if limit.endswith(".*") else limit)
        if bound is None or operator == "!=":
            continue
        if operator in (">=", ">", "==", "===", "~=") and (low is None or bound.key >= low.key):
            low, low_open = bound, operator == ">"
        if limit.endswith(".*"):
            bound, operator = _next(bound), "<"
        if operator in ("<=", "<", "==", "===") and (high is None or bound.key <= high.key):
            high, high_open = bound, operator == "<"
    return _Interval(low, low_open, high, high_open)


def _next(version: Version) -> Version:
    """The end of "==0.20.*": 0.21."""
    parts = [*version.release[:-1], version.release[-1] + 1]
    return parse(".".join(map(str, parts))) or version


def implies(bounds: str, spec: str) -> bool:
    """Does every version inside `bounds` fulfil `spec`? Exclusions (!=) are not looked at."""
    inner, outer = _interval(bounds), _interval(spec)
    if outer.low is not None and (
        inner.low is None
        or inner.low.key < outer.low.key
        or (inner.low.key == outer.low.key and outer.low_open and not inner.low_open)
    ):
        return False
    return not (
        outer.high is not None
        and (
            inner.high is None
            or inner.high.key > outer.high.key
            or (inner.high.key == outer.high.key and outer.high_open and not inner.high_open)
        )
    )


def excludes(bounds: str, spec: str) -> bool:
    """Can no version inside `bounds` fulfil `spec`?"""
    one, other = _interval(bounds), _interval(spec)
    return _ends_before(one, other) or _ends_before(other, one)


def _ends_before(one: _Interval, other: _Interval) -> bool:
    if one.high is None or other.low is None:
        return False
    return one.high.key < other.low.key or (one.high.key == other.low.key and (one.high_open or other.low_open))
