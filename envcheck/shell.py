"""Commands as the user's own shell takes them. Pure; imports facts only.

Every fix line is either a command for that shell or a comment ("# ..."), so that a whole fix can be pasted as it is:
sh on Linux, WSL and macOS, PowerShell on Windows, a notebook cell on Colab and Kaggle.
"""

import re
import shlex
from typing import Optional, Sequence

from envcheck.facts import Facts

PLAIN_FOR_POWERSHELL = re.compile(r"[\w.:\\/+=~-]+")
READ_IN_QUOTES = re.compile('[$`"\u201c\u201d\u201e]')  # what double quotes of PowerShell do not take as it is
SINGLE_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")  # all of them are one to PowerShell
WHEELS = "https://download.pytorch.org/whl/"


def is_comment(line: str) -> bool:
    return line.startswith("# ")


class Shell:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.bang = "!" if facts.is_notebook else ""

    def pip(self, arguments: str) -> str:
        """ "install x" -> "python -m pip install x": the interpreter that runs the training, not any other pip."""
        return f"{self.bang}python -m pip {arguments}"

    def install(self, *packages: str) -> str:
        """Requirements with < or > are quoted: both shells would read them as redirection."""
        return self.pip(
            "install " + " ".join(f'"{item}"' if re.search(r"[<>!*;\[]", item) else item for item in packages)
        )

    def python(self, code: str) -> str:
        return f'{self.bang}python -c "{code}"'

    def run(self, command: str) -> str:
        """Any other program of the machine; the notebook needs the exclamation mark."""
        return self.bang + command

    def quote(self, word: str) -> str:
        """One word of a command, whatever is in it: a path with spaces, above all."""
        if not self.facts.is_windows:
            return shlex.quote(word)
        if PLAIN_FOR_POWERSHELL.fullmatch(word):
            return word
        if READ_IN_QUOTES.search(word) or word.endswith("\\"):
            return "'" + SINGLE_QUOTES.sub(r"\1\1", word) + "'"
        return f'"{word}"'  # cmd.exe reads these too

    def command(self, words: Sequence[str]) -> str:
        """A program with its arguments; a name in quotes is only a text to PowerShell, if no & stands before it."""
        typed = " ".join(map(self.quote, words))
        return f"& {typed}" if self.facts.is_windows and typed.startswith(("'", '"')) else typed

    def with_env(self, name: str, value: str, command: str) -> str:
        """A command with a variable; in PowerShell it stays set."""
        if self.facts.is_windows:
            return f"{self.set_env(name, value)}; {command}"
        return f"{self.bang}{name}={value} {command}"

    def copy(self, source: str, target: str) -> str:
        """A file or a folder with all that is in it."""
        words = f"{self.quote(source)} {self.quote(target)}"
        return f"Copy-Item -Recurse {words}" if self.facts.is_windows else self.run(f"cp -r {words}")

    def copy_over_link(self, source: str, link: str) -> str:
        """A file in place of a link to it."""
        source, link = self.quote(source), self.quote(link)
        if self.facts.is_windows:
            return f"Remove-Item {link}; Copy-Item {source} {link}"
        return self.run(f"rm {link} && cp {source} {link}")

    def show_rights(self, path: str) -> str:
        """Who may read and write a file or a folder."""
        return f"icacls {self.quote(path)}" if self.facts.is_windows else self.run(f"ls -ld {self.quote(path)}")

    def make_folder(self, path: str) -> str:
        """With the folders above it."""
        return f"mkdir {self.quote(path)}" if self.facts.is_windows else self.run(f"mkdir -p {self.quote(path)}")

    def post_json(self, address: str, body: str) -> str:
        if self.facts.is_windows:
            return f"Invoke-RestMethod {address} -Method Post -ContentType application/json -Body {self.quote(body)}"
        return self.run(f"curl {address} -H 'Content-Type: application/json' -d {self.quote(body)}")

    def pipe_utf8(self) -> str:
        """What makes it pass text to programs as UTF-8; "" where it does so anyway."""
        return "$OutputEncoding = [Text.Encoding]::UTF8" if self.facts.is_windows else ""

    def set_env(self, name: str, value: str) -> str:
        if self.facts.is_windows:
            return f'$env:{name} = "{value}"'
        if self.facts.is_notebook:
            return f'import os; os.environ["{name}"] = "{value}"  # before torch is imported: restart the session first'
        return f"export {name}={value}"

    def unset_env(self, name: str) -> str:
        if self.facts.is_windows:
            return f"Remove-Item Env:{name}"
        if self.facts.is_notebook:
            return f'import os; os.environ.pop("{name}", None)'
        return f"unset {name}"

    def new_venv(self, version: str) -> str:
        """A fresh environment with this Python, such as "3.12"."""
        if self.facts.is_windows:
            return f"py -{version} -m venv .venv; .venv\\Scripts\\Activate.ps1"
        return f"python{version} -m venv .venv && . .venv/bin/activate"

    def apt(self, packages: str, dnf: Optional[str] = None) -> str:
        """System packages with the package manager that the facts name; apt where the distribution is not known."""
        system = (self.facts.os or "").lower()
        if re.search(r"fedora|rhel|red hat|rocky|alma|centos|amazon", system):
            return f"sudo dnf install {dnf or packages}"
        if re.search(r"arch|manjaro", system):
            return f"sudo pacman -S {dnf or packages}"
        if "suse" in system:
            return f"sudo zypper install {dnf or packages}"
        root = self.facts.is_container or self.facts.is_notebook
        return (
            f"{self.bang}{'' if root else 'sudo '}apt-get update && {'' if root else 'sudo '}apt-get install -y "
            f"{packages}"
        )
