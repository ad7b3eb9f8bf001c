"""Texts for a page that is passed on: without what names the user or the machine."""

import re
from pathlib import Path
from typing import Any

from envcheck.report import redact_text

ABSOLUTE = re.compile(r"(?<![\w.~:/\\])(?:/(?:[^/\s\"'<>|:;,()]+/)+|[A-Za-z]:\\(?:[^\\\s\"'<>|:;,]+\\)+)(?=[^/\s])")


def without_folders(text: str) -> str:
    """Of an absolute path only the last part stays."""
    return ABSOLUTE.sub("…/", redact_text(text, (str(Path.home()),) if len(Path.home().parts) > 2 else ()))


def value_text(value: Any) -> str:
    """An option's value as text; of an absolute path only the last part, also with spaces in it."""
    if isinstance(value, list):
        return ", ".join(map(value_text, value)) or "–"
    if isinstance(value, str) and (value.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", value)):
        return "…/" + re.split(r"[\\/]", value.rstrip("/\\"))[-1]
    words = {None: "–", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else redact_text(str(value))
