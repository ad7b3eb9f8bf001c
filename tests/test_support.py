"""What all tests lean on: a forgotten mark is seen, and a program in a fork is a program."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.processes import run_python

FORGOTTEN = """
import importlib.util, os, subprocess, sys
import pytest

def test_itself():
    import torch

def test_itself_and_goes_on():
    try:
        import transformers
    except ImportError:
        pass

def test_in_a_child():
    subprocess.run([sys.executable, "-c", "import peft"], stderr=subprocess.DEVNULL)

def test_only_whether_it_is_installed():
    assert importlib.util.find_spec("torch")

@pytest.mark.torch
def test_marked():
    assert "KIT_TESTS_REFUSED_IMPORTS" not in os.environ
"""


def test_a_test_that_starts_torch_unmarked_fails_and_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "test_forgotten.py"
    file.write_text(FORGOTTEN)
    done = run_python("-m", "pytest", "-p", "tests.support.tiers", "-p", "no:cacheprovider", "--noconftest", "-q", file)
    assert "3 failed, 2 passed" in done.stdout
    for name, library in (("itself", "torch"), ("itself_and_goes_on", "transformers"), ("in_a_child", "peft")):
        assert f"test_{name} imports {library}, itself or in a child process: mark it with @pytest.mark.torch" in (
            " ".join(done.stdout.split())
        )


PROGRAM = """
import os, sys
print(input(), os.environ["WORD"], sys.argv[1], "torch" in sys.modules, "unsloth" in sys.modules)
print("said", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.torch
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system: every program starts afresh")
@pytest.mark.parametrize(("libraries", "there"), [("", "False False"), ("hf", "True False"), ("unsloth", "True True")])
def test_a_program_has_its_input_environment_arguments_and_status(libraries: str, there: str) -> None:
    for status in (0, 3):
        done = run_python("-c", PROGRAM, status, libraries=libraries, env={"WORD": "b"}, input="a\n")
        assert (done.returncode, done.stdout, done.stderr) == (status, f"a b {status} {there}\n", "said\n")


@pytest.mark.torch
@pytest.mark.parametrize("libraries", ["", "hf"])
def test_an_error_is_a_traceback_and_a_signal_a_status(libraries: str) -> None:
    done = run_python("-c", "1 / 0", libraries=libraries)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    if sys.platform != "win32":
        assert run_python("-c", "import os; os.kill(os.getpid(), 9)", libraries=libraries).returncode == -9
