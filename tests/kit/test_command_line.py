"""One command line for all doors: the same options, findings and help in each, and `kit` above them."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit import __main__ as kit
from kit.chat.options import ChatCommand
from kit.export.options import MergeCommand
from kit.memory.options import ModelsCommand
from kit.options import DataCommand, Run, TrainCommand, resolve
from kit.options.command_line import flags_of, parse, read, typed_as
from kit.options.help_page import help_page
from kit.options.option import Door, Options, groups_of, options_of
from kit.options.words import WORDS
from kit.report.options import ReportCommand
from kit.support.errors import USAGE, KitError, near_name
from kit.sweep.options import SweepCommand

ROOT = Path(__file__).parents[2]
DOORS = (TrainCommand, DataCommand, ChatCommand, MergeCommand, ReportCommand, SweepCommand, ModelsCommand)
EACH_DOOR = pytest.mark.parametrize("kind", DOORS, ids=lambda kind: kind.door)

ROWS = "model data data-format data-columns data-weights data-on-error eval-data held-out-rows template system-texts \
train-added-tokens max-length-tokens long-rows seed"
RUN = f"{ROWS} method load-in-4bit precision virtual-tokens lora-rank lora-alpha rank-pattern lora-dropout \
target-modules adapter-precision epochs max-steps batch-size learning-rate scheduler warmup-pct weight-decay \
max-grad-norm optimizer early-stopping preset backend device micro-batch-size gradient-checkpointing attention \
embedding-offload pin-memory vram-limit-gib output evaluations checkpoint-minutes keep-checkpoints on-nan prompts \
sample-tokens report-to config plan vram-gib"
FROZEN = {  # a new option is a decision: write it here too
    "train": f"{RUN} fit fresh resume-anyway json",
    "data": f"{ROWS} show fix config json",
    "chat": "what add base template backend device precision load-in-4bit system thinking compare prompt prompts \
sample temperature top-p top-k seed max-tokens serve port json",
    "merge": "source output base base-precision add weight combine density to quant precision shard-gib prove json",
    "models": "json",
    "report": "runs output list json",
    "sweep": f"{RUN} over trials pruner into json",
}


LIST_OPTIONS = [
    (kind, option.name)
    for kind in (Run, *DOORS)
    for option in options_of(kind).values()
    if option.is_list and option.name in kind.model_fields
]
LIST_VALUES = {
    "data_weights": 0.5,
    "data_columns": "question=prompt",
    "rank_pattern": "q_proj=8",
    "add": "name=folder",
    "to": "gguf",
}


def module_of(kind: type[Door]) -> str:
    return kit.COMMANDS[kind.door][0]


def main(kind: type[Door], *argv: str) -> int:
    return importlib.import_module(module_of(kind)).main(list(argv))


def findings(kind: type[Door], *argv: str) -> list:
    with pytest.raises(KitError) as error:
        resolve.load(list(argv), pytest.fail, kind) if issubclass(kind, TrainCommand) else parse(kind, list(argv))
    assert error.value.status == USAGE
    return list(error.value.findings)


class TestOptions:
    @EACH_DOOR
    def test_the_options_of_every_door_are_these(self, kind: type[Door]) -> None:
        assert [option.flag for option in options_of(kind).values()] == [
            f"--{name}" for name in FROZEN[kind.door].split()
        ]

    @EACH_DOOR
    def test_every_option_has_a_help_and_a_group(self, kind: type[Door]) -> None:
        for option in options_of(kind).values():
            assert option.help, option.name
            assert option.group in groups_of(kind), option.name

    def test_the_same_option_takes_the_same_in_all_doors(self) -> None:
        for name in ("output", "base", "add", "device", "backend", "precision", "template", "json_output", "plan"):
            texts = {options_of(kind)[name].takes for kind in DOORS if name in options_of(kind)}
            assert len(texts) == 1, (name, texts)
        shorts = {options_of(kind)["output"].typed.short for kind in DOORS if "output" in options_of(kind)}
        assert shorts == {"-o"}

    def test_groups_hold_the_fields_of_their_class(self) -> None:
        options = options_of(TrainCommand)
        assert {options[name].group for name in Run.model_fields} == {"data", "method", "training", "memory", "record"}
        assert {options[name].group for name in ("config", "plan", "fit", "fresh", "json_output")} == {"command"}

    @pytest.mark.parametrize(("kind", "name"), LIST_OPTIONS)
    def test_one_value_in_python_is_a_list_of_one(self, kind: type[Options], name: str) -> None:
        one = LIST_VALUES.get(name, "x")
        needed = {Run: {"data": "a.jsonl"}, MergeCommand: {"source": Path("a"), "output": Path("b")}}.get(kind, {})
        command = kind(**{**needed, name: one})
        assert command == kind(**{**needed, name: [one]})
        assert [str(value) for value in getattr(command, name)] == [str(one)]


class TestReading:
    @pytest.mark.parametrize("kind", [TrainCommand, DataCommand, SweepCommand], ids=lambda kind: kind.door)
    def test_a_word_without_an_option_is_data(self, kind: type[Door]) -> None:
        assert read(kind, ["a.csv", "--seed", "1", "b.csv"])["data"] == ["a.csv", "b.csv"]
        assert read(kind, ["a.csv", "--data", "b.csv", "c.csv", "--data", "d.csv"])["data"] == [
            "a.csv",
            "b.csv",
            "c.csv",
            "d.csv",
        ]

    def test_positional_data_trains(self) -> None:
        command = resolve.load(["my.csv", "--preset", "cpu"], pytest.fail)
        assert (command.run.data, command.origins["data"]) == (("my.csv",), "flag")

    def test_values_in_every_spelling(self) -> None:
        argv = [
            "--lora_rank",
            "8",
            "--learning-rate=1e-3",
            "--data.on-error",
            "skip",
            "-o",
            "x",
            "--seed",
            "-1",
            "--",
            "--odd",
        ]
        assert read(TrainCommand, argv) == {
            "lora_rank": "8", "learning_rate": "1e-3", "data_on_error": "skip", "output": "x", "seed": "-1",
            "data": ["--odd"],
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("argv", "train", "chat"),
        [
            (["--load-in-4bit"], True, "on"),
            (["--load-in-4bit", "on"], True, "on"),
            (["--load-in-4bit=off"], False, "off"),
            (["--no-load-in-4bit"], False, "off"),
            (["--load-in-4bit", "off", "--seed", "1"], False, "off"),
        ],
    )
    def test_a_switch_is_the_same_in_every_door(self, argv: list[str], train: bool, chat: str) -> None:
        assert resolve.load(["--preset", "cpu", *argv], pytest.fail).run.load_in_4bit is train
        assert parse(ChatCommand, ["tiny", *argv]).load_in_4bit == chat

    def test_a_switch_with_a_value_of_its_own_takes_it(self) -> None:
        """As the kit's own advice says: --gradient-checkpointing unsloth."""
        run = resolve.load(["--preset", "cpu", "my.jsonl", "--gradient-checkpointing", "unsloth"], pytest.fail).run
        assert (run.data, run.gradient_checkpointing) == (("my.jsonl",), "unsloth")

    def test_a_switch_does_not_take_the_next_word(self) -> None:
        assert read(TrainCommand, ["--load-in-4bit", "my.csv"]) == {"load_in_4bit": "on", "data": ["my.csv"]}
        assert parse(ChatCommand, ["--load-in-4bit", "auto", "tiny"]).load_in_4bit == "auto"

    def test_a_second_source_is_one_too_many(self) -> None:
        (finding,) = findings(MergeCommand, "runs/a", "runs/b", "-o", "x")
        assert finding.id == "unexpected-argument"
        assert finding.what.startswith("runs/b is one too many")


