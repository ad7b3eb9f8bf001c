"""How the text of a file is encoded: by its byte order mark or as UTF-8, checked, and never guessed in silence."""

import codecs
from pathlib import Path

from envcheck.facts import Finding
from kit.support.errors import failure, problem
from kit.support.user_shell import quoted, shell

GUESSED_BYTES = 1 << 16
BROKEN_LINES = 2
UNKNOWN = "GB18030"  # in the command, where the encoding could not be guessed
BOMS = {  # UTF-32 before UTF-16, whose mark its own begins with
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def detect(name: str, path: Path, head: bytes, whole: bool) -> tuple[str, tuple[Finding, ...]]:
    """The encoding, and a warning where other programs would stumble; `whole`: the head is the whole file.

    Raises KitError for text that is neither UTF-8 nor begins with the byte order mark of UTF-16 or UTF-32.
    """
    mark = next((mark for mark in BOMS if head.startswith(mark)), None)
    if mark is None:
        _check_utf8(name, path, head, whole)
        return "utf-8", ()
    encoding = BOMS[mark]
    if encoding == "utf-8-sig":
        id, what = "data-byte-order-mark", f"{name} begins with a byte order mark."
        why = "It is no part of the text and is passed over; other programs take it for the first character."
    else:
        id, what = "data-not-utf8", f"{name} is {encoding.upper()} and is read as that."
        why = "Its byte order mark says so. Other programs expect UTF-8."
    return encoding, (problem(id, what, why, _conversion(path, encoding), severity="warning"),)


def _check_utf8(name: str, path: Path, head: bytes, whole: bool) -> None:
    """Raises KitError where most of what is not ASCII is not UTF-8: then the whole file is written in another way.

    One or two wrong lines among others are broken lines of a good file, named when they are read.
    """
    lines = head.split(b"\n")
    others = [number for number, line in enumerate(lines, start=1) if not line.isascii()]
    wrong = {}
    guess: str | None
    for number in others:
        try:
            codecs.utf_8_decode(lines[number - 1], "strict", whole or number < len(lines))
        except UnicodeDecodeError as error:
            wrong[number] = f"line {number}, byte {error.start + 1} (0x{error.object[error.start]:02X})"
    if 4 * head.count(0) > len(head):  # every other byte of English text is 0 in UTF-16
        place, guess = "line 1 (bytes that are 0)", "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    elif 2 * len(wrong) > len(others) and not len(wrong) <= BROKEN_LINES < len(lines) - len(wrong):
        from charset_normalizer import from_bytes

        place = next(iter(wrong.values()))
        best = from_bytes(b"\n".join(lines[number - 1] for number in wrong)[:GUESSED_BYTES]).best()
        guess = best.encoding if best else None
    else:
        return
    raise failure(
        "data-not-utf8",
        f"{name} is not UTF-8.",
        "Its text would become other characters, so it must be converted first.",
        _conversion(path, guess or UNKNOWN),
        *([] if guess else [f"(with the file's real encoding in place of {UNKNOWN})"]),
        details={"first in": place, "looks like": guess or "no known encoding"},
    )


def _conversion(path: Path, encoding: str) -> str:
    """A command that writes the text as UTF-8 into a file beside it."""
    target = path.with_name(f"utf8-{path.name}")
    code = "import sys; a, b = sys.argv[1:]; open(b, 'wb').write(open(a, 'rb').read()"
    return shell().python(f"{code}.decode('{encoding}').encode())") + f" {quoted(path)} {quoted(target)}"
