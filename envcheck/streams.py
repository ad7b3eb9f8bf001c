"""Standard input, output and error as every program here has them: nothing that is printed is an error, and what goes
into a file or a pipe is whole.

Python takes the encoding of the system for them: on Windows a code page that has neither Chinese nor a box's lines, and
refuses the rest.
"""

import codecs
import contextlib
import errno
import io
import os
import re
import sys
import unicodedata
from typing import Tuple

PLAIN = "as-plain-characters"  # the name of `_plain` among the handlers of encoding errors

SHAPES = (  # words in the name that Unicode gives a character
    (r"^BOX .* AND ", "+"), (r"^BOX .*(?:HORIZONTAL|LEFT|RIGHT)", "-"), (r"^BOX ", "|"), (r"BLOCK|SHADE", "#"),
    (r"BRAILLE|BULLET", "*"), (r"DASH|MINUS SIGN$", "-"), (r"RIGHTWARDS ARROW", ">"), (r"MULTIPLICATION", "x"),
    (r"SINGLE.*QUOTATION", "'"), (r"DOUBLE.*QUOTATION", '"'),
)  # fmt: skip


def prepare() -> None:
    """Before anything is printed. Files and pipes are UTF-8; a terminal keeps its encoding, and gets a plain character
    for each that it cannot show."""
    codecs.register_error(PLAIN, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if stream.isatty():
                stream.reconfigure(errors=PLAIN)
                if sys.platform == "win32":
                    os.system("")  # after any command its console takes codes for colours, which it else shows
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # half a character, as JSON writes it
    if isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.isatty():
        with contextlib.suppress(io.UnsupportedOperation):  # read from already
            sys.stdin.reconfigure(encoding="utf-8-sig")


def _plain(error: UnicodeError) -> Tuple[str, int]:
    """For codecs.register_error: what stands in place of characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain_character, error.object[error.start : error.end])), error.end


def _plain_character(character: str) -> str:
    """One of ASCII: what a table or a bar is drawn with by its shape, a letter without its accent, or "?".

    >>> "".join(map(_plain_character, "─│┼█→–…é你"))
    '-|+#>-.e?'
    """
    name = unicodedata.name(character, "")
    by_shape = next((plain for words, plain in SHAPES if re.search(words, name)), "")
    return by_shape or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()[:1] or "?"


def is_closed_pipe(error: OSError) -> bool:
    """Whether it is said of standard output that nobody reads it any more, as after `| head`."""
    if isinstance(error, BrokenPipeError):
        return True
    if sys.platform != "win32" or error.errno != errno.EINVAL or error.filename is not None:
        return False
    try:  # Windows says "invalid argument", which may be said of anything: so the pipe is asked
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


def leave_pipe() -> None:
    """Nothing more goes to standard output: the flush at the exit must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
