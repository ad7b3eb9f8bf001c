"""The first cell: what it does when something is missing. Nothing is installed here."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def start(monkeypatch):
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.delitem(sys.modules, "start", raising=False)
    import start

    yield start
    sys.modules.pop("start")


@pytest.fixture
def installs(start, monkeypatch):
    """What would be installed; the status it ends with can be set."""
    calls = []
    monkeypatch.setattr(start.install, "main", lambda arguments: calls.append(arguments) or 0)
    monkeypatch.setattr(start.subprocess, "run", lambda command, check: calls.append(command))
    return calls


def test_where_everything_is_there_nothing_is_done(start, installs) -> None:
    start.prepare()
    assert installs == []
    assert Path.cwd() == FOLDER.parent


def test_into_the_environment_of_the_kernel(start, installs, monkeypatch) -> None:
    monkeypatch.setattr(start, "lacking", lambda: ["trl==1.14.2"])
    start.prepare()
    assert installs == [["--venv", str(Path(sys.prefix))]]


def test_never_into_the_systems_python(start, installs, monkeypatch) -> None:
    monkeypatch.setattr(start, "lacking", lambda: ["trl==1.14.2"])
    monkeypatch.setattr(start.sys, "prefix", sys.base_prefix)
    with pytest.raises(start.Stop, match="Change kernel"):
        start.prepare()
    assert installs[0] == ["--venv", str(FOLDER.parent / ".venv"), "--notebooks"]
    assert installs[1][1:4] == ["-m", "ipykernel", "install"]


def test_a_failed_installation_stops_the_cells(start, monkeypatch) -> None:
    monkeypatch.setattr(start, "lacking", lambda: ["trl==1.14.2"])
    monkeypatch.setattr(start.install, "main", lambda arguments: 1)
    with pytest.raises(start.Stop) as stop:
        start.prepare()
    assert stop.value._render_traceback_() == [str(stop.value)]


def test_it_needs_the_standard_library_only() -> None:
    code = "import sys; sys.path.insert(0, '.'); import start; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "numpy", "rich", "pydantic"} & set(done.stdout.split())
