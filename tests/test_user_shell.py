"""Commands in findings are those of the user's shell, and a path in them is one word whatever is in it."""

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.file_download  # it asks for the system when it is imported
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envcheck.facts import Facts
from envcheck.shell import Shell
from kit import models
from kit.data.rows import hub, sources
from kit.export.options import MergeCommand
from kit.run import tuned
from kit.run.folder import cannot_write
from kit.support.user_shell import quoted, shell
from tests.support.results import finding_of

ROOT = Path(__file__).parents[1]
SH, POWERSHELL = Shell(Facts(os="Ubuntu 24.04")), Shell(Facts(os="Windows 11"))
AWKWARD = (r"C:\Users\Jane Doe\it's $HOME", "a b", "", "don’t", "“x”", "`n", "a,b", "@x", "C:\\", "C:\\my files\\")


def read_by_powershell(command: str) -> list[str]:
    """Words as PowerShell takes them: bare, in double quotes that hold nothing it would replace, in single quotes."""
    words, rest = [], command
    while rest:
        if bare := re.match(r"[\w.:\\/+=~-]+", rest):
            words.append(bare[0])
            rest = rest[bare.end() :]
        elif double := re.match('"([^"$`\u201c\u201d\u201e]*)"', rest):
            words.append(double[1])
            rest = rest[double.end() :]
        else:
            single = re.match("'((?:[^'\u2018-\u201b]|['\u2018-\u201b]{2})*)'", rest)
            assert single, rest
            words.append(re.sub("(['\u2018-\u201b])\\1", r"\1", single[1]))
            rest = rest[single.end() :]
        assert not rest or rest.startswith(" "), command
        rest = rest.removeprefix(" ")
    return words


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=3))
@example(list(AWKWARD))
def test_a_word_is_one_word(words: list[str]) -> None:
    assert shlex.split(" ".join(map(SH.quote, words))) == words
    assert read_by_powershell(" ".join(map(POWERSHELL.quote, words))) == words


def test_a_plain_path_is_typed_as_it_is() -> None:
    assert POWERSHELL.quote(r"C:\runs\x-1") == r"C:\runs\x-1"
    assert POWERSHELL.quote(r"C:\my runs\x") == r'"C:\my runs\x"', "cmd.exe reads no other quotes"
    assert SH.quote("runs/x-1") == "runs/x-1"


def test_a_program_in_a_folder_with_spaces_is_started() -> None:
    assert POWERSHELL.command(["C:\\my files\\python.exe", "-m", "pip"]) == '& "C:\\my files\\python.exe" -m pip'
    assert POWERSHELL.command(["python", "a b"]) == 'python "a b"'
    assert SH.command(["/my files/python", "-m", "pip"]) == "'/my files/python' -m pip"


def test_each_command_in_the_words_of_both_shells() -> None:
    both = [
        (one.with_env("A", "1", "run"), one.copy("a b", "c"), one.copy_over_link("a", "b"), one.show_rights("a b"),
         one.make_folder("a"), one.post_json("http://x", '{"a": 1}'), one.set_env("A", "1"), one.unset_env("A"))
        for one in (SH, POWERSHELL)
    ]  # fmt: skip
    assert list(zip(*both, strict=True)) == [
        ("A=1 run", '$env:A = "1"; run'),
        ("cp -r 'a b' c", 'Copy-Item -Recurse "a b" c'),
        ("rm b && cp a b", "Remove-Item b; Copy-Item a b"),
        ("ls -ld 'a b'", 'icacls "a b"'),
        ("mkdir -p a", "mkdir a"),
        ("curl http://x -H 'Content-Type: application/json' -d '{\"a\": 1}'",
         "Invoke-RestMethod http://x -Method Post -ContentType application/json -Body '{\"a\": 1}'"),
        ("export A=1", '$env:A = "1"'),
        ("unset A", "Remove-Item Env:A"),
    ]  # fmt: skip


