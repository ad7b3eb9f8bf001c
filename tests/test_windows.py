"""What Windows has not, or does otherwise, is nowhere used as if it had: read from the source, for no test runs there.

Its renames, names, encodings, shells and signals have tests of their own: kit/test_files.py, kit/test_file_names.py,
test_streams.py, test_user_shell.py, kit/test_signals.py.
"""

import ast
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("kit", "envcheck", "notebooks", "scripts", "benchmarks")
NO_MODULES = {"crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd", "readline", "resource",
              "spwd", "syslog", "termios", "tty"}  # fmt: skip
NO_NAMES = {  # docs.python.org: "Availability: Unix, not Windows" and "Unix"
    "os": {
        "WNOHANG", "chflags", "chown", "chroot", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid",
        "getgroups", "getloadavg", "getpgid", "getpgrp", "getpriority", "getresuid", "getsid", "getuid", "killpg",
        "lchown", "lockf", "mkfifo", "mknod", "nice", "openpty", "posix_fadvise", "posix_fallocate", "posix_spawn",
        "pread", "pwrite", "sched_getaffinity", "sched_setaffinity", "sendfile", "setegid", "seteuid", "setgid",
        "setpgid", "setpriority", "setsid", "setuid", "statvfs", "sync", "sysconf", "tcgetpgrp", "uname", "wait",
        "wait3", "wait4", "waitid",
    },
    "signal": {
        "ITIMER_REAL", "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP",
        "SIGUSR1", "SIGUSR2", "SIGWINCH", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait",
    },
    "socket": {"AF_UNIX"},
    "time": {"tzset"},
}  # fmt: skip
DIFFERENT = {  # it is there, and does something else, or only for administrators
    "os": {"kill": "ends any process there, whatever the number of the signal: signal.raise_signal, or psutil",
           "symlink": "needs a right that users do not have", "link": "not on every disk",
           "name": "cannot be tested elsewhere: sys.platform"},
    "tempfile": {"NamedTemporaryFile": "cannot be opened a second time there"},
}  # fmt: skip
ASKED = ("hasattr", "getattr", "sys.platform", "ImportError")  # what a place that knows of the difference has in it
Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def done_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Whatever runs when a module is imported: not the insides of functions, but their decorators and defaults."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda):
            outside = [
                *getattr(child, "decorator_list", ()),
                *child.args.defaults,
                *filter(None, child.args.kw_defaults),
            ]
            for part in outside:
                yield part
                yield from done_on_import(part)
        elif not (isinstance(child, ast.If) and any(asked in ast.unparse(child.test) for asked in ASKED)):
            yield child
            yield from done_on_import(child)


def lacking(node: ast.AST) -> str:
    """What Windows has not of what the node names, "" if nothing."""
    if isinstance(node, ast.Import):
        return next((alias.name for alias in node.names if alias.name.split(".")[0] in NO_MODULES), "")
    if isinstance(node, ast.ImportFrom) and node.module:
        named = NO_NAMES.get(node.module, set())
        if node.module.split(".")[0] in NO_MODULES:
            return node.module
        return next((f"{node.module}.{alias.name}" for alias in node.names if alias.name in named), "")
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return ast.unparse(node) if node.attr in NO_NAMES.get(node.value.id, ()) else ""
    return ""


def places(path: Path, nodes: Iterator[ast.AST]) -> list[str]:
    return [f"{path.relative_to(ROOT).as_posix()}:{node.lineno}: {name}" for node in nodes if (name := lacking(node))]


@pytest.mark.parametrize("package", ["tests", *PRODUCT])
def test_a_module_can_be_imported_on_windows(package: str) -> None:
    assert [place for path in python_files(package) for place in places(path, done_on_import(tree(path)))] == []


def test_a_program_asks_before_it_uses_what_windows_lacks() -> None:
    """In the function itself: `hasattr(os, "wait4")`, `sys.platform`, or the ImportError of a module."""
    found = []
    for path in python_files(*PRODUCT):
        for function in (node for node in ast.walk(tree(path)) if isinstance(node, Function)):
            if not any(asked in ast.unparse(function) for asked in ASKED):
                found += places(path, ast.walk(function))
    assert found == []


@pytest.mark.parametrize("source", [
    "import resource", "from os import fork", "@mark.skipif(os.geteuid() == 0)\ndef test(): pass",
    "KINDS = [signal.SIGKILL]", "class A:\n    number = signal.SIGHUP", "def f(number=signal.SIGKILL): pass",
])  # fmt: skip
def test_what_windows_lacks_is_seen(source: str) -> None:
    assert any(map(lacking, done_on_import(ast.parse(source))))


