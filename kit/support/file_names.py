"""Names of files that are made of a user's words: valid on Windows, macOS and Linux alike, for a folder may move."""

import hashlib
import re
import sys
from pathlib import Path, PureWindowsPath

from kit.support.errors import USAGE, failure
from kit.support.user_shell import quoted

LONGEST_CHARACTERS = 80  # of a name: a run's files lie 60 characters below it, and Windows takes 260 in all
LONGEST_BYTES = 200  # in UTF-8; Linux takes 255, and what is written beside a file has a longer name
HASH_CHARACTERS = 8
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]')
# Devices of Windows, whatever ending they have: learn.microsoft.com/windows/win32/fileio/naming-a-file
RESERVED = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|CLOCK\$|(?:COM|LPT)[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE)


def file_name(text: str) -> str:
    """The text as a name: what a system forbids is a dash, what is too long ends in a hash of all of it.

    >>> file_name("alpaca:train-Qwen3-4B"), file_name("nul.jsonl"), file_name("what is it? ..")
    ('alpaca-train-Qwen3-4B', '_nul.jsonl', 'what is it-')
    """
    name = FORBIDDEN.sub("-", text).strip(" .") or "_"
    name = f"_{name}" if _is_device(name) else name
    if len(name) <= LONGEST_CHARACTERS and len(name.encode()) <= LONGEST_BYTES:
        return name
    start = name[: LONGEST_CHARACTERS - HASH_CHARACTERS - 1].encode()[: LONGEST_BYTES - HASH_CHARACTERS - 1]
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{start.decode(errors='ignore')}-{digest[:HASH_CHARACTERS]}"


def _is_device(name: str) -> bool:
    return RESERVED.fullmatch(name.partition(".")[0].rstrip()) is not None


def check_names(path: Path, option: str) -> None:
    """Raises KitError, on Windows only: a path in which a name is none there, given with that option."""
    if sys.platform != "win32":
        return
    given = PureWindowsPath(str(path))
    names = [part for part in given.parts if part not in (given.anchor, "..")]
    wrong = [name for name in names if FORBIDDEN.search(name) or name != name.rstrip(" .") or _is_device(name)]
    if wrong:
        better = PureWindowsPath(*(file_name(part) if part in wrong else part for part in given.parts))
        raise failure(
            "name-not-for-windows",
            f"{wrong[0]} cannot be the name of a file or a folder on Windows.",
            'None there holds < > : " / \\ | ? *, ends in a dot or a space, or is a device such as CON or NUL.',
            f"{option} {quoted(better)}",
            status=USAGE,
        )