def test_the_shell_is_that_of_this_machine(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert shell().facts.is_windows
    assert quoted(Path("a b")) == '"a b"'
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    assert quoted(Path("a b")) == "'a b'"


# Where a command for a shell stands in the kit, and what it is there on Windows.


def unreadable(path: Path):
    return cannot_write(path / "manifest.json", PermissionError(13, "Permission denied"))


def test_findings_on_windows(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "my run"
    folder.mkdir()
    place = f'"{folder}"'
    assert f"icacls {place}       (shows who may write)" in unreadable(folder).fix
    assert finding_of(sources.find_files, [str(folder / "rows.jsonl")]).fix[0] == "--data examples/identity.jsonl"
    (folder / "row.jsonl").touch()
    assert f'--data "{folder / "row.jsonl"}"' in finding_of(sources.find_files, [str(folder / "rows.jsonl")]).fix
    assert finding_of(models.find, "owner/never-downloaded").fix[0] == "Remove-Item Env:HF_HUB_OFFLINE"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub._unreachable("owner/name", OSError()).findings[0].fix[0] == "Remove-Item Env:HF_HUB_OFFLINE"
    (folder / "run.toml").touch()
    assert place in finding_of(tuned.find_adapter, folder).fix[0]
    assert MergeCommand(source=folder, output=folder)


# The kind: whatever is written later.

POSIX = re.compile(
    r"(?:^|&& |; |\| )(?:sudo |!)?(?:ls|cp|mv|rm|ln|cat|unset|export|kill|chmod|chown|df|du|sed|grep|head|tail|which|"
    r"source|touch|nohup|env|find|mkdir|iconv|curl|wget|ps|lsof|fuser) +[-\w~/.$'\"{]|^[A-Z][A-Z_]+=\S* +\w| && |\\$"
)
SAID = ("failure", "problem", "note", "say")
PATHS = re.compile(r"path|folder|output|parent|location|place\b|source\b|target\b")


def spoken() -> Iterator[tuple[str, ast.expr]]:
    """(file and line, text) of all that a finding or a note of the kit says."""
    for file in sorted((ROOT / "kit").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if name in SAID:
                for text in node.args[3:] if name in ("failure", "problem") else node.args[:1]:
                    yield f"{file.relative_to(ROOT).as_posix()}:{text.lineno}", text


def pieces(text: ast.expr) -> Iterator[str]:
    """The literal texts in it, an f-string's values as {}."""
    inside = {piece for node in ast.walk(text) if isinstance(node, ast.JoinedStr) for piece in ast.walk(node)}
    for node in ast.walk(text):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield node.value


def test_no_finding_has_words_of_one_shell_only() -> None:
    assert [(place, said) for place, text in spoken() for said in pieces(text) if POSIX.search(said)] == []


@pytest.mark.parametrize("said", ["ls -ld {}", "cp -r {} {}", "unset X", "KIT_CACHE=F python -m kit.train", "a && b"])
def test_the_words_of_one_shell_are_seen(said: str) -> None:
    assert POSIX.search(said)


def commands() -> Iterator[tuple[str, ast.JoinedStr]]:
    for place, text in spoken():
        for node in ast.walk(text):
            if isinstance(node, ast.JoinedStr) and node.values and isinstance(node.values[0], ast.Constant):
                yield place, node


def test_a_path_in_a_command_is_quoted() -> None:
    """C:\\Users\\Jane Doe is where half of the users are."""
    typed = re.compile(r"^(?:python |git |hf |ollama |kit |-)")
    bare = [
        (place, ast.unparse(value.value))
        for place, node in commands()
        if typed.match(str(node.values[0].value))
        for value in node.values
        if isinstance(value, ast.FormattedValue) and PATHS.search(ast.unparse(value.value))
        and not ast.unparse(value.value).startswith(("quoted(", "' '.join(map(quoted"))
    ]  # fmt: skip
    assert not bare, "\n".join(map(str, bare))
