"""A sweep: grid and ranges, who is stopped, what is found before it starts, what its folder says; and a real one."""

import csv
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas
import pytest
from optuna.distributions import CategoricalDistribution

from envcheck.facts import Facts
from kit import backend
from kit.options import LINEAR_LAYERS, Run, resolve
from kit.support import console
from kit.support.errors import KitError, problem
from kit.support.version import stamp
from kit.sweep import options, results, running, showing, space, study, trials
from kit.sweep.options import SweepCommand
from tests.support.processes import run_kit
from tests.support.results import losses_of

ROOT = Path(__file__).parents[2]
DATA = str(ROOT / "examples" / "identity.jsonl")
MACHINE = Facts(gpu=(), ram_gib=64.0, ram_free_gib=64.0)
BASE = ("--preset", "cpu", "--data", DATA)


def command(*arguments: object) -> SweepCommand:
    return options.load(list(map(str, (*BASE, *arguments))), lambda: MACHINE)


def of(*over: str, run: Run | None = None, trials: int | None = None) -> list[space.Point]:
    return space.points(run or Run(), over, trials)[1]


def name(point: space.Point) -> str:
    return ",".join(f"{option}={value}" for option, value in point.values.items())


def names(*over: str, run: Run | None = None, trials: int | None = None) -> list[str]:
    return [name(point) for point in of(*over, run=run, trials=trials)]


class TestGrid:
    def test_every_combination_in_the_order_given(self) -> None:
        assert names("lora_rank=4,16", "seed=1,2") == [
            "lora_rank=4,seed=1", "lora_rank=4,seed=2", "lora_rank=16,seed=1", "lora_rank=16,seed=2",
        ]  # fmt: skip

    def test_values_may_be_typed_in_other_ways_than_a_run_says_them(self) -> None:
        assert names("lora_rank=016,4", "seed=01,2,1") == [
            "lora_rank=16,seed=1", "lora_rank=16,seed=2", "lora_rank=4,seed=1", "lora_rank=4,seed=2",
        ]  # fmt: skip

    def test_values_become_those_of_a_run(self) -> None:
        found = [point.run for point in of("learning-rate=1e-4", "load_in_4bit=false,true")]
        assert [(run.learning_rate, run.load_in_4bit) for run in found] == [(1e-4, False), (1e-4, True)]

    def test_alpha_may_be_a_multiple_of_the_rank_and_equal_runs_are_one(self) -> None:
        assert names("lora_alpha=1r,2r,16", "lora_rank=8,16") == [
            "lora_alpha=8,lora_rank=8", "lora_alpha=16,lora_rank=16", "lora_alpha=16,lora_rank=8",
            "lora_alpha=32,lora_rank=16",
        ]  # fmt: skip

    def test_alpha_follows_the_rank_of_the_run_too(self) -> None:
        assert names("lora_alpha=0.5r", run=Run(lora_rank=32)) == ["lora_alpha=16"]

    @pytest.mark.parametrize(
        ("text", "layers", "shown"),
        [
            ("attention", LINEAR_LAYERS[:4], "attention"),
            ("attention+mlp", LINEAR_LAYERS, "all"),
            ("q_proj+v_proj", ("q_proj", "v_proj"), "q_proj+v_proj"),
        ],
    )
    def test_layers_by_their_group_or_name(self, text: str, layers: tuple[str, ...], shown: str) -> None:
        (point,) = of(f"target_modules={text}")
        assert (set(point.run.target_modules), point.values["target_modules"]) == (set(layers), shown)

    def test_the_default_keeps_alpha_at_the_rank(self) -> None:
        found = [point.run for point in of(*options.DEFAULT_OVER)]
        assert len(found) == 6
        assert all(run.lora_alpha == run.lora_rank for run in found)

    def test_a_grid_may_be_tried_in_part_and_is_trained_in_a_shuffled_order(self) -> None:
        all_of_it, part = of("lora_rank=1,2,4,8", "seed=1,2"), of("lora_rank=1,2,4,8", "seed=1,2", trials=3)
        assert sorted(point.turn for point in all_of_it) == [0, 0, 1, 1, 2, 2, 3, 3]
        assert [point.turn for point in all_of_it] != sorted(point.turn for point in all_of_it)
        assert [name(point) for point in part] == [name(point) for point in all_of_it if point.turn < 3]
        assert len(of("lora_rank=1,2", trials=100)) == 2