# What is wrong -> its finding, in each door.
WRONG = {
    "train": {
        "unknown-option": ("--lerning-rate", "1"),
        "wrong-value": ("--learning-rate", "fast"),
        "missing-value": ("--epochs",),
    },
    "data": {
        "unknown-option": ("x.jsonl", "--shw", "3"),
        "wrong-value": ("x.jsonl", "--show", "-1"),
        "missing-value": ("x.jsonl", "--fix", "--json"),
    },
    "chat": {
        "unknown-option": ("tiny", "--promt", "x"),
        "wrong-value": ("tiny", "--top-p", "2"),
        "missing-value": ("tiny", "--prompt"),
        "nothing-to-talk-to": (),
    },
    "merge": {
        "unknown-option": ("runs/x", "-o", "y", "--presision", "bf16"),
        "wrong-value": ("runs/x", "-o", "y", "--density", "2"),
        "missing-value": ("runs/x", "-o"),
        "missing-option": ("-o", "y"),
    },
    "models": {
        "unknown-option": ("--jsn",),
        "wrong-value": ("--json=perhaps",),
        "unexpected-argument": ("qwen",),
    },
    "report": {
        "unknown-option": ("runs/x", "--jsn"),
        "wrong-value": ("runs/x", "--json=perhaps"),
        "missing-value": ("--list",),
        "report-of-what": (),
    },
    "sweep": {
        "unknown-option": ("x.jsonl", "--ovr", "seed=1,2"),
        "wrong-value": ("x.jsonl", "--trials", "two"),
        "missing-value": ("x.jsonl", "--over"),
    },
}


