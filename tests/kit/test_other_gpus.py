"""AMD, Intel and Apple: every door says that this GPU is not used, and nothing uses it."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from envcheck import probe
from envcheck.facts import Facts
from kit import merge, train
from kit.backend import Backend, Loading, starting
from kit.chat.options import read_command
from kit.chat.target import find
from kit.options import resolve
from kit.run.notes import collect_notes
from kit.support import console
from kit.support.errors import KitError
from tests.kit.exports import write_adapter
from tests.support.processes import run_python

ROOT = Path(__file__).parents[2]
SAVED = ROOT / "tests" / "envcheck" / "machines"
ARC = {"os": "Ubuntu 24.04", "gpu": [{"name": "Intel(R) Arc(TM) A770 Graphics"}], "ram_gib": 32}
NAMES = {"amd": "AMD Radeon RX 7900 XTX", "apple": "Apple M4 Pro", "intel": "Intel(R) Arc(TM) A770 Graphics"}


@pytest.fixture(params=NAMES)
def machine(request, monkeypatch) -> tuple[Facts, str]:
    """This machine from now on, and the name of its GPU."""
    saved = {"amd": "amd-radeon-linux", "apple": "apple-silicon"}.get(request.param)
    data = json.loads((SAVED / f"{saved}.json").read_text("utf-8")) if saved else ARC
    facts = Facts.from_json(data | {"training": None})
    monkeypatch.setattr(probe, "collect", lambda: facts)
    return facts, NAMES[request.param]


def said_by(work) -> str:
    text = io.StringIO()
    with console.saying_to(Console(file=text, width=1000)):
        work()
    return text.getvalue()


def test_a_plan_says_it(machine) -> None:
    said = said_by(lambda: train.command_line(["--model", "tiny", "--plan"]))
    assert f"This GPU ({machine[1]}) is not used" in said
    assert "CPU" in said
    assert "--preset cpu" in said


def test_a_run_says_it(machine) -> None:
    facts, name = machine
    planned = train.plan(resolve.load(["--model", "tiny", "--plan"], lambda: facts), facts)
    assert planned.run.device == "cpu"
    (said,) = [note for note in collect_notes(planned, Backend("hf", "asked for"), None) if "GPU" in note]
    assert name in said


def test_chat_says_it(machine) -> None:
    target = find(read_command(["tiny"]), machine[0])
    assert target.loading.device == "cpu"
    assert [note for note in target.notes if machine[1] in note]


def test_a_merge_says_it(machine, tmp_path) -> None:
    def nothing_there() -> None:
        with pytest.raises(KitError):
            merge.command_line([str(tmp_path / "none"), "-o", str(tmp_path / "new")])

    assert machine[1] in said_by(nothing_there)


def ask_for_it(door: str, facts: Facts) -> None:
    if door == "train":
        train.command_line(["--model", "tiny", "--plan", "--device", "cuda"])
    else:
        find(read_command(["tiny", "--device", "cuda"]), facts)


@pytest.mark.parametrize("door", ["train", "chat"])
def test_asking_for_it_is_a_finding_that_names_it(machine, door: str) -> None:
    facts, name = machine
    with pytest.raises(KitError) as caught:
        ask_for_it(door, facts)
    (finding,) = caught.value.findings
    assert finding.id == "no-usable-gpu"
    assert name in finding.why


@pytest.mark.parametrize("name", ["rtx5080-linux", "cpu-laptop"])
def test_nothing_is_said_where_an_nvidia_card_is_or_no_gpu(name: str) -> None:
    facts = Facts.from_json(json.loads((SAVED / f"{name}.json").read_text("utf-8")))
    planned = train.plan(resolve.load(["--preset", "cpu", "--plan"], lambda: facts), facts)
    assert not [note for note in collect_notes(planned, Backend("hf", "asked for"), None) if "GPU" in note]


def test_a_run_on_the_cpu_hides_every_gpu_from_the_libraries(monkeypatch, tmp_path) -> None:
    """Also one that the user, or his desktop, names: Unsloth takes AMD's, Intel's and Apple's where it sees them."""
    asked = {"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "0", "KIT_CACHE": str(tmp_path)}
    monkeypatch.setattr(os, "environ", {**os.environ, **asked})
    starting._set_environment(Loading("cpu", "fp32", load_in_4bit=False, max_length_tokens=64))
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "UNSLOTH_FORCE_CPU", "UNSLOTH_FORCE_GPU_PATH")
    assert [os.environ[name] for name in names] == ["", "-1", "1", "1"]


def test_torch_is_asked_for_a_card_in_one_place() -> None:
    asking = {path.name for path in (ROOT / "kit").rglob("*.py") if "cuda.is_available" in path.read_text("utf-8")}
    assert asking == {"device.py"}


@pytest.mark.torch
@pytest.mark.parametrize("precision", ["16bit", "nf4"])
def test_merge_and_parity_never_touch_an_amd_card(precision: str, tmp_path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    done = run_python("tests/kit/on_rocm.py", "kit.merge", adapter, "-o", tmp_path / "model",
                      "--base-precision", precision, libraries="hf")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "model" / "parity.json").read_text("utf-8"))["passed"]


@pytest.mark.torch
def test_chat_never_touches_an_amd_card(tmp_path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    done = run_python("tests/kit/on_rocm.py", "kit.chat.__main__", adapter, "--prompt", "Hi", "--max-tokens", "4",
                      "--backend", "hf", libraries="hf")  # fmt: skip
    assert done.returncode == 0, done.stderr
