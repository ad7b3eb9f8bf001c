"""What a cause is: one page of text and one function that writes the fix for the machine at hand."""

import re
from typing import Callable, Dict, NamedTuple, Sequence, Tuple

from envcheck.facts import Facts, Finding
from envcheck.shell import Shell, is_comment

FixWriter = Callable[[Shell, Facts], Sequence[str]]
UNKNOWN_MACHINE = Facts()
PLACEHOLDER = re.compile(
    r"\.\.\.|\b(?:IMAGE|PACKAGE|PROXY|PORT|DIR|ORGANISATION)\b|/path/on/|\b(?:train\.py|error\.txt)\b"
)


class Cause(NamedTuple):
    """One id with its page. `check`: how to see for oneself; `source`: where the knowledge comes from."""

    id: str
    severity: str
    title: str
    why: str
    check: str
    source: str
    write_fix: FixWriter

    def fix(self, facts: Facts = UNKNOWN_MACHINE) -> Tuple[str, ...]:
        """Commands and comments for the shell of this machine, in order."""
        return tuple(map(safe_to_paste, self.write_fix(Shell(facts), facts)))


def safe_to_paste(line: str) -> str:
    """A command with a placeholder becomes a comment: pasted as it is it would do something wrong."""
    open_place = PLACEHOLDER.search(line) and not is_comment(line)
    return f"# fill in, then: {line}" if open_place else line


CAUSES: Dict[str, Cause] = {}


def cause(
    cause_id: str, severity: str, title: str, why: str, check: str, source: str
) -> Callable[[FixWriter], FixWriter]:
    """Register the decorated function as the fix of this id."""

    def register(write_fix: FixWriter) -> FixWriter:
        if cause_id in CAUSES:
            raise ValueError(f"{cause_id} is registered twice")
        CAUSES[cause_id] = Cause(cause_id, severity, title, why, check, source, write_fix)
        return write_fix

    return register


def finding(
    cause_id: str,
    facts: Facts,
    what: str = "",
    details: Sequence[Tuple[str, str]] = (),
    severity: str = "",
    fix: Sequence[str] = (),
) -> Finding:
    """A finding of this cause: its page fills whatever the caller does not say."""
    page = CAUSES[cause_id]
    return Finding(
        id=cause_id,
        severity=severity or page.severity,
        what=what or page.title,
        why=page.why,
        fix=tuple(fix) or page.fix(facts),
        details=tuple(details),
        source=page.source,
    )