@pytest.mark.parametrize(
    ("kind", "id"),
    [(kind, id) for kind in DOORS for id in WRONG[kind.door]],
    ids=lambda value: getattr(value, "door", value),
)
def test_what_is_wrong_is_a_finding_of_one_shape(kind: type[Door], id: str, capsys) -> None:
    """Status 2, an id, what, why and a fix; the door that is named in it is this one; nothing else is printed."""
    assert main(kind, *WRONG[kind.door][id]) == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip().startswith(f"error: {id}\n")
    assert err.count("error: ") == 1
    assert "  fix: " in err
    assert "  why: " in err
    assert "http" not in err
    others = {f"kit.{other.door} " for other in DOORS if other is not kind}
    assert not [other for other in others if f"{other}--help" in err]


class TestFindings:
    def test_every_wrong_value_is_told_at_once_and_once(self) -> None:
        found = findings(MergeCommand, "runs/x", "-o", "y", "--density", "2", "--shard-gib", "x", "--to", "onnx", "pt")
        assert [finding.what for finding in found] == [
            "--density takes a number above 0 up to 1, not 2.",
            "--to takes one or more, each hf or gguf, not onnx.",
            "--shard-gib takes a number above 0, not x.",
        ]
        assert {finding.fix[-1] for finding in found} == {"python -m kit.merge --help command"}

    @pytest.mark.parametrize(
        ("argv", "what", "fix"),
        [
            (("--micro-batch-size", "x"), "--micro-batch-size takes a whole number above 0 or auto, not x.", "memory"),
            (
                ("--scheduler", "cosin"),
                "--scheduler takes linear, cosine or constant, not cosin.",
                "--scheduler cosine",
            ),
            (("--load-in-4bit=x",), "--load-in-4bit takes on or off, not x.", "python -m kit.train --help method"),
            (("--data-weights", "1", "x"), "--data-weights takes one or more, each a number above 0, not x.", "data"),
            (("--lora-dropout", "1"), "--lora-dropout takes a number from 0 below 1, not 1.", "method"),
            (("--warmup-pct", "101"), "--warmup-pct takes a number from 0 up to 100, not 101.", "training"),
            (("--vram-gib", "-3"), "--vram-gib takes a number above 0, not -3.", "python -m kit.train --help command"),
        ],
    )
    def test_a_wrong_value_says_what_the_option_takes(self, argv: tuple[str, ...], what: str, fix: str) -> None:
        (finding,) = findings(TrainCommand, "--preset", "cpu", *argv)
        assert (finding.id, finding.what) == ("wrong-value", what)
        assert finding.fix[0].endswith(fix)

    def test_a_wrong_value_of_a_file_names_the_key_and_the_file(self, tmp_path) -> None:
        file = tmp_path / "mine.toml"
        file.write_text('scheduler = "cosin"\n')
        (finding,) = findings(TrainCommand, "--config", str(file), "--preset", "cpu")
        assert finding.what == "scheduler takes linear, cosine or constant, not cosin."
        assert finding.fix[0] == 'scheduler = "cosine"'
        assert finding.details == (("found in", f"file {file}"),)

    def test_a_missing_option_says_what_it_is(self) -> None:
        source, output = findings(MergeCommand)
        assert (source.what, output.what) == ("--source is missing.", "--output is missing.")
        assert source.why.startswith("A run folder")
        assert source.fix[0] == "python -m kit.merge PATH --output PATH"

    def test_a_value_that_begins_with_a_dash(self) -> None:
        (finding,) = findings(ChatCommand, "tiny", "--prompt", "-x?")[:1]
        assert finding.id == "missing-value"
        assert "--prompt=VALUE" in finding.fix[1]
        assert parse(ChatCommand, ["tiny", "--prompt=-x?"]).prompt == "-x?"


