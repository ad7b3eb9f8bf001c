"""The front door as a user meets it: a whole run, the fast commands, every bad input, an interrupt."""

import json
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from kit.run import checkpoints
from tests.support.processes import run_kit
from tests.support.results import losses_of

ROOT = Path(__file__).parents[2]
QUICK = (
    "--preset",
    "cpu",
    "--data",
    "examples/identity.jsonl",
    "--max-steps",
    3,
    "--sample-tokens",
    4,
    "--held-out-rows",
    5,
)


def test_help_needs_no_heavy_library() -> None:
    done = run_kit("kit.train", "--help")
    assert done.returncode == 0
    assert "--max-length-tokens" in done.stdout


def test_plan_needs_no_heavy_library_and_writes_nothing(tmp_path) -> None:
    done = run_kit("kit.train", *QUICK, "--output", tmp_path / "x", "--plan", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["verdict"] == "fits", "the embedded model, on every machine that can run the tests"
    assert 0 < plan["low_bytes"] < plan["high_bytes"] < plan["available_bytes"]
    assert plan["steps"] == 3
    assert list(tmp_path.iterdir()) == []


def test_plan_of_a_model_without_data(qwen3_folder) -> None:
    (qwen3_folder / "model.safetensors").write_bytes(bytes(64))
    done = run_kit("kit.train", "--preset", "cpu", "--model", qwen3_folder, "--plan")
    assert done.returncode == 0, done.stderr
    assert "596,049,920 weights, 10,092,544 trained" in done.stderr


def test_plan_of_a_family_that_the_kit_does_not_know(qwen3_folder, tmp_path) -> None:
    folder = shutil.copytree(qwen3_folder, tmp_path / "gemma")
    (folder / "model.safetensors").write_bytes(bytes(64))
    shutil.copy(ROOT / "tests/data/families/gemma-2-2b.config.json", folder / "config.json")
    done = run_kit("kit.train", "--preset", "cpu", "--model", folder, "--plan")
    assert done.returncode == 0, done.stderr
    assert "The sizes of this model are not known to the planner (model_type gemma2)" in " ".join(done.stderr.split())
    assert "fits" not in done.stderr


def test_plan_for_a_card_that_is_not_there() -> None:
    card = ("--vram-gib", 24, "--vram-limit-gib", 8, "--model", "tiny", "--plan")
    done = run_kit("kit.train", *card, "--fit", "seq", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["available_bytes"] == 8 << 30
    assert plan["fit"]["solved_for"] == "max_length_tokens"
    assert plan["fit"]["max_length_tokens"] == 1024, "the embedded model has no more positions"
    told = run_kit("kit.train", *card, "--fit", "seq").stderr
    assert "fit       max_length_tokens 1024 is the most that fits" in told


BAD = {
    "a size without --plan": (["--vram-gib", "16", "--data", "examples/identity.jsonl"], 2, "--vram-gib 16 --plan"),
    "missing data": (["--data", "nowhere.jsonl"], 1, "data-file-missing"),
    "unknown option": (["--data", "examples/identity.jsonl", "--lerning-rate", "1"], 2, "--learning-rate"),
    "wrong kind of value": (["--data", "examples/identity.jsonl", "--learning-rate", "fast"], 2, "--learning-rate"),
    "unknown preset": (["--preset", "rtx580"], 2, "rtx5080"),
    "unknown model": (["--model", "tny", "--data", "examples/identity.jsonl"], 1, "Did you mean tiny?"),
    "no card": (["--preset", "rtx5080", "--data", "examples/identity.jsonl"], 1, "no-usable-gpu"),
    "output is a file": (["--data", "examples/identity.jsonl", "--output", "README.md/x"], 1, "output-not-writable"),
    "output is something else": (["--data", "examples/identity.jsonl", "--output", "examples"], 1, "output-not-a-run"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_finding_before_anything_is_loaded(name: str) -> None:
    arguments, status, text = BAD[name]
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "examples").iterdir()}
    preset = [] if "--preset" in arguments else ["--preset", "cpu"]
    done = run_kit("kit.train", *preset, *arguments)
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "examples").iterdir()} == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One short run with the default backend, as a user starts it: in a process that imports all of it."""
    folder = tmp_path_factory.mktemp("runs") / "x"
    done = run_kit("kit.train", *QUICK, "--output", folder, "--prompts", "Who are you?", "--json")
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.torch
def test_a_run_leaves_the_folder_that_the_readme_draws(finished) -> None:
    folder, done = finished
    assert {path.name for path in folder.iterdir()} == {
        "run.toml", "manifest.json", "data.json", "left_out.jsonl", "plan.json", "begun.json", "events.jsonl",
        "metrics.jsonl", "samples.jsonl", "samples.json", "checkpoints", "adapter", "report.html", ".lock",
    }  # fmt: skip
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        p.name for p in (folder / "adapter").iterdir()
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert all(line["loss"] > 0 and line["tokens"] > 0 for line in steps)
    assert [line["step"] for line in lines if "held_out_loss" in line] == [1, 2]
    samples = json.loads((folder / "samples.json").read_text())
    assert [len(samples[when]) for when in ("before", "after")] == [1, 1]
    assert samples["after"][0]["tokens_per_s"] > 0
    assert json.loads(done.stdout)["steps"] == 3


@pytest.mark.torch
def test_the_manifest_says_what_ran(finished) -> None:
    folder, _ = finished
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["chosen"]["backend"]["value"] == "unsloth"
    assert manifest["options"]["max_steps"] == {"value": 3, "origin": "flag"}
    assert manifest["options"]["device"] == {"value": "cpu", "origin": "preset cpu"}
    assert manifest["options"]["seed"]["origin"] == "default"
    assert manifest["versions"]["torch"]
    assert manifest["data"]["sha256"] == json.loads((folder / "data.json").read_text())["sha256"]
    assert manifest["facts"]["python"]
    assert f"{Path.home()}/" not in json.dumps(manifest["facts"]), "facts are redacted"


@pytest.mark.torch
def test_the_plan_holds_the_measured_peak(finished) -> None:
    folder, _ = finished
    plan = json.loads((folder / "plan.json").read_text())
    peak = json.loads((folder / "manifest.json").read_text())["result"]["peak_memory_bytes"]
    assert plan["low_bytes"] <= peak <= plan["high_bytes"]


@pytest.mark.torch
def test_the_same_command_again_has_nothing_to_do(finished, kit_train) -> None:
    folder, _ = finished
    weights = (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    done = kit_train(*QUICK, "--output", folder, "--prompts", "Who are you?")
    assert done.returncode == 0
    assert "nothing to do" in done.stderr
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.torch
def test_another_run_does_not_overwrite_it(finished, kit_train) -> None:
    folder, _ = finished
    done = kit_train(*QUICK, "--output", folder, "--prompts", "Who are you?", "--seed", 1)
    assert done.returncode == 1
    assert "3407 there, 1 now" in done.stderr


@pytest.mark.torch
def test_run_toml_repeats_the_run_to_the_last_digit(finished, kit_train, tmp_path) -> None:
    folder, first = finished
    assert tomllib.loads((folder / "run.toml").read_text())["max_steps"] == 3
    again = kit_train("--config", folder / "run.toml", "--output", tmp_path / "again", "--json")
    assert again.returncode == 0, again.stderr
    keys = ("steps", "tokens", "loss_before", "loss_after")
    first, again = json.loads(first.stdout), json.loads(again.stdout)
    assert [first[key] for key in keys] == [again[key] for key in keys]


@pytest.mark.torch
def test_without_unsloth_auto_says_so_and_goes_on(tmp_path, kit_train) -> None:
    (tmp_path / "unsloth").mkdir()
    (tmp_path / "unsloth" / "__init__.py").write_text("raise RuntimeError('no kernels for this card')\n")
    done = kit_train(*QUICK, "--output", tmp_path / "x", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "Unsloth cannot start: RuntimeError: no kernels for this card" in done.stderr
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    assert manifest["chosen"]["backend"]["value"] == "hf"
    asked = kit_train(*QUICK, "--backend", "unsloth", "--output", tmp_path / "y", env={"PYTHONPATH": str(tmp_path)})
    assert asked.returncode == 1
    assert "unsloth-cannot-start" in asked.stderr
    assert not (tmp_path / "y").exists()


@pytest.mark.torch
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_keeps_what_is_finished(tmp_path) -> None:
    options = ("--preset", "cpu", "--data", "examples/identity.jsonl", "--epochs", "1000", "--sample-tokens", "4")
    command = [sys.executable, "-m", "kit.train", *options, "--output", str(tmp_path / "x")]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "x" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=120)[1]
    assert child.returncode == 130, said
    assert "Traceback" not in said
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = max(line["step"] for line in lines)
    assert manifest["result"]["steps"] == steps > 0
    assert [one.about.step for one in checkpoints.whole(tmp_path / "x" / "checkpoints")[0]][-1] == steps
    assert (tmp_path / "x" / "adapter" / "adapter_model.safetensors").stat().st_size > 0


@pytest.mark.torch
@pytest.mark.parametrize("file", ["examples/gsm8k.jsonl", "messages"])
def test_other_real_rows_train_too(file: str, kit_train, tmp_path, write_rows) -> None:
    if file == "messages":
        rows = [json.loads(line) for line in (ROOT / "examples" / "gsm8k.jsonl").read_text().splitlines()]
        turns = [(("user", row["question"]), ("assistant", row["answer"])) for row in rows]
        file = write_rows([{"messages": [{"role": role, "content": text} for role, text in pair]} for pair in turns])
    done = kit_train(
        "--preset", "cpu", "--data", file, "--max-steps", 2, "--sample-tokens", 4, "--output", tmp_path / "x", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2


RESUMED = ("--preset", "cpu", "--data", "examples/identity.jsonl", "--max-steps", 8, "--sample-tokens", 4,
           "--checkpoint-minutes", 0)  # fmt: skip


@pytest.mark.torch
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_run_goes_on_with_the_same_command_as_if_nothing_had_happened(kit_train, tmp_path) -> None:
    """Also past a newest checkpoint that something broke."""
    assert kit_train(*RESUMED, "--output", tmp_path / "whole").returncode == 0
    command = [sys.executable, "-m", "kit.train", *map(str, RESUMED), "--output", str(tmp_path / "x")]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    kept = tmp_path / "x" / "checkpoints"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(list(kept.glob("step-*"))) < 2:
        time.sleep(0.02)
    child.kill()
    child.communicate()
    newest = checkpoints.whole(kept)[0][-1]
    (newest.path / "state.pt").write_bytes(b"broken")
    done = kit_train(*RESUMED, "--output", tmp_path / "x")
    assert done.returncode == 0, done.stderr
    assert "is not whole and is passed over" in done.stderr
    assert f"going on after step {newest.about.step - 1} of 8" in done.stderr
    assert losses_of(tmp_path / "x") == losses_of(tmp_path / "whole")
    adapters = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("x", "whole")]
    assert adapters[0] == adapters[1]


@pytest.mark.torch
def test_a_run_killed_after_its_last_step_does_no_step_more(kit_train, tmp_path) -> None:
    folder = tmp_path / "x"
    assert kit_train(*RESUMED, "--output", folder).returncode == 0
    before, adapter = losses_of(folder), (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(folder / "adapter")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    done = kit_train(*RESUMED, "--output", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 8
    assert losses_of(folder) == before
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == adapter


@pytest.mark.torch
def test_early_stopping_keeps_the_best_adapter(kit_train, tmp_path) -> None:
    options = (
        "--learning-rate",
        0.5,
        "--evaluations",
        6,
        "--early-stopping",
        2,
        "--max-steps",
        12,
        "--on-nan",
        "retry",
    )
    done = kit_train(*QUICK[:4], *options, "--sample-tokens", 4, "--output", tmp_path / "x", "--json")
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (tmp_path / "x" / "metrics.jsonl").read_text().splitlines())
    measured = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    result = json.loads(done.stdout)
    assert result["steps"] < 12
    assert measured[-2:] > [min(measured)] * 2
    assert result["loss_after"] == pytest.approx(min(measured), rel=1e-4)
