"""The command as a user starts it."""

import getpass
import json
import socket
import subprocess
import sys
from pathlib import Path

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
        ["--facts", ""],
        ["--log", ""],
        ["--save", ""],
        ["--settings", "--list"],
        ["--log", "-", "--save", "x.json"],
        ["instal"],
        ["install", "--python", "/no/such/python", "--dry-run"],
    ],
)
def test_wrong_usage_exits_with_2_and_one_message(arguments):
    done = start(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_an_id_that_is_nearly_right_is_suggested():
    assert "did you mean torch-lacks-gpu-arch?" in start("--explain", "torch-lack-gpu-arch").stderr


def test_an_id_in_capitals_is_suggested_too():
    assert "did you mean torch-lacks-gpu-arch?" in start("--explain", "TORCH-LACKS-GPU-ARCH").stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_facts_are_read_as_any_editor_or_powershell_writes_them(tmp_path, encoding):
    (tmp_path / "facts.json").write_text('{"os": "Windows 11", "weather": 1}', encoding=encoding)
    done = start("--json", "--facts", str(tmp_path / "facts.json"))
    assert (done.returncode, json.loads(done.stdout)["facts"]) == (0, {"os": "Windows 11"})


def test_an_empty_text_is_said():
    assert start("--log", "-").stdout.startswith("Nothing to explain")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's pipe")
def test_a_reader_that_stops_reading_gets_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-m", "envcheck", "--list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as child:
        child.stdout.close()
        assert child.stderr.read() == b""


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


def test_a_saved_machine_can_be_judged_again(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)  # tests/support names a folder of this project there
    path = tmp_path / "machine.json"
    assert start("--save", str(path)).returncode == 0
    assert start("--json", "--facts", str(path)).returncode in (0, 1)
    assert str(ROOT) not in path.read_text(encoding="utf-8")


def test_a_saved_machine_tells_nobody_whose_it_is(tmp_path, monkeypatch, capsys):
    """Everything that could name the owner, put where the probe reads it; none of it may be in the file."""
    private = {
        "HF_TOKEN": "hf_abcdefghijklmnopqrstuv",
        "HF_HOME": str(Path.home() / "cache"),
        "CUDA_HOME": "/home/alice/cuda-12",
        "LD_LIBRARY_PATH": "/Users/bob/lib",
        "HTTPS_PROXY": "http://carol:secretpw@proxy.example:3128",
        "NO_PROXY": "intranet.example",
        "MASTER_ADDR": "node7.example",
        "CUDA_VISIBLE_DEVICES": "GPU-3f2c9c1e-aaaa-bbbb-cccc-444455556666",
    }
    for name, value in private.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["--save", str(tmp_path / "machine.json")]) == 0
    capsys.readouterr()
    text = (tmp_path / "machine.json").read_text(encoding="utf-8")
    words = ["hf_abc", "alice", "bob", "carol", "secretpw", "proxy.example", "intranet", "node7", "3f2c9c1e"]
    owner = [str(Path.home()), socket.gethostname(), *([getpass.getuser()] if len(getpass.getuser()) > 2 else [])]
    assert [word for word in [*words, *owner] if word in text] == []
    assert set(json.loads(text)["env"]) >= {"HF_TOKEN", "HTTPS_PROXY"}


def test_a_package_named_like_a_secret_keeps_its_version(tmp_path):
    (tmp_path / "a.json").write_text(
        '{"packages": {"tokenizers": "0.22.1", "tiktoken": "0.9.0"}, "env": {"HF_TOKEN": "x"}}', encoding="utf-8"
    )
    facts = json.loads(start("--json", "--facts", str(tmp_path / "a.json")).stdout)["facts"]
    assert facts == {"packages": {"tokenizers": "0.22.1", "tiktoken": "0.9.0"}, "env": {"HF_TOKEN": "<set>"}}


def test_settings_are_printed():
    assert 'precision = "bf16"' in start("--facts", MACHINE, "--settings").stdout