class TestWords:
    """What other tools and earlier versions call an option: never taken, always told."""

    @pytest.mark.parametrize("name", WORDS)
    def test_what_is_said_for_it_is_an_option_of_some_door(self, name: str) -> None:
        known = {name for kind in DOORS for name in options_of(kind)}
        word = WORDS[name]
        assert word.ours or word.remark
        assert {ours.partition("=")[0] for ours in word.ours.split()} <= known
        assert name not in known

    def test_there_are_many(self) -> None:
        assert len(WORDS) >= 40

    @pytest.mark.parametrize(
        ("typed", "fix", "why"),
        [
            ("--lr", "--learning-rate", "silence"),
            ("--num_train_epochs", "--epochs", "silence"),
            ("--per-device-train-batch-size", "--micro-batch-size", "accumulation"),
            ("--max_seq_length", "--max-length-tokens", "silence"),
            ("--r", "--lora-rank", "silence"),
            ("--fp16", "--precision fp16", "silence"),
            ("--warmup_ratio", "--warmup-pct", "percent"),
            ("--base-model", "--model", "silence"),
            ("--resume", "python -m kit.train --help", "goes on"),
            ("--packing", "python -m kit.train --help", "never packed"),
            ("--lora", "--lora-rank", "silence"),
            ("--loraRank", "--lora-rank", "silence"),
            ("--no-load-in-4-bit", "--no-load-in-4bit", "silence"),
            ("--zzz", "python -m kit.train --help", "silence"),
        ],
    )
    def test_as_an_option(self, typed: str, fix: str, why: str) -> None:
        (finding,) = findings(TrainCommand, typed, "1")
        assert (finding.id, finding.fix) == ("unknown-option", (fix,))
        assert f"Did you mean {fix}?" in finding.what or fix.startswith("python")
        assert why in finding.why

    def test_as_a_key(self, tmp_path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("lr: 1\nbf16: true\npush_to_hub: true\n")
        found = findings(TrainCommand, "--config", str(file))
        assert [finding.id for finding in found] == ["unknown-key"] * 3
        assert [finding.fix[0] for finding in found] == [
            "learning_rate", 'precision = "bf16"', "python -m kit.train --help",
        ]  # fmt: skip
        assert found[0].details == (("found in", str(file)),)

    @pytest.mark.parametrize(
        ("kind", "argv", "fix"),
        [
            (MergeCommand, ("runs/x", "-o", "y", "--base-model", "tiny"), "--base"),
            (ChatCommand, ("runs/x", "--adapters", "x=y"), "--add"),
            (MergeCommand, ("runs/x", "--output_dir", "y"), "--output"),
        ],
    )
    def test_earlier_spellings_of_other_doors(self, kind: type[Door], argv: tuple[str, ...], fix: str) -> None:
        (finding,) = findings(kind, *argv)
        assert (finding.id, finding.fix[0]) == ("unknown-option", fix)

    def test_what_base_meant_before(self) -> None:
        (finding,) = findings(MergeCommand, "runs/x", "-o", "y", "--base", "nf4")
        assert "Did you mean --base-precision nf4?" in finding.what

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("batch", "batch_size"),
            ("--EPOCH", "epochs"),
            ("lorarnk", "lora_rank"),
            ("ba", None),
            ("", None),
            ("--", None),
        ],
    )
    def test_near_names(self, name: str, near: str | None) -> None:
        assert near_name(name, ["batch_size", "epochs", "lora_rank"]) == near


