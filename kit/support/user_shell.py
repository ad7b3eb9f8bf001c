"""Commands in the words of the shell that the user types them into: PowerShell on Windows, sh elsewhere."""

from pathlib import Path

from envcheck.facts import Facts
from envcheck.shell import Shell


def shell() -> Shell:
    """Of this machine."""
    from envcheck.probe.system import os_name  # here, not above: only a finding needs it

    return Shell(Facts(os=os_name()))


def quoted(path: str | Path) -> str:
    """A path, or another value, as one word of a command."""
    return shell().quote(str(path))
