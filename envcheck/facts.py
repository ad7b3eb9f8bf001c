"""The records every other file speaks in. Imports nothing of ours; None means "could not be read", never "fine"."""
from dataclasses import dataclass
from typing import Dict, Tuple

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing, in the one form that envcheck and kit both print.

    `details` are (label, value) lines that show the evidence; `fix` holds the exact commands or steps, in order;
    `source` says where the rule comes from.
    """

    id: str
    severity: str
    what: str
    why: str = ""
    fix: Tuple[str, ...] = ()
    details: Tuple[Tuple[str, str], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r} is none of {', '.join(SEVERITIES)}")

    def to_json(self) -> Dict[str, object]:
        return {
            "id": self.id,
            "severity": self.severity,
            "what": self.what,
            "why": self.why,
            "fix": list(self.fix),
            "details": {label: value for label, value in self.details},
            "source": self.source,
        }
