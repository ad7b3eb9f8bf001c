"""The command as a user starts it."""

import json
import subprocess
import sys

import pytest
from conftest import HERE, ROOT

from envcheck import __main__ as cli

OPTIONS = ["--explain", "--facts", "--help", "--json", "--list", "--log", "--no-smoke", "--save", "--settings"]
MACHINE = str(HERE / "machines" / "rtx5080-windows.json")


def start(*arguments, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "envcheck", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        input=stdin,
        check=False,
    )


def test_the_options_are_frozen():
    found = [text for action in cli._options()._actions for text in action.option_strings if text.startswith("--")]
    assert sorted(found) == OPTIONS


def test_a_healthy_saved_machine_exits_with_0():
    done = start("--facts", MACHINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("No problem found")


def test_errors_exit_with_1():
    assert start("--facts", str(HERE / "machines" / "gtx1080-new-torch.json")).returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["--facts", "/no/such/file"],
        ["--explain", "torch-lacks-gpu"],
        ["--log", "/no/such/file"],
        ["install", "--cpu", "--cu128"],
    ],
)
def test_wrong_usage_exits_with_2_and_one_message(arguments):
    done = start(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_an_id_that_is_nearly_right_is_suggested():
    assert "did you mean torch-lacks-gpu-arch?" in start("--explain", "torch-lack-gpu-arch").stderr


def test_broken_facts_are_wrong_usage(tmp_path):
    (tmp_path / "facts.json").write_text("{", encoding="utf-8")
    assert start("--facts", str(tmp_path / "facts.json")).returncode == 2


def test_a_text_from_standard_input_is_explained_without_looking_at_this_machine():
    done = start("--json", "--log", "-", stdin="RuntimeError: operator torchvision::nms does not exist")
    answer = json.loads(done.stdout)
    assert [item["id"] for item in answer["findings"]] == ["torchvision-mismatch"]
    assert answer["facts"] == {}
    assert done.returncode == 1


def test_json_has_the_documented_keys():
    answer = json.loads(start("--json", "--facts", MACHINE).stdout)
    assert {"schema", "fit", "findings", "facts", "checks"} == set(answer)
    assert (answer["schema"], answer["fit"]) == (1, True)


def test_a_saved_machine_can_be_judged_again(tmp_path):
    path = tmp_path / "machine.json"
    assert start("--save", str(path)).returncode == 0
    assert start("--json", "--facts", str(path)).returncode in (0, 1)
    assert str(ROOT) not in path.read_text(encoding="utf-8")


def test_settings_are_printed():
    assert 'precision = "bf16"' in start("--facts", MACHINE, "--settings").stdout