@pytest.mark.parametrize("source", [
    "def f():\n    import resource", "if hasattr(os, 'fork'):\n    os.fork()", "signal.SIGTERM", "os.getpid()",
    "if sys.platform != 'win32':\n    import fcntl",
])  # fmt: skip
def test_nothing_else_is(source: str) -> None:
    assert not any(map(lacking, done_on_import(ast.parse(source))))


def test_the_lists_are_of_names_that_there_are() -> None:
    """A misspelt name would be found nowhere."""
    if os.name == "posix":
        known = {"os": dir(os), "signal": dir(signal)}
        elsewhere = {"chflags", "lockf", "nice"}  # not on every Unix
        assert {name for module in known for name in NO_NAMES[module] - set(known[module])} <= elsewhere


def test_what_is_another_thing_on_windows_is_not_used() -> None:
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{node.lineno}: {ast.unparse(node)} {DIFFERENT[node.value.id][node.attr]}"
        for path in python_files(*PRODUCT)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.attr in DIFFERENT.get(node.value.id, ())
    ]
    assert not found, "\n".join(found)


def calls(*packages: str) -> Iterator[tuple[str, str, ast.Call]]:
    """(place, name of what is called, the call)."""
    for path in python_files(*packages):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                yield f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", name, node


def mode(call: ast.Call) -> str:
    """That a file is opened with."""
    position = 1 if isinstance(call.func, ast.Name) else 0
    given = [word.value for word in call.keywords if word.arg == "mode"] or call.args[position : position + 1]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else "r"


def is_open(name: str, call: ast.Call) -> bool:
    """That of the language or of a path; not os.open, and not a method of ours that takes other things."""
    is_method = isinstance(call.func, ast.Attribute)
    if name != "open" or (is_method and (ast.unparse(call.func.value) == "os" or not all(map(is_constant, call.args)))):
        return False
    return set(mode(call)) <= set("rwxabt+")


def is_constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant)


def test_text_names_its_encoding() -> None:
    """Else it is the code page of the machine."""
    found = []
    for place, name, call in calls(*PRODUCT):
        words = {word.arg for word in call.keywords}
        if name == "read_text" or name == "write_text":
            is_named = "encoding" in words or len(call.args) > (name == "write_text")
        elif is_open(name, call) and "b" not in mode(call):
            is_named = "encoding" in words
        elif name in ("run", "Popen", "check_output", "TemporaryFile"):
            is_named = "encoding" in words or not words & {"text", "universal_newlines"}
        else:
            continue
        if not is_named and None not in words:
            found.append(f"{place}: {ast.unparse(call)[:80]}")
    assert not found, "\n".join(found)


def test_text_that_is_kept_has_the_same_ends_of_lines_everywhere() -> None:
    """Its bytes are compared and hashed: checksums of checkpoints, a run repeated, a figure in git."""
    found = [
        f"{place}: {ast.unparse(call)[:80]}"
        for place, name, call in calls("kit", "envcheck", "notebooks", "scripts", "benchmarks")
        if name == "write_text" or (is_open(name, call) and set(mode(call)) & set("wax") and "b" not in mode(call))
        if "newline" not in {word.arg for word in call.keywords}
        if ast.unparse(call.func) not in OF_A_RUN
    ]
    assert not found, "\n".join(found)


OF_A_RUN = ("self.write_text", "folder.write_text", "self.folder.write_text")  # RunFolder's own, by write_whole


def git(*arguments: object) -> str:
    command = ["git", "-C", str(ROOT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_a_checkout_on_windows_has_the_same_bytes(tmp_path: Path) -> None:
    """With core.autocrlf, which Git for Windows sets."""
    git("-c", "core.autocrlf=true", "-c", "core.eol=crlf", "checkout-index", "--all", "--prefix", f"{tmp_path}/")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".safetensors", ".xz")]
    assert len(written) > 300
    assert [path.name for path in written if b"\r\n" in path.read_bytes()] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
@pytest.mark.parametrize("name", ["x.safetensors", "x.png", "x.xlsx", "x.parquet", "x.gguf", "x.arrow", "x.json.xz"])
def test_what_is_no_text_is_left_as_it_is(name: str) -> None:
    assert git("check-attr", "text", name).strip() == f"{name}: text: unset"
