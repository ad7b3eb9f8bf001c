"""What all tests lean on: a forgotten mark is seen, and a program in a fork is a program."""

import os
import sys
from pathlib import Path

import pytest

from envcheck.probe import nvidia
from tests.support.paper_card import cards, nvidia_smi
from tests.support.processes import run_python
from tests.support.spreading import group_of

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


@pytest.mark.parametrize(
    ("order", "asked", "names"),
    [
        (None, None, ["RTX 5080", "RTX 3090"]),
        ("PCI_BUS_ID", None, ["RTX 3090", "RTX 5080"]),
        ("PCI_BUS_ID", "1", ["RTX 5080"]),
        (None, "0", ["RTX 5080"]),
        (None, "GPU-00000000-0000-0000-0000-000000000000", ["RTX 3090"]),
        (None, "", []),
    ],
)
def test_paper_cards_are_counted_as_cuda_counts(order, asked, names, monkeypatch) -> None:
    monkeypatch.setenv(cards.CARDS, "rtx3090 rtx5080")
    for name, value in (("CUDA_DEVICE_ORDER", order), ("CUDA_VISIBLE_DEVICES", asked)):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    assert [card.name.removeprefix("NVIDIA GeForce ") for card in cards.visible()] == names


def test_envcheck_reads_what_the_paper_cards_nvidia_smi_prints(monkeypatch, capsys) -> None:
    monkeypatch.setenv(cards.CARDS, "rtx5080 t4")
    nvidia_smi.main(["--query-gpu=" + ",".join(nvidia.FIELDS), "--format=csv,noheader,nounits"])
    found = nvidia.parse_cards(capsys.readouterr().out)
    assert [(gpu.name, gpu.compute_capability) for gpu in found["gpu"]] == [
        ("NVIDIA GeForce RTX 5080", "12.0"), ("Tesla T4", "7.5"),
    ]  # fmt: skip
    assert found["unread"] == []


def test_tests_of_the_paper_card_go_to_one_process_and_others_file_by_file() -> None:
    assert group_of("tests/card/test_a.py::test_x") == group_of("tests/card/test_b.py::test_y")
    assert group_of("tests/kit/test_a.py::test_x") != group_of("tests/kit/test_b.py::test_y")