class TestRange:
    OVER = ("learning_rate=1e-5..1e-3", "lora_rank=4..64", "lora_alpha=2r", "lora_dropout=0..0.1")

    def test_values_are_drawn_within_it_and_are_those_of_a_run(self) -> None:
        runs = [point.run for point in of(*self.OVER, trials=200)]
        assert all(1e-5 <= run.learning_rate <= 1e-3 and 4 <= run.lora_rank <= 64 for run in runs)
        assert all(run.lora_alpha == 2 * run.lora_rank and 0 <= run.lora_dropout <= 0.1 for run in runs)

    def test_above_zero_by_factors_from_zero_by_differences(self) -> None:
        runs = [point.run for point in of(*self.OVER, trials=400)]
        assert 140 < sum(run.learning_rate < 1e-4 for run in runs) < 260, "half are below the geometric middle"
        assert 140 < sum(run.lora_rank <= 16 for run in runs) < 260
        assert 140 < sum(run.lora_dropout < 0.05 for run in runs) < 260

    def test_the_same_command_draws_the_same_and_more_trials_add_to_them(self) -> None:
        first, more = of(*self.OVER), of(*self.OVER, trials=25)
        assert [name(point) for point in of(*self.OVER)] == [name(point) for point in first]
        assert (len(first), len(more)) == (study.DRAWS, 25)
        assert {name(point) for point in first} < {name(point) for point in more}
        assert {name(point) for point in of(*self.OVER, run=Run(seed=1))}.isdisjoint(name(point) for point in first)

    def test_each_draw_is_trained_with_every_seed(self) -> None:
        found = of("learning_rate=1e-5..1e-3", "seed=1,2", trials=3)
        assert [point.run.seed for point in found] == [1, 2] * 3
        assert len({point.run.learning_rate for point in found}) == 3

    def test_a_number_names_a_folder_so_it_is_short(self) -> None:
        drawn = [name(point).partition("=")[2] for point in of("learning_rate=1e-5..1e-3", trials=50)]
        assert max(map(len, drawn)) <= len("0.000123")
        (low,) = {point.run.learning_rate for point in of("learning_rate=0.00012345..0.00012346", trials=5)}
        assert low in (0.00012345, 0.00012346), "but it stays within the range"


class TestStudy:
    """Who is stopped. losses: of each setting in turn, at 1/4, 1/2 and 3/4 of its steps."""

    @staticmethod
    def ends(tmp_path: Path, losses: list[list[float]], pruner: str = "halving", evaluations: int = 3) -> list[int]:
        """The evaluation where each is stopped; 0: trained to the end."""
        where: study.Space = {"lora_rank": CategoricalDistribution([*map(str, range(len(losses)))])}
        record, ends = study.open_study(tmp_path, pruner), []
        for turn, of_setting in enumerate(losses):
            entry = study.enter(record, where, {"lora_rank": str(turn)}, 100, evaluations)
            step = [round(100 * part / (evaluations + 1)) for part in range(1, evaluations + 1)]
            stops = (part for part, loss in enumerate(of_setting) if entry.should_stop(step[part], loss))
            ends.append(next(stops, -1) + 1)
            assert not entry.should_stop(100, 1e9), "nothing is stopped at its end"
            entry.end("stopped" if ends[-1] else None, of_setting[-1])
        return ends

    @pytest.mark.parametrize(
        ("first_losses", "ends"),
        [
            ([3.0, 1.0, 2.0, 0.5], [0, 0, 1, 0]),
            ([1.0, 2.0, 3.0, 4.0], [0, 1, 1, 1]),
            ([4.0, 3.0, 2.0, 1.0], [0, 0, 0, 0]),
            ([2.0, 2.0, 2.0], [0, 0, 0]),
            ([1.0, 5.0, 6.0, 1.5, 2.0, 9.0], [0, 1, 1, 0, 1, 1]),
            ([math.nan, 5.0], [1, 0]),
            ([1.0], [0]),
        ],
    )
    def test_the_better_half_of_those_that_came_there_goes_on(self, tmp_path, first_losses, ends) -> None:
        assert self.ends(tmp_path, [[loss, 0.0, 0.0] for loss in first_losses]) == ends

    def test_it_is_asked_again_at_half_of_the_steps_and_not_between(self, tmp_path) -> None:
        assert self.ends(tmp_path, [[1, 1, 1], [0.9, 2, 2], [0.8, 0.8, 9]]) == [0, 2, 0]

    def test_more_evaluations_ask_earlier(self, tmp_path) -> None:
        lines = [[1.0] * 7, [0.9, 0.9, 9.0, 9.0, 0, 0, 0], [9.0] * 7]
        assert self.ends(tmp_path, lines, evaluations=7) == [0, 4, 1]

    def test_the_median_of_those_that_finished_at_each_evaluation(self, tmp_path) -> None:
        assert self.ends(tmp_path, [[3, 3, 3], [2, 2, 4], [1, 1, 1], [2.5, 2.5, 2.5]], "median") == [0, 0, 0, 1]
        assert self.ends(tmp_path, [[3, 3, 1], [2, 2, 2]], "median") == [0, 3]

    def test_none_stops_nobody(self, tmp_path) -> None:
        assert self.ends(tmp_path, [[1, 1, 1], [9, 9, 9]], "none") == [0, 0]

    def test_an_evaluation_is_judged_once(self, tmp_path) -> None:
        """A run that goes on from a checkpoint before it measures it again."""
        self.ends(tmp_path, [[1.0, 1.0, 1.0]])
        where: study.Space = {"lora_rank": CategoricalDistribution(["0"])}
        record = study.open_study(tmp_path, "halving")
        entries = [study.enter(record, where, {"lora_rank": "0"}, 100, 3) for _ in range(3)]
        assert [entry.should_stop(25, loss) for entry, loss in zip(entries, (1.0, 2.0, 0.5), strict=True)] == [
            False, True, False,
        ]  # fmt: skip
        assert not any(entry.should_stop(25, 9.0) for entry in entries)

    def test_what_a_kill_leaves_of_the_record_does_not_matter(self, tmp_path) -> None:
        (tmp_path / study.JOURNAL).write_text('{"op_code": 0, "worker')
        (tmp_path / f"{study.JOURNAL}.lock").touch()
        assert self.ends(tmp_path, [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]) == [0, 1]
        assert not (tmp_path / f"{study.JOURNAL}.lock").exists()

    def test_optuna_can_read_the_record(self, tmp_path, capfd) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        self.ends(tmp_path, [[1.0, 1.0, 0.5], [2.0, 2.0, 2.0]])
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / study.JOURNAL)))
        found = optuna.load_study(study_name=tmp_path.name, storage=storage)
        assert found.user_attrs == stamp()
        assert [(trial.state.name, trial.value, trial.params) for trial in found.trials] == [
            ("COMPLETE", 0.5, {"lora_rank": "0"}), ("PRUNED", 2.0, {"lora_rank": "1"}),
        ]  # fmt: skip
        assert found.trials[0].intermediate_values == {1: 1.0, 2: 1.0, 3: 0.5}
        assert "".join(capfd.readouterr()) == "", "Optuna says nothing by itself"