class TestHelp:
    @pytest.mark.parametrize("columns", ["80", "110", "200"])
    def test_of_train_it_fits_a_screen(self, columns: str, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        page = help_page(TrainCommand, "", "kit train").splitlines()
        assert 25 <= len(page) <= 30
        assert max(map(len, page)) <= max(80, int(columns))

    @EACH_DOOR
    def test_it_names_the_door_as_it_was_called_and_every_group(self, kind: type[Door], capsys, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "110")
        with pytest.raises(SystemExit) as stop:
            parse(kind, ["--help"])
        assert stop.value.code == 0
        page = capsys.readouterr().out
        assert f"\n  python -m kit.{kind.door} " in page
        assert f"  kit {kind.door}" not in page
        assert len(page.splitlines()) <= 42
        assert all(f"  {group} " in page for group in groups_of(kind)) or not kind.common

    @EACH_DOOR
    def test_all_has_every_option_with_its_default(self, kind: type[Door], capsys) -> None:
        with pytest.raises(SystemExit):
            parse(kind, ["--json", "--help", "all"])
        page = capsys.readouterr().out
        assert all(option.flag in page for option in options_of(kind).values())
        if kind is TrainCommand:
            assert "Takes a number above 0. Default: 3.0." in " ".join(page.split())

    def test_words_elsewhere_are_no_group(self, capsys) -> None:
        with pytest.raises(SystemExit):
            parse(ReportCommand, ["runs/x", "--help", "--output", "y"])
        assert "  [--runs] PATH ..." in capsys.readouterr().out

    def test_a_group_has_its_own_options(self) -> None:
        page = help_page(TrainCommand, "memory", "kit train")
        assert "--micro-batch-size" in page
        assert "--learning-rate" not in page

    def test_an_unknown_group_is_a_finding(self) -> None:
        (finding,) = findings(ReportCommand, "--help", "comand")
        assert finding.id == "unknown-group"
        assert "Did you mean command?" in finding.what

    @EACH_DOOR
    def test_it_imports_nothing_heavy(self, kind: type[Door]) -> None:
        lines = (
            "import atexit, importlib, sys",
            "heavy = {'torch', 'transformers', 'unsloth', 'matplotlib', 'datasets', 'optuna', 'pandas', 'pyarrow'}",
            "atexit.register(lambda: print(sorted(heavy & sys.modules.keys()), file=sys.stderr))",
            "importlib.import_module(sys.argv[1]).main(['--help'])",
        )
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(lines), module_of(kind)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "[]\n")

    def test_where_the_script_was_called_it_is_named(self, monkeypatch) -> None:
        assert typed_as("train") == "python -m kit.train"
        monkeypatch.setattr(sys, "argv", ["/usr/bin/kit", "train"])
        assert typed_as("train") == "kit train"
        monkeypatch.setattr(sys, "argv", ["kit/__main__.py"])
        assert typed_as("train") == "python -m kit.train"


class TestKit:
    @pytest.fixture
    def here(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("argv", [[], ["--help"]])
    def test_alone_it_lists_every_command(self, argv: list[str], here, capsys) -> None:
        assert kit.main(argv) == 0
        shown = capsys.readouterr().out
        assert all(f"python -m kit.{kind.door} " in shown for kind in DOORS)
        assert "python -m envcheck " in shown
        assert "newest runs" not in shown

    def test_and_the_newest_runs_whatever_state_they_are_in(self, here, capsys) -> None:
        for number in range(7):
            folder = here / "runs" / f"run-{number}"
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text(
                '{"status": "finished", "result": {"loss_before": 3, "loss_after": 2.5}}'
            )
            os.utime(folder, (number, number))
        (here / "runs" / "run-6" / "manifest.json").write_text("{")
        (here / "runs" / "run-5" / "manifest.json").write_text('["odd"]')
        (here / "runs" / "no-run").mkdir()
        assert kit.main([]) == 0
        *_, shown = capsys.readouterr().out.partition("The newest runs in runs:\n")
        assert [line.split()[0] for line in shown.splitlines()] == ["run-6", "run-5", "run-4", "run-3", "run-2"]
        assert "unknown" in shown.splitlines()[0]
        assert shown.splitlines()[2].endswith("finished     held-out loss 3.000 -> 2.500")

    def test_a_file_where_runs_should_be_is_no_error(self, here, capsys) -> None:
        (here / "runs").write_text("")
        assert kit.main([]) == 0
        assert "newest runs" not in capsys.readouterr().out

    def test_it_calls_the_commands(self, here, capsys) -> None:
        assert kit.main(["report", "--list", "nowhere"]) == 1
        assert "error: list-no-folder" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            kit.main(["train", "--help"])
        assert "Fine-tune" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("word", "fix"),
        [
            ("trian", "python -m kit.train"),
            ("my.csv", "python -m kit.train my.csv"),
            ("zzz", "python -m kit.train --help"),
        ],
    )
    def test_an_unknown_command_is_a_finding(self, word: str, fix: str, here, capsys) -> None:
        (here / "my.csv").write_text("a\n")
        assert kit.main([word]) == USAGE
        err = capsys.readouterr().err
        assert "error: unknown-command" in err
        assert f"fix: {fix}\n" in err

    def test_every_door_is_a_command(self) -> None:
        assert {kind.door for kind in DOORS} == kit.COMMANDS.keys() - {"doctor"}
        assert all(flags_of(kind) for kind in DOORS)
