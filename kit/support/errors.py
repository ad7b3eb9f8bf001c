"""One form for everything that can go wrong: a KitError carries findings, and the front doors print them and stop."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from envcheck import report
from envcheck.facts import Finding

FAILED, USAGE, INTERRUPTED = 1, 2, 130
LEAST_PREFIX = 3  # letters that may stand for a longer name
Item = TypeVar("Item")
Made = TypeVar("Made")


class KitError(Exception):
    """One or more findings that end the command with exit status `status` (1 failed, 2 wrong usage)."""

    def __init__(self, *findings: Finding, status: int = FAILED):
        super().__init__("; ".join(f"{finding.id}: {finding.what}" for finding in findings))
        self.findings = findings
        self.status = status

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in place of a traceback."""
        return report.render_all(self.findings).splitlines()


def problem(
    id: str, what: str, why: str, *fix: str, details: Mapping[str, object] | None = None, severity: str = "error"
) -> Finding:
    """A finding of the kit; `details` become its evidence lines."""
    rows = tuple((label, str(value)) for label, value in (details or {}).items())
    return Finding(id=id, severity=severity, what=what, why=why, fix=fix, details=rows)


def failure(
    id: str, what: str, why: str, *fix: str, details: Mapping[str, object] | None = None, status: int = FAILED
) -> KitError:
    """An error of one finding, to be raised."""
    return KitError(problem(id, what, why, *fix, details=details), status=status)


def stop_on_errors(findings: Iterable[Finding]) -> None:
    """Raise one KitError with every finding of severity `error`, if there is any."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise KitError(*errors)


def for_each(call: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """call(item) of each. Raises one KitError with the findings of all items that raise one, each said once."""
    made: list[Made] = []
    errors: list[KitError] = []
    for item in items:
        try:
            made.append(call(item))
        except KitError as error:
            errors.append(error)
    if errors:
        findings = dict.fromkeys(finding for error in errors for finding in error.findings)
        raise KitError(*findings, status=max(error.status for error in errors))
    return made


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing, as Python's own MemoryError."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def describe_error(error: BaseException) -> str:
    """Its kind, and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def explain_error(error: BaseException) -> str:
    """All that an error says, for a record: of a KitError what and why, without the advice."""
    findings = error.findings if isinstance(error, KitError) else ()
    return " ".join(f"{finding.what} {finding.why}" for finding in findings) or f"{type(error).__name__}: {error}"


def near_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one is nearest to, if any is near: compared without dashes, underscores and
    capitals, one that begins with it before one that only looks like it."""
    plain = {plain_name(other): other for other in reversed(list(known))}  # of two that are equal, the first
    if not (wanted := plain_name(name)):
        return None
    longer = [other for other in reversed(plain) if len(wanted) >= LEAST_PREFIX and other.startswith(wanted)]
    near = longer or difflib.get_close_matches(wanted, list(plain), n=1, cutoff=0.6)
    return plain[near[0]] if near else None


def plain_name(name: str) -> str:
    """A name as names are compared: without dashes, underscores, points and capitals."""
    return re.sub(r"[-_.]", "", name.lower())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'Did you mean X?' for a misspelt name, '' where no known name is near."""
    near = near_name(name, known)
    return f"Did you mean {near}?" if near else ""


class RowError(ValueError):
    """A row that cannot be trained on: `code` names the kind, the text says what is wrong."""

    def __init__(self, code: str, text: str):
        super().__init__(text)
        self.code = code