def test_a_seed_without_a_loss_leaves_its_setting_none() -> None:
    assert results.mean_loss([1.0, 2.0]) == 1.5
    assert results.mean_loss([1.0, None]) is None
    assert results.mean_loss([]) is None


BAD = {
    "unknown option": (["--over", "lora_rnk=4"], "unknown-option", "Did you mean lora_rank?"),
    "an option that says where": (["--over", "output=a,b"], "option-may-not-vary", "output"),
    "other rows": (["--over", "max_length_tokens=64,128"], "option-may-not-vary", "max_length_tokens"),
    "a list": (["--over", "rank_pattern=q_proj"], "option-may-not-vary", "rank_pattern"),
    "no values": (["--over", "lora_rank="], "sweep-without-values", "lora_rank="),
    "no option": (["--over", "4,16"], "sweep-without-values", "4,16"),
    "a value out of range": (["--over", "lora_rank=0,4"], "wrong-value", "lora_rank=0"),
    "a value of the wrong kind": (["--over", "learning_rate=fast"], "wrong-value", "learning_rate=fast"),
    "no whole alpha": (["--over", "lora_alpha=0.3r", "--over", "lora_rank=4"], "wrong-value", "0.3r"),
    "a layer that is not there": (["--over", "target_modules=attention,q_prj"], "lora-target-missing", "q_proj"),
    "a method that needs more": (["--over", "method=lora,full"], "full-needs-16-bit", "4-bit"),
    "a missing file": (["--data", "nowhere.jsonl"], "data-file-missing", "nowhere.jsonl"),
    "no such model": (["--model", "tny"], "model", "tiny"),
    "an output": (["--output", "x"], "sweep-has-no-output", "--into x"),
    "nothing to measure on": (["--held-out-rows", "0"], "sweep-without-held-out-rows", "--eval-data"),
    "a file for a folder": (["--into", "README.md/x"], "output-not-writable", "--into"),
    "an unknown flag": (["--prunr", "none"], "unknown-option", "--pruner"),
    "a range from high to low": (["--over", "lora_rank=64..4"], "sweep-wrong-range", "the lower one first"),
    "a range with one end": (["--over", "lora_rank=4.."], "sweep-wrong-range", "lora_rank=4.."),
    "a range of words": (["--over", "method=lora..full"], "sweep-wrong-range", "takes numbers"),
    "a range of multiples": (["--over", "lora_alpha=1r..2r"], "sweep-wrong-range", "two numbers"),
    "a range of seeds": (["--over", "seed=1..3"], "sweep-wrong-range", "seed=1,2,3"),
    "a range without end": (["--over", "learning_rate=1e-5..inf"], "sweep-wrong-range", "inf"),
    "a range with a value beside it": (["--over", "lora_rank=4..8,16"], "sweep-wrong-range", "4..8,16"),
    "a range and values": (
        ["--over", "lora_rank=4..8", "--over", "lora_rank=16"],
        "sweep-wrong-range",
        "lora_rank=4..8,16",
    ),
    "an end out of range": (["--over", "lora_dropout=0..2"], "wrong-value", "lora_dropout=2"),
    "an end that is no whole number": (["--over", "lora_rank=1.5..4"], "wrong-value", "lora_rank=1.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_before_anything_is_written(name: str, tmp_path, monkeypatch) -> None:
    arguments, id, text = BAD[name]
    into = [] if "--into" in arguments else ["--into", tmp_path / "x"]
    monkeypatch.setattr(running.probe, "collect", lambda: MACHINE)
    monkeypatch.setattr(running, "train_trial", lambda *_: pytest.fail("a trial was begun"))
    with pytest.raises(KitError) as error:
        running.sweep(command(*arguments, *into))
    (finding,) = error.value.findings
    assert finding.id.startswith(id)
    assert text in f"{finding.what} {finding.why} {' '.join(finding.fix)}"
    assert list(tmp_path.iterdir()) == []


def test_all_that_is_wrong_with_the_lines_is_told_at_once() -> None:
    with pytest.raises(KitError) as error:
        of("lora_rnk=4", "lora_rank=0,4", "lora_rank=-1", "seed=1..2", "lora_dropout=")
    assert [finding.id for finding in error.value.findings] == [
        "unknown-option", "wrong-value", "wrong-value", "sweep-wrong-range", "sweep-without-values",
    ]  # fmt: skip
    assert error.value.status == 2


@pytest.mark.parametrize("arguments", [("--trials", 0), ("--trials", "two"), ("--pruner", "best")])
def test_a_wrong_number_is_told(arguments) -> None:
    with pytest.raises(KitError) as error:
        command(*arguments)
    assert error.value.status == 2
    assert error.value.findings[0].what.startswith(f"{arguments[0]} takes ")


def test_the_front_door_needs_no_heavy_library_to_plan(tmp_path) -> None:
    done = run_kit("kit.sweep", *BASE, "--into", tmp_path / "x", "--plan", "--json")
    assert done.returncode == 0, done.stderr
    plans = json.loads(done.stdout)
    assert len(plans) == 6
    params = [plans[f"lora_rank={rank},lora_alpha={rank},target_modules=all"]["trained_params"] for rank in (4, 16, 64)]
    assert params == [params[0], 4 * params[0], 16 * params[0]]
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_notebook() -> None:
    made = options.given(
        {"preset": "cpu", "data": DATA, "over": "lora_rank=2,4", "pruner": "none", "epochs": 2}, lambda: MACHINE
    )
    assert (made.over, made.pruner, made.run.epochs) == (("lora_rank=2,4",), "none", 2)
    with pytest.raises(KitError):
        options.given({"data": DATA, "lora_rnk": 2}, lambda: MACHINE)


class Machine:
    """Trains nothing: a trial's loss after a step is what `loss` says of its run, measured at each
    quarter. Writes what a run leaves. asked: (name, step it went on from, step where it ended) of each call."""

    def __init__(self, loss):
        self.loss, self.asked = loss, []

    def __call__(self, trial: trials.PlannedTrial, facts: Facts, on_evaluation, on_progress) -> None:
        folder, run = trial.folder, trial.command.run
        lines = self.kept(folder)
        begin = lines[-1]["step"] if lines else 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.toml").write_text(resolve.to_toml(run, {}))
        (folder / "manifest.json").write_text(json.dumps({"status": "running", "result": None}))
        status, step, loss = "finished", begin, None
        with (folder / "metrics.jsonl").open("w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            for step in range(begin + 1, trial.steps + 1):
                on_progress("training", step, trial.steps, "")
                line = {"step": step, "loss": 9.0, "elapsed_s": float(step), "memory_bytes": step << 20}
                file.write(json.dumps(line) + "\n")
                if step not in {trial.steps * part // 4 for part in (1, 2, 3, 4)}:
                    continue
                loss = self.loss(run, step)
                if isinstance(loss, BaseException):
                    status = "failed"
                    break
                if step < trial.steps:
                    file.write(json.dumps({"step": step, "held_out_loss": loss}) + "\n")
                    file.flush()
                    if on_evaluation(step, loss):
                        status = "interrupted"
                        break
        self.asked.append((trial.name, begin, step))
        result = {"steps": step, "train_s": float(step), "loss_after": loss} if status != "failed" else None
        (folder / "manifest.json").write_text(json.dumps({"status": status, "result": result}))
        if isinstance(loss, BaseException):
            raise loss

    @staticmethod
    def kept(folder: Path) -> list[dict]:
        """What a run has of its metrics when it goes on from its newest checkpoint, which is that of an evaluation."""
        path = folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        measured = [number for number, line in enumerate(lines, start=1) if "held_out_loss" in line]
        return lines[: measured[-1]] if measured else []


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """swept(loss, flags...) -> (sweep, machine), in one folder; 8 steps each unless said otherwise."""
    monkeypatch.setattr(running.probe, "collect", lambda: MACHINE)
    monkeypatch.setattr(backend, "free_memory", lambda: None)

    def run(loss, *arguments: object):
        machine = Machine(loss)
        monkeypatch.setattr(running, "train_trial", machine)
        steps = () if "--max-steps" in arguments else ("--max-steps", 8)
        return running.sweep(command("--into", tmp_path / "x", *steps, *arguments)), machine

    return run


RANKS = ("--over", "lora_rank=1,2,4,8")  # trained in the order 4, 2, 1, 8
NO_PRUNER = ("--pruner", "none")


def by_rank(run: Run, step: int) -> float:
    """Higher ranks are better, and all get better."""
    return 10.0 / run.lora_rank - 0.01 * step


def test_losers_are_stopped_and_no_step_is_done_twice(swept) -> None:
    done, machine = swept(by_rank, *RANKS)
    assert machine.asked == [
        ("lora_rank 4", 0, 8), ("lora_rank 2", 0, 2), ("lora_rank 1", 0, 2), ("lora_rank 8", 0, 8),
    ]  # fmt: skip
    assert [(one.values["lora_rank"], one.status, one.step, one.steps) for one in done.trials] == [
        ("1", "stopped", 2, 8), ("2", "stopped", 2, 8), ("4", "finished", 8, 8), ("8", "finished", 8, 8),
    ]  # fmt: skip
    assert [one.loss for one in done.trials] == [by_rank(Run(lora_rank=2**n), s) for n, s in enumerate((2, 2, 8, 8))]
    assert done.best.values == {"lora_rank": "8"}
    assert "lora_rank=8/run.toml" in done.best_command
    assert any("lora_rank 2: stopped at step 2 of 8" in note and "best of 2 settings" in note for note in done.notes)


def test_who_is_ahead_at_first_may_be_stopped_later(swept) -> None:
    def loss(run: Run, step: int) -> float:
        return 1.0 if run.lora_rank == 8 and step <= 2 else 10.0 - run.lora_rank if run.lora_rank != 8 else 9.0

    done, machine = swept(loss, *RANKS)
    assert machine.asked[-1] == ("lora_rank 8", 0, 4)
    assert [(one.status, one.step, one.loss) for one in done.trials][-1] == ("stopped", 4, 9.0)


def test_the_same_command_again_has_nothing_to_do(swept) -> None:
    first, _ = swept(by_rank, *RANKS)
    again, machine = swept(by_rank, *RANKS)
    assert machine.asked == []
    assert (again.trials, again.notes) == (first.trials, first.notes)


def test_without_a_pruner_all_are_trained_to_their_end_also_those_stopped_before(swept) -> None:
    swept(by_rank, *RANKS)
    done, machine = swept(by_rank, *RANKS, *NO_PRUNER)
    assert machine.asked == [("lora_rank 2", 2, 8), ("lora_rank 1", 2, 8)]
    assert {one.status for one in done.trials} == {"finished"}
    again, machine = swept(by_rank, *RANKS)
    assert machine.asked == []
    assert {one.status for one in again.trials} == {"finished"}, "what is trained in full is not given up afterwards"


def test_a_range_is_drawn_trained_and_gone_on_with(swept) -> None:
    def loss(run: Run, step: int) -> float:
        return abs(math.log10(run.learning_rate) + 4) + 0.01 * run.lora_rank

    over = ("--over", "learning_rate=1e-5..1e-3", "--over", "lora_rank=4..64", "--trials", 6)
    done, machine = swept(loss, *over)
    assert len(machine.asked) == len(done.trials) == 6
    assert done.best.loss == min(one.loss for one in done.trials)
    assert {one.status for one in done.trials} == {"finished", "stopped"}
    again, machine = swept(loss, *over[:-1], 8)
    assert len(machine.asked) == 2
    assert {one.folder for one in done.trials} < {one.folder for one in again.trials}
    ElementTree.fromstring(showing.drawn(again))


def test_another_grid_adds_its_trials_and_takes_over_what_is_there(swept) -> None:
    swept(by_rank, "--over", "lora_rank=1,2", *NO_PRUNER)
    done, machine = swept(by_rank, "--over", "lora_rank=2,4", "--over", "lora_alpha=16", *NO_PRUNER)
    assert machine.asked == [("lora_rank 4, lora_alpha 16", 0, 8)]
    assert [one.values["lora_rank"] for one in done.trials] == ["1", "2", "4"]
    done, _ = swept(by_rank, "--over", "learning_rate=1e-3", *NO_PRUNER)
    assert done.varied == ("learning_rate", "lora_rank")
    assert len(done.trials) == 4


def test_other_options_in_the_same_folder_are_told(swept) -> None:
    swept(by_rank, "--over", "lora_rank=1,2")
    folder = Path(swept(by_rank, "--over", "lora_rank=1,2")[0].folder)
    for trial in (folder / "trials").iterdir():
        (trial / "data.json").write_text(json.dumps({"sha256": _sha256()}))
    with pytest.raises(KitError) as error:
        swept(by_rank, "--over", "lora_rank=1,2", "--learning-rate", "1e-3")
    finding = error.value.findings[0]
    assert finding.id == "sweep-holds-another-run"
    assert finding.fix[1].startswith("--over learning_rate=0.001")
    with pytest.raises(KitError) as error:
        swept(by_rank, "--over", "lora_rank=4", "--held-out-rows", 3)
    assert error.value.findings[0].id == "sweep-of-other-rows"


def _sha256() -> str:
    from kit import data, models, prompt

    run = command().run
    return data.read(run, prompt.load(models.find("tiny"), "auto")).report.sha256


def test_a_trial_that_fails_is_on_record_and_the_others_go_on(swept) -> None:
    broken = {
        1: KitError(problem("out-of-memory", "Memory ran out.", "No room.")),
        4: RuntimeError("shapes do not fit"),
    }
    done, machine = swept(lambda run, step: broken.get(run.lora_rank) or by_rank(run, step), *RANKS)
    assert [(one.status, one.loss is None) for one in done.trials] == [
        ("failed", True), ("finished", False), ("failed", True), ("finished", False),
    ]  # fmt: skip
    assert done.trials[0].words == "Memory ran out. No room."
    assert done.trials[2].words == "RuntimeError: shapes do not fit"
    again, machine = swept(by_rank, *RANKS)
    assert machine.asked == [("lora_rank 4", 0, 8), ("lora_rank 1", 0, 2)], "a failed one gets another try"
    assert [one.status for one in again.trials] == ["stopped", "finished", "finished", "finished"]


def test_a_card_that_failed_ends_the_sweep_and_the_same_command_goes_on(swept) -> None:
    """Every other trial of this process would fail as well, and be on record as failed."""
    lost = backend.CardFailed(problem("card-failed", "The card failed.", "No reason known.", "again"))
    with pytest.raises(backend.CardFailed):
        swept(lambda run, step: lost if run.lora_rank == 2 else by_rank(run, step), *RANKS)
    done, machine = swept(by_rank, *RANKS)
    assert [name for name, *_ in machine.asked] == ["lora_rank 2", "lora_rank 1", "lora_rank 8"]
    assert "failed" not in {one.status for one in done.trials}


def test_when_all_fail_nobody_is_the_best(swept) -> None:
    done, _ = swept(lambda *_: RuntimeError("no"), *RANKS)
    assert done.best is None
    assert done.outcome() == ["No trial has finished."]
    assert {one.status for one in done.trials} == {"failed"}


def test_seeds_of_a_setting_live_or_die_together(swept) -> None:
    """One seed of rank 1 would be the best of all; its setting is not, by the seed that all have first."""

    def loss(run: Run, step: int) -> float:
        return 0.1 if (run.lora_rank, run.seed) == (1, 2) else by_rank(run, step)

    done, machine = swept(loss, *RANKS, "--over", "seed=1,2")
    assert machine.asked == [
        ("lora_rank 4, seed 1", 0, 8), ("lora_rank 4, seed 2", 0, 8), ("lora_rank 2, seed 1", 0, 2),
        ("lora_rank 1, seed 1", 0, 2), ("lora_rank 8, seed 1", 0, 8), ("lora_rank 8, seed 2", 0, 8),
    ]  # fmt: skip
    assert [(one.values, one.status) for one in done.settings] == [
        ({"lora_rank": "1"}, "stopped"), ({"lora_rank": "2"}, "stopped"), ({"lora_rank": "4"}, "finished"),
        ({"lora_rank": "8"}, "finished"),
    ]  # fmt: skip
    assert done.settings[0].loss == by_rank(Run(lora_rank=1), 2)
    assert [(one.status, one.words) for one in done.settings[0].trials] == [
        ("stopped", ""), ("left out", "its setting stopped with another seed"),
    ]  # fmt: skip
    again, machine = swept(loss, *RANKS, "--over", "seed=1,2")
    assert (machine.asked, again.trials) == ([], done.trials)


def test_a_setting_is_judged_by_the_same_seed_of_the_others(swept) -> None:
    """Seed 2 has the easier rows: settings that are told apart by it alone would all be stopped but the first."""

    def loss(run: Run, step: int) -> float:
        return by_rank(run, step) - (100.0 if run.seed == 2 else 0.0)

    done, _ = swept(loss, *RANKS, "--over", "seed=1,2")
    assert [one.status for one in done.settings] == ["stopped", "stopped", "finished", "finished"]


def test_a_seed_that_fails_ends_its_setting(swept) -> None:
    def loss(run: Run, step: int):
        return RuntimeError("no") if (run.lora_rank, run.seed) == (8, 2) else by_rank(run, step)

    done, machine = swept(loss, "--over", "lora_rank=1,8", "--over", "seed=1,2,3")
    assert [(one.status, one.step) for one in done.trials] == [
        *[("finished", 8)] * 3, ("finished", 8), ("failed", 2), ("left out", 0),
    ]  # fmt: skip
    assert done.best.values == {"lora_rank": "1"}
    assert done.settings[1].status == "failed"
    assert done.trials[-1].words == "its setting failed with another seed"
    done, machine = swept(by_rank, "--over", "lora_rank=1,8", "--over", "seed=1,2,3")
    assert machine.asked == [("lora_rank 8, seed 2", 0, 8), ("lora_rank 8, seed 3", 0, 8)]
    assert done.best.values == {"lora_rank": "8"}


def test_what_is_within_the_spread_of_the_seeds_is_said(swept) -> None:
    """Each seed has rows of its own to measure on, so only the difference seed by seed counts."""
    hard = {1: 0.0, 2: 5.0, 3: 10.0}
    better = {1: 0.3, 2: 0.3, 4: 0.1, 8: 0.0}
    noise = {4: {1: 0.3, 2: -0.4, 3: 0.1}}

    def loss(run: Run, step: int) -> float:
        return 1.0 + hard[run.seed] + better[run.lora_rank] + noise.get(run.lora_rank, {}).get(run.seed, 0.0)

    done, _ = swept(loss, *RANKS, "--over", "seed=1,2,3", *NO_PRUNER)
    within = {one.values["lora_rank"]: one.is_within_spread_of(done.best) for one in done.settings[:-1]}
    assert done.best.values == {"lora_rank": "8"}
    assert within == {"1": False, "2": False, "4": True}
    assert done.best.spread == pytest.approx(5.0)
    bars = {one.values["lora_rank"]: done.plotted(one)[1] for one in done.settings}
    assert bars["8"] == pytest.approx(bars["1"])
    assert bars["1"] < bars["4"] < 1.0, "what the seeds' own rows are worth is no bar"
    assert any("Within the spread of the seeds" in text and "lora_rank 4" in text for text in done.outcome())
    assert "(within the spread)" in done.html_table()


def test_only_seeds_in_common_are_compared(swept) -> None:
    """Seed 1 has easy rows: a setting that was measured on them alone is not the better one for it."""
    rows = {3407: 5.0, 1: 0.0, 2: 5.0}

    def loss(run: Run, step: int) -> float:
        return rows[run.seed] + by_rank(run, step)

    swept(loss, "--over", "lora_rank=1,2", "--over", "seed=1,2", *NO_PRUNER)
    done, _ = swept(loss, "--over", "lora_rank=4", "--over", "seed=2", *NO_PRUNER)
    assert [one.seeds for one in done.settings] == [{"1", "2"}, {"1", "2"}, {"2"}]
    assert done.best.values == {"lora_rank": "4"}
    assert [done.plotted(one)[0] for one in done.settings] == [
        loss(Run(lora_rank=rank, seed=2), 8) for rank in (1, 2, 4)
    ]
    assert any("Compared by what all settings have: seed 2." in text for text in done.outcome())
    done, _ = swept(loss, "--over", "lora_rank=8", *NO_PRUNER)
    assert any("No seed is common to all" in text for text in done.outcome())
    assert "other seeds" in done.html_table()


def test_seeds_at_different_points_of_their_runs_have_no_mean(swept) -> None:
    swept(by_rank, "--over", "lora_rank=1", "--over", "seed=1", *NO_PRUNER)
    done, _ = swept(by_rank, *RANKS, "--over", "seed=2")
    assert [one.status for one in done.settings] == ["stopped", "stopped", "finished", "finished"]
    assert [one.loss is None for one in done.settings] == [True, False, False, False]


def test_what_will_not_fit_is_left_out_in_words(swept, monkeypatch) -> None:
    plain = running.plans

    def with_one_too_large(*arguments):
        found = plain(*arguments)
        first = replace(found.trials[0], plan=replace(found.trials[0].plan, verdict=trials.WILL_NOT_FIT))
        return replace(found, trials=(first, *found.trials[1:]))

    monkeypatch.setattr(running, "plans", with_one_too_large)
    done, machine = swept(by_rank, "--over", "lora_rank=1,2", *NO_PRUNER)
    assert machine.asked == [("lora_rank 2", 0, 8)]
    assert (done.trials[0].status, done.trials[0].words) == ("left out", "the plan says that it will not fit")


def test_nothing_fits_a_small_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(running.probe, "collect", lambda: replace(MACHINE, ram_gib=0.1, ram_free_gib=0.1))
    with pytest.raises(KitError) as error:
        running.sweep(command("--into", tmp_path / "x"))
    assert error.value.findings[0].id == "sweep-nothing-fits"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "step"), [(4, 2), (4, 8), (2, 2), (1, 2), (8, 4), (8, 8)])
def test_ctrl_c_anywhere_leaves_what_is_done_and_changes_nothing(swept, tmp_path, rank: int, step: int) -> None:
    whole, _ = swept(by_rank, *RANKS)
    shutil.rmtree(tmp_path / "x")

    def loss(run: Run, now: int) -> float:
        if (run.lora_rank, now) == (rank, step):
            raise KeyboardInterrupt
        return by_rank(run, now)

    with pytest.raises(KeyboardInterrupt):
        swept(loss, *RANKS)
    found = json.loads((tmp_path / "x" / "results.json").read_text())
    status = {one["values"]["lora_rank"]: one["status"] for one in found["trials"]}
    ends = {"4": "finished", "2": "stopped", "1": "stopped", "8": "finished"}  # in the order of training
    turn = list(ends).index(str(rank))
    assert [status[name] for name in ends] == [*list(ends.values())[:turn], "unfinished", *["waiting"] * (3 - turn)]
    done, machine = swept(by_rank, *RANKS)
    assert machine.asked[0][:2] == (f"lora_rank {rank}", step - 2), "from its newest checkpoint"
    assert (done.trials, done.notes) == (whole.trials, whole.notes)


def test_two_sweeps_do_not_share_a_folder(swept, tmp_path) -> None:
    with running.alone_in(tmp_path / "x"), pytest.raises(KitError) as error:
        swept(by_rank, *RANKS)
    assert error.value.findings[0].id == "sweep-in-use"


def test_the_files_of_a_sweep(swept, tmp_path) -> None:
    done, _ = swept(by_rank, *RANKS, "--over", "target_modules=attention,all")
    rows = list(csv.DictReader((tmp_path / "x" / "results.csv").open()))
    assert [float(row["held_out_loss"]) for row in rows] == [one.loss for one in done.trials]
    assert [int(row["trained_params"]) for row in rows] == [one.trained_params for one in done.trials]
    assert [int(row["peak_memory_bytes"]) for row in rows] == [one.step << 20 for one in done.trials]
    frame = pandas.read_csv(tmp_path / "x" / "results.csv")
    assert frame["lora_rank"].tolist() == [1, 1, 2, 2, 4, 4, 8, 8]
    assert frame["target_modules"].tolist() == ["attention", "all"] * 4
    found = json.loads((tmp_path / "x" / "results.json").read_text())
    assert found["best"]["values"] == done.best.values
    assert {name: found[name] for name in stamp()} == stamp()
    page = (tmp_path / "x" / "sweep.html").read_text()
    assert "The loss of a stopped trial is that of the step where it stopped" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_plot_has_a_line_for_each_combination_and_hollow_marks(swept, tmp_path) -> None:
    done, _ = swept(by_rank, *RANKS, "--over", "target_modules=attention,all")
    page = (tmp_path / "x" / "sweep.html").read_text()
    text = page[page.index("<svg") : page.index("</svg>") + len("</svg>")]
    ElementTree.fromstring(text)
    assert all(name in text for name in ("target_modules attention", "target_modules all", ">8<"))
    assert "--c1:" in page
    full, _ = swept(by_rank, *RANKS, "--over", "target_modules=attention,all", *NO_PRUNER)
    hollow = re.compile(r'<use [^>]*style="fill-opacity: 0')
    assert len(hollow.findall(showing.drawn(done))) == sum(one.status == "stopped" for one in done.trials) > 0
    assert not hollow.search(showing.drawn(full))


def test_alpha_that_follows_the_rank_makes_one_line(swept) -> None:
    done, _ = swept(by_rank, "--over", "lora_rank=1,2,4", "--over", "lora_alpha=1r,2r", *NO_PRUNER)
    text = showing.drawn(done)
    assert [f"lora_alpha {value}<" in text for value in ("1r", "2r", "1", "2", "8")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_labels_of_near_numbers_do_not_stand_on_each_other() -> None:
    values = ("0.000656", "0.000729", "0.00188", "0.00537", "0.00633")
    text = showing.drawn(results.recorded([{"values": {"learning_rate": value}, "loss": 1.0} for value in values]))
    assert [f">{value}<" in text for value in values] == [True, False, True, True, False]
    ranks = [str(2**power) for power in range(8)]
    text = showing.drawn(results.recorded([{"values": {"lora_rank": value}, "loss": 1.0} for value in ranks]))
    assert all(f">{value}<" in text for value in ranks)


@pytest.mark.parametrize("over", ["target_modules=attention,all", "seed=1,2", "lora_dropout=0,0.1", "lora_rank=4"])
def test_the_plot_of_other_options(swept, over: str) -> None:
    done, _ = swept(by_rank, "--over", over, *NO_PRUNER)
    ElementTree.fromstring(showing.drawn(done))
    showing.show(console.stderr, done)


def test_words_of_the_user_are_escaped(swept) -> None:
    done, _ = swept(lambda *_: RuntimeError("<b>no</b>"), "--over", "lora_rank=1,2")
    assert "<b>no" not in showing.page_of(done)
    assert "&lt;b&gt;no" in showing.page_of(done)


SMALL = (*BASE, "--max-steps", 4, "--learning-rate", "5e-3", "--batch-size", 4, "--sample-tokens", 2, "--evaluations",
         1, "--held-out-rows", 4, "--backend", "hf", "--over", "lora_rank=2,8", "--over",
         "target_modules=attention,all")  # fmt: skip


def process(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "kit.sweep", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupted(folder: Path, number: int, pattern: str, files: int) -> tuple[int, str]:
    """Status and standard error of a sweep that gets that signal once its folder has so many files of the pattern."""
    broken = process(*SMALL, "--into", folder)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and broken.poll() is None and len(list(folder.glob(pattern))) < files:
        time.sleep(0.02)
    broken.send_signal(number)
    error_text = broken.communicate(timeout=200)[1]
    return broken.returncode, error_text


@pytest.mark.torch
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_sweep_that_is_killed_goes_on_to_the_same_losses(tmp_path, kit_train) -> None:
    """Stopped in the middle of a trial, killed in the middle of another. And a trial is the run that kit.train does, to
    the last bit."""
    done = run_kit("kit.sweep", *SMALL, "--into", tmp_path / "whole", "--json", libraries="hf")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert {one["status"] for one in first["trials"]} == {"finished", "stopped"}
    assert all(one["step"] == (4 if one["status"] == "finished" else 2) for one in first["trials"])

    status, text = interrupted(tmp_path / "x", signal.SIGINT, "trials/*/events.jsonl", 1)
    assert status == 130, text
    assert "Traceback" not in text
    status, text = interrupted(tmp_path / "x", signal.SIGKILL, "trials/*/metrics.jsonl", 2)
    assert status == -signal.SIGKILL, text
    done = run_kit("kit.sweep", *SMALL, "--into", tmp_path / "x", "--json", libraries="hf")
    assert done.returncode == 0, done.stderr
    second = json.loads(done.stdout)
    keys = ("values", "status", "loss", "step", "trained_params")
    assert [[one[key] for key in keys] for one in second["trials"]] == [
        [one[key] for key in keys] for one in first["trials"]
    ]
    for one in first["trials"]:
        folder = Path(one["folder"])
        assert losses_of(folder) == losses_of(tmp_path / "x" / "trials" / folder.name)
        assert [step for step, _ in losses_of(folder)] == list(range(1, one["step"] + 1))

    best = Path(first["best"]["folder"])
    assert kit_train("--config", best / "run.toml", "--output", tmp_path / "plain", libraries="hf").returncode == 0
    assert losses_of(tmp_path / "plain") == losses_of(best)
    adapters = [folder / "adapter" / "adapter_model.safetensors" for folder in (tmp_path / "plain", best)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
