"""Options: one source, layered, with their origin; wrong names and values are findings."""

import tomllib
from dataclasses import replace

import pytest

from envcheck.facts import Facts, Gpu
from kit.options import Run, TrainCommand, resolve
from kit.support.errors import USAGE, KitError
from tests.support.results import error_of


def load(*argv: str, facts: Facts | None = None) -> TrainCommand:
    return resolve.load(list(argv), lambda: facts or Facts(gpu=()))


def problems(*argv: str) -> tuple[list[str], int]:
    error = error_of(load, *argv)
    return [finding.id for finding in error.findings], error.status


def test_flag_over_file_over_preset(tmp_path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('preset = "cpu"\nlearning_rate = 1e-4\nmicro_batch_size = 4\n')
    command = load("--config", str(file), "--micro-batch-size", "2")
    assert (command.run.learning_rate, command.run.micro_batch_size, command.run.model) == (1e-4, 2, "tiny")
    origins = command.origins
    assert origins["micro_batch_size"] == "flag"
    assert origins["learning_rate"] == f"file {file}"
    assert origins["device"] == "preset cpu"
    assert origins["seed"] == "default"


def test_yaml_file_and_hyphens(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: cpu\nlora-rank: 8\n")
    assert load("--config", str(file)).run.lora_rank == 8


@pytest.mark.parametrize("name", resolve.preset_names())
def test_every_preset_is_complete_and_valid(name: str) -> None:
    assert load("--preset", name).run.preset == name


def test_auto_follows_the_machine() -> None:
    card = Facts(gpu=(Gpu(name="NVIDIA GeForce RTX 5080", compute_capability="12.0", vram_gib=15.9),))
    assert load(facts=card).run.device == "cuda"
    assert load().run.device == "cpu"
    assert load().run.preset == "auto"


def test_a_card_takes_the_values_of_its_class() -> None:
    command = load("--preset", "t4", "--max-length-tokens", "512")
    assert (command.run.model, command.run.precision) == ("Qwen/Qwen3-4B", "fp16")
    assert command.origins["model"] == "preset t4 (class vram-12)"
    assert command.origins["precision"] == "preset t4"
    assert command.origins["max_length_tokens"] == "flag"


def test_a_card_known_by_its_size_only() -> None:
    command = load("--vram-gib", "24", "--plan", "--fit", "seq")
    assert command.run.model == "Qwen/Qwen3-8B"
    planned, facts = resolve.planned_for(load("--preset", "cpu", "--vram-gib", "24", "--plan"), Facts(gpu=()))
    assert resolve.settle(planned, facts)[0].device == "cuda"


@pytest.mark.parametrize("flag", [("--vram-gib", "16"), ("--fit", "batch")])
def test_what_only_plans_needs_plan(flag: tuple[str, str]) -> None:
    with pytest.raises(KitError) as error:
        resolve.planned_for(load("--preset", "cpu", *flag), Facts(gpu=()))
    assert error.value.status == USAGE
    assert error.value.findings[0].fix[0] == f"{' '.join(flag)} --plan"


def test_run_toml_gives_the_same_run_again(tmp_path) -> None:
    command = load(
        "--preset", "cpu", "--data", "a b.jsonl", "--prompts", 'say "hi"\n\x7f', "你是谁", "--max-steps", "3"
    )
    file = tmp_path / "run.toml"
    file.write_text(resolve.to_toml(command.run, command.origins), encoding="utf-8")
    tomllib.loads(file.read_text(encoding="utf-8"))
    assert load("--config", str(file)).run == command.run


def test_every_option_is_a_flag_with_help(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        load("--help", "all")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in Run.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert field.description, name
        assert " ".join(field.description.split()) in shown


@pytest.mark.parametrize(
    ("argv", "id", "text"),
    [
        (["--lerning-rate", "1"], "unknown-option", "--learning-rate"),
        (["--preset", "rtx580"], "unknown-preset", "rtx5080"),
        (["--learning-rate", "-1"], "wrong-value", "--learning-rate takes a number above 0, not -1"),
        (["--data", "a.jsonl", "--data-weights", "1", "2"], "wrong-value", "2 numbers for 1 of data"),
        (["--data-columns", "question"], "wrong-value", "ours=theirs"),
        (["--config", "nowhere.toml"], "config-unreadable", "nowhere.toml"),
    ],
)
def test_wrong_options_are_findings(argv: list[str], id: str, text: str) -> None:
    with pytest.raises(KitError) as error:
        load(*argv)
    assert error.value.status == USAGE
    (finding,) = error.value.findings
    assert finding.id == id
    assert text in finding.what
    assert finding.fix


def test_all_unknown_keys_are_told_at_once(tmp_path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("learning_rte = 1\nlora_rnk = 2\n")
    assert problems("--config", str(file)) == (["unknown-key", "unknown-key"], USAGE)


@pytest.mark.parametrize("text", ["learning_rate = \n", "[1]\n= 2", "\x00"])
def test_a_broken_file_is_a_finding(tmp_path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    ids, status = problems("--config", str(file))
    assert ids[0] in ("config-does-not-parse", "unknown-key")
    assert status == USAGE


def test_settle_replaces_auto_with_reasons() -> None:
    settled, reasons = resolve.settle(Run(), Facts(gpu=(), cpu_flags=("avx512_bf16",)))
    assert (settled.device, settled.precision, settled.optimizer) == ("cpu", "bf16", "adamw_torch_fused")
    assert (settled.gradient_checkpointing, settled.micro_batch_size, settled.pin_memory) == ("auto", "auto", "off")
    assert set(reasons) == {"device", "precision", "optimizer", "pin_memory"}
    card = Facts(gpu=(Gpu(name="NVIDIA GeForce RTX 5080", compute_capability="12.0", vram_gib=15.9),))
    settled, _ = resolve.settle(Run(), card)
    assert (settled.device, settled.precision, settled.optimizer) == ("cuda", "bf16", "adamw_8bit")
    assert settled.pin_memory == "on"
    settled, _ = resolve.settle(Run(), replace(card, os="Windows 11"))
    assert settled.pin_memory == "off"


def test_a_card_asked_for_and_not_there_is_a_finding() -> None:
    with pytest.raises(KitError) as error:
        resolve.settle(Run(device="cuda"), Facts(gpu=()))
    assert error.value.findings[0].id == "no-usable-gpu"


def test_steps_count_the_short_last_batch() -> None:
    assert Run(epochs=1).steps(9) == 2
    assert Run(epochs=2.5).steps(80) == 25
    assert Run(max_steps=7).steps(10_000) == 7


def test_data_options_may_be_typed_with_a_point() -> None:
    command = load(
        "--preset", "cpu", "--data", "a.jsonl", "b.jsonl", "--data.on-error", "skip", "--data.weights", "1", "2"
    )
    assert (command.run.data_on_error, command.run.data_weights) == ("skip", (1.0, 2.0))
    assert command.origins["data_on_error"] == "flag"


class TestRowsOptions:
    """python -m kit.data takes the options that concern rows, and the file of a run."""

    def test_files_stand_for_themselves(self) -> None:
        command = resolve.load_rows(["a.jsonl", "b.jsonl", "--show", "2"])
        assert (command.rows.data, command.show) == (("a.jsonl", "b.jsonl"), 2)

    def test_a_runs_file_gives_its_rows(self, tmp_path) -> None:
        file = tmp_path / "run.toml"
        file.write_text('data = "a.jsonl"\nlearning_rate = 1e-3\nmax_length_tokens = 77\n')
        command = resolve.load_rows(["--config", str(file), "--long-rows", "cut"])
        assert (command.rows.data, command.rows.max_length_tokens, command.rows.long_rows) == (("a.jsonl",), 77, "cut")

    @pytest.mark.parametrize("argv", [["a.jsonl", "--learning-rate", "1"], ["a.jsonl", "--data-weights", "1", "2"]])
    def test_other_options_are_findings(self, argv: list[str]) -> None:
        with pytest.raises(KitError) as error:
            resolve.load_rows(argv)
        assert error.value.status == 2
