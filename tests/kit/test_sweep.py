"""A sweep: the grid, who goes on, what is found before it starts, what its folder says; and a real one."""

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from envcheck.facts import Facts
from kit import backend
from kit.options import LINEAR_LAYERS, Run, resolve
from kit.run.fit import PAUSED
from kit.support import console
from kit.support.errors import KitError, problem
from kit.sweep import grid, halving, options, planning, results, running, showing
from kit.sweep.options import SweepCommand

ROOT = Path(__file__).parents[2]
DATA = str(ROOT / "examples" / "identity.jsonl")
MACHINE = Facts(gpu=(), ram_gib=64.0, ram_free_gib=64.0)
BASE = ("--preset", "cpu", "--data", DATA)


def command(*arguments: object) -> SweepCommand:
    return options.load(list(map(str, (*BASE, *arguments))), lambda: MACHINE)


def names(*over: str, run: Run | None = None) -> list[str]:
    return [point.name for point in grid.points(run or Run(), over)]


class TestGrid:
    def test_every_combination_in_the_order_given(self) -> None:
        assert names("lora_rank=4,16", "seed=1,2") == [
            "lora_rank=4,seed=1", "lora_rank=4,seed=2", "lora_rank=16,seed=1", "lora_rank=16,seed=2",
        ]  # fmt: skip

    def test_values_become_those_of_a_run(self) -> None:
        found = [point.run for point in grid.points(Run(), ["learning-rate=1e-4", "load_in_4bit=false,true"])]
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
        (point,) = grid.points(Run(), [f"target_modules={text}"])
        assert (set(point.run.target_modules), point.values["target_modules"]) == (set(layers), shown)

    def test_the_default_keeps_alpha_at_the_rank(self) -> None:
        found = [point.run for point in grid.points(Run(), options.DEFAULT_OVER)]
        assert len(found) == 6
        assert all(run.lora_alpha == run.lora_rank for run in found)


class TestHalving:
    @pytest.mark.parametrize(
        ("losses", "keep", "stay"),
        [
            ({"a": 3.0, "b": 1.0, "c": 2.0}, 0.5, {"b", "c"}),
            ({"a": 2.0, "b": 2.0, "c": 2.0, "d": 2.0}, 0.5, {"a", "b", "c", "d"}),
            ({"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0}, 0.5, {"a", "b", "c"}),
            ({"a": math.nan, "b": 5.0, "c": None, "d": math.inf}, 0.5, {"b"}),
            ({"a": None, "b": math.nan}, 0.5, set()),
            ({"a": 1.0}, 0.1, {"a"}),
            ({str(number): float(number) for number in range(10)}, 0.3, {"0", "1", "2"}),
            ({}, 0.5, set()),
        ],
    )
    def test_who_goes_on(self, losses: dict, keep: float, stay: set[str]) -> None:
        assert halving.survivors(losses, keep) == stay

    def test_the_rungs_end_with_the_run(self) -> None:
        assert halving.rung_steps(100, 3, 0.5) == (25, 50, 100)
        assert halving.rung_steps(100, 1, 0.5) == (100,)
        assert halving.rung_steps(2, 3, 0.1) == (1, 1, 2)

    def test_a_seed_without_a_loss_leaves_its_setting_none(self) -> None:
        assert halving.mean_loss([1.0, 2.0]) == 1.5
        assert halving.mean_loss([1.0, None]) is None
        assert halving.mean_loss([1.0, math.nan]) is None
        assert halving.mean_loss([]) is None

    def test_the_steps_of_the_whole_sweep(self) -> None:
        assert halving.steps_to_do([(25, 50, 100)] * 4, 0.5) == 4 * 25 + 2 * 25 + 50
        assert halving.steps_to_do([(100,)] * 3, 0.5) == 300


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
    "an unknown flag": (["--rungz", "2"], "unknown-option", "--rungs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_before_anything_is_written(name: str, tmp_path, monkeypatch) -> None:
    arguments, id, text = BAD[name]
    into = [] if "--into" in arguments else ["--into", tmp_path / "x"]
    monkeypatch.setattr(running.probe, "collect", lambda: MACHINE)
    monkeypatch.setattr(running, "_trainer", lambda _: pytest.fail("a trial was begun"))
    with pytest.raises(KitError) as error:
        running.sweep(command(*arguments, *into))
    (finding,) = error.value.findings
    assert finding.id.startswith(id)
    assert text in f"{finding.what} {finding.why} {' '.join(finding.fix)}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--rungs", 0), ("--keep", 1), ("--keep", 0), ("--rungs", "two")])
def test_a_wrong_number_is_told(arguments) -> None:
    with pytest.raises(KitError) as error:
        command(*arguments)
    assert error.value.status == 2
    assert error.value.findings[0].what.startswith(f"{arguments[0]} takes ")


def test_the_front_door_needs_no_heavy_library_to_plan(without_heavy_libraries, tmp_path) -> None:
    done = without_heavy_libraries("kit.sweep.__main__", *BASE, "--into", tmp_path / "x", "--plan", "--json")
    assert done.returncode == 0, done.stderr
    plans = json.loads(done.stdout)
    assert len(plans) == 6
    params = [plans[f"lora_rank={rank},lora_alpha={rank},target_modules=all"]["trained_params"] for rank in (4, 16, 64)]
    assert params == [params[0], 4 * params[0], 16 * params[0]]
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_notebook() -> None:
    made = options.given(
        {"preset": "cpu", "data": DATA, "over": "lora_rank=2,4", "rungs": 1, "epochs": 2}, lambda: MACHINE
    )
    assert (made.over, made.rungs, made.run.epochs) == (("lora_rank=2,4",), 1, 2)
    with pytest.raises(KitError):
        options.given({"data": DATA, "lora_rnk": 2}, lambda: MACHINE)


class Machine:
    """Trains nothing: a trial's loss after a step is what `loss` says of its run. Writes what a run leaves."""

    def __init__(self, loss):
        self.loss, self.asked = loss, []

    def __call__(self, trial: planning.Planned, pause_step: int | None, shown) -> None:
        folder, run = trial.folder, trial.command.run
        end = pause_step or trial.steps
        begin = results.read(folder).last_step
        self.asked.append((trial.name, begin, end))
        loss = self.loss(run, end)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.toml").write_text(resolve.to_toml(run, {}))
        with (folder / "metrics.jsonl").open("a") as file:
            for step in range(begin + 1, end + 1):
                shown("training", step, trial.steps, "")
                line = {"step": step, "loss": 9.0, "elapsed_s": float(step), "memory_bytes": step << 20}
                file.write(json.dumps(line) + "\n")
        status = "finished" if end == trial.steps else "interrupted"
        if isinstance(loss, BaseException):
            status = "failed"
        result = {"steps": end, "train_s": float(end), "loss_after": loss} if status != "failed" else None
        (folder / "manifest.json").write_text(json.dumps({"status": status, "result": result}))
        if isinstance(loss, BaseException):
            raise loss
        if pause_step:
            with (folder / "events.jsonl").open("a") as file:
                file.write(json.dumps({"kind": PAUSED, "text": "", "step": end, "held_out_loss": loss}) + "\n")


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """swept(loss, flags...) -> (sweep, machine), in one folder; 8 steps each unless said otherwise."""
    monkeypatch.setattr(running.probe, "collect", lambda: MACHINE)
    monkeypatch.setattr(backend, "free_memory", lambda: None)

    def run(loss, *arguments: object):
        machine = Machine(loss)
        monkeypatch.setattr(running, "_trainer", lambda _: machine)
        steps = () if "--max-steps" in arguments else ("--max-steps", 8)
        return running.sweep(command("--into", tmp_path / "x", *steps, *arguments)), machine

    return run


RANKS = ("--over", "lora_rank=1,2,4,8")


def by_rank(run: Run, step: int) -> float:
    """Higher ranks are better, and all get better."""
    return 10.0 / run.lora_rank - 0.01 * step


def test_the_better_half_goes_on_and_no_step_is_done_twice(swept) -> None:
    done, machine = swept(by_rank, *RANKS)
    assert machine.asked == [
        *((f"lora_rank {rank}", 0, 2) for rank in (1, 2, 4, 8)),
        *((f"lora_rank {rank}", 2, 4) for rank in (4, 8)),
        ("lora_rank 8", 4, 8),
    ]
    assert [(one.values["lora_rank"], one.status, one.step, one.steps) for one in done.trials] == [
        ("1", "stopped", 2, 8), ("2", "stopped", 2, 8), ("4", "stopped", 4, 8), ("8", "finished", 8, 8),
    ]  # fmt: skip
    assert [one.loss for one in done.trials] == [by_rank(Run(lora_rank=2**n), s) for n, s in enumerate((2, 2, 4, 8))]
    assert done.best.values == {"lora_rank": "8"}
    assert "lora_rank=8/run.toml" in done.best_command
    assert any("2 of 4 settings go on" in note and "lora_rank 1 at step 2" in note for note in done.notes)


def test_the_same_command_again_has_nothing_to_do(swept) -> None:
    first, _ = swept(by_rank, *RANKS)
    again, machine = swept(by_rank, *RANKS)
    assert machine.asked == []
    assert again.trials == first.trials


def test_one_rung_trains_all_to_their_end_also_those_stopped_before(swept) -> None:
    swept(by_rank, *RANKS)
    done, machine = swept(by_rank, *RANKS, "--rungs", 1)
    assert machine.asked == [("lora_rank 1", 2, 8), ("lora_rank 2", 2, 8), ("lora_rank 4", 4, 8)]
    assert {one.status for one in done.trials} == {"finished"}


def test_another_grid_adds_its_trials_and_takes_over_what_is_there(swept) -> None:
    swept(by_rank, "--over", "lora_rank=1,2", "--rungs", 1)
    done, machine = swept(by_rank, "--over", "lora_rank=2,4", "--over", "lora_alpha=16", "--rungs", 1)
    assert machine.asked == [("lora_rank 4, lora_alpha 16", 0, 8)]
    assert [one.values["lora_rank"] for one in done.trials] == ["1", "2", "4"]
    done, _ = swept(by_rank, "--over", "learning_rate=1e-3", "--rungs", 1)
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
    done, machine = swept(lambda run, step: broken.get(run.lora_rank) or by_rank(run, step), *RANKS, "--rungs", 2)
    assert [(one.status, one.loss is None) for one in done.trials] == [
        ("failed", True), ("finished", False), ("failed", True), ("finished", False),
    ]  # fmt: skip
    assert done.trials[0].words == "Memory ran out. No room."
    assert done.trials[2].words == "RuntimeError: shapes do not fit"
    again, machine = swept(by_rank, *RANKS, "--rungs", 2)
    assert machine.asked[:2] == [("lora_rank 1", 4, 4), ("lora_rank 4", 4, 4)], "a failed one gets another try"
    assert machine.asked[2:] == [("lora_rank 4", 4, 8)]
    assert [one.status for one in again.trials] == ["stopped", "finished", "finished", "finished"]


def test_when_all_fail_nobody_is_the_best(swept) -> None:
    done, _ = swept(lambda *_: RuntimeError("no"), *RANKS)
    assert done.best is None
    assert done.told() == ["No trial has finished."]
    assert {one.status for one in done.trials} == {"failed"}


def test_seeds_of_a_setting_live_or_die_together(swept) -> None:
    """One seed of rank 1 is the best of all; its setting is not."""

    def loss(run: Run, step: int) -> float:
        return 0.1 if (run.lora_rank, run.seed) == (1, 2) else by_rank(run, step)

    over = ("--over", "lora_rank=1,2", "--over", "seed=1,2", "--rungs", 2)
    done, machine = swept(loss, *over)
    assert [name for name, begin, _ in machine.asked if begin] == ["lora_rank 2, seed 1", "lora_rank 2, seed 2"]
    assert [(one.values, one.status) for one in done.settings] == [
        ({"lora_rank": "1"}, "stopped"), ({"lora_rank": "2"}, "finished"),
    ]  # fmt: skip


def test_a_seed_that_fails_ends_its_setting(swept) -> None:
    def loss(run: Run, step: int):
        return RuntimeError("no") if (run.lora_rank, run.seed) == (8, 2) else by_rank(run, step)

    done, _ = swept(loss, "--over", "lora_rank=1,8", "--over", "seed=1,2", "--rungs", 2)
    assert [(one.status, one.step) for one in done.trials] == [
        ("finished", 8), ("finished", 8), ("stopped", 4), ("failed", 4),
    ]  # fmt: skip
    assert done.best.values == {"lora_rank": "1"}
    assert any("a trial of it failed" in note for note in done.notes)


def test_what_is_within_the_spread_of_the_seeds_is_said(swept) -> None:
    """Each seed has rows of its own to measure on, so only the difference seed by seed counts."""
    hard = {1: 0.0, 2: 5.0, 3: 10.0}
    better = {1: 0.3, 2: 0.3, 4: 0.1, 8: 0.0}
    noise = {4: {1: 0.3, 2: -0.4, 3: 0.1}}

    def loss(run: Run, step: int) -> float:
        return 1.0 + hard[run.seed] + better[run.lora_rank] + noise.get(run.lora_rank, {}).get(run.seed, 0.0)

    done, _ = swept(loss, *RANKS, "--over", "seed=1,2,3", "--rungs", 1)
    within = {one.values["lora_rank"]: one.is_within_spread_of(done.best) for one in done.settings[:-1]}
    assert done.best.values == {"lora_rank": "8"}
    assert within == {"1": False, "2": False, "4": True}
    assert done.best.spread == pytest.approx(5.0)
    bars = {one.values["lora_rank"]: done.plotted(one)[1] for one in done.settings}
    assert bars["8"] == pytest.approx(bars["1"])
    assert bars["1"] < bars["4"] < 1.0, "what the seeds' own rows are worth is no bar"
    assert any("Within the spread of the seeds" in text and "lora_rank 4" in text for text in done.told())
    assert "(within the spread)" in showing.html_table(done)


def test_only_seeds_in_common_are_compared(swept) -> None:
    """Seed 1 has easy rows: a setting that was measured on them alone is not the better one for it."""
    rows = {3407: 5.0, 1: 0.0, 2: 5.0}

    def loss(run: Run, step: int) -> float:
        return rows[run.seed] + by_rank(run, step)

    swept(loss, "--over", "lora_rank=1,2", "--over", "seed=1,2", "--rungs", 1)
    done, _ = swept(loss, "--over", "lora_rank=4", "--over", "seed=2", "--rungs", 1)
    assert [one.seeds for one in done.settings] == [{"1", "2"}, {"1", "2"}, {"2"}]
    assert done.best.values == {"lora_rank": "4"}
    assert [done.plotted(one)[0] for one in done.settings] == [
        loss(Run(lora_rank=rank, seed=2), 8) for rank in (1, 2, 4)
    ]
    assert any("Compared by what all settings have: seed 2." in text for text in done.told())
    done, _ = swept(loss, "--over", "lora_rank=8", "--rungs", 1)
    assert any("No seed is common to all" in text for text in done.told())
    assert "other seeds" in showing.html_table(done)


def test_seeds_at_different_points_of_their_runs_have_no_mean(swept) -> None:
    swept(by_rank, "--over", "lora_rank=1", "--over", "seed=1", "--rungs", 1)
    done, _ = swept(by_rank, "--over", "lora_rank=1,2,4", "--over", "seed=2", "--rungs", 2)
    assert [one.loss is None for one in done.settings] == [True, False, False]


def test_what_will_not_fit_is_left_out_in_words(swept, monkeypatch) -> None:
    plain = running.plans

    def with_one_too_large(*arguments):
        found = plain(*arguments)
        first = replace(found.trials[0], plan=replace(found.trials[0].plan, verdict=planning.WILL_NOT_FIT))
        return replace(found, trials=(first, *found.trials[1:]))

    monkeypatch.setattr(running, "plans", with_one_too_large)
    done, machine = swept(by_rank, "--over", "lora_rank=1,2", "--rungs", 1)
    assert machine.asked == [("lora_rank 2", 0, 8)]
    assert (done.trials[0].status, done.trials[0].words) == ("left out", "the plan says that it will not fit")


def test_nothing_fits_a_small_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(running.probe, "collect", lambda: replace(MACHINE, ram_gib=0.1, ram_free_gib=0.1))
    with pytest.raises(KitError) as error:
        running.sweep(command("--into", tmp_path / "x"))
    assert error.value.findings[0].id == "sweep-nothing-fits"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_what_is_done(swept, tmp_path) -> None:
    def loss(run: Run, step: int) -> float:
        if run.lora_rank == 4:
            raise KeyboardInterrupt
        return by_rank(run, step)

    with pytest.raises(KeyboardInterrupt):
        swept(loss, *RANKS)
    found = json.loads((tmp_path / "x" / "results.json").read_text())
    assert [one["status"] for one in found["trials"]] == ["unfinished", "unfinished", "waiting", "waiting"]
    done, machine = swept(by_rank, *RANKS)
    assert machine.asked[0] == ("lora_rank 4", 0, 2)
    assert done.best.values == {"lora_rank": "8"}


def test_two_sweeps_do_not_share_a_folder(swept, tmp_path) -> None:
    with running._alone_in(tmp_path / "x"), pytest.raises(KitError) as error:
        swept(by_rank, *RANKS)
    assert error.value.findings[0].id == "sweep-in-use"


def test_the_files_of_a_sweep(swept, tmp_path) -> None:
    done, _ = swept(by_rank, *RANKS, "--over", "target_modules=attention,all")
    rows = list(csv.DictReader((tmp_path / "x" / "results.csv").open()))
    assert [float(row["held_out_loss"]) for row in rows] == [one.loss for one in done.trials]
    assert [int(row["trained_params"]) for row in rows] == [one.trained_params for one in done.trials]
    assert [int(row["peak_memory_bytes"]) for row in rows] == [one.step << 20 for one in done.trials]
    frame = done.table()
    assert frame["lora_rank"].tolist() == [1, 1, 2, 2, 4, 4, 8, 8]
    assert frame["target_modules"].tolist() == ["attention", "all"] * 4
    found = json.loads((tmp_path / "x" / "results.json").read_text())
    assert found["best"]["values"] == done.best.values
    page = (tmp_path / "x" / "sweep.html").read_text()
    assert "The loss of a stopped trial is that of the step where it stopped" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_plot_has_a_line_for_each_combination_and_hollow_marks(swept, tmp_path) -> None:
    done, _ = swept(by_rank, *RANKS, "--over", "target_modules=attention,all")
    text = (tmp_path / "x" / "plot.svg").read_text()
    ElementTree.fromstring(text)
    assert all(name in text for name in ("target_modules attention", "target_modules all", ">8<", "--c1:"))
    full, _ = swept(by_rank, *RANKS, "--over", "target_modules=attention,all", "--rungs", 1)
    hollow = re.compile(r'<use [^>]*style="fill-opacity: 0')
    assert len(hollow.findall(showing.drawn(done))) == 6
    assert not hollow.search(showing.drawn(full))


def test_alpha_that_follows_the_rank_makes_one_line(swept) -> None:
    done, _ = swept(by_rank, "--over", "lora_rank=1,2,4", "--over", "lora_alpha=1r,2r", "--rungs", 1)
    text = showing.drawn(done)
    assert [f"lora_alpha {value}<" in text for value in ("1r", "2r", "1", "2", "8")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("over", ["target_modules=attention,all", "seed=1,2", "lora_dropout=0,0.1", "lora_rank=4"])
def test_the_plot_of_other_options(swept, over: str) -> None:
    done, _ = swept(by_rank, "--over", over, "--rungs", 1)
    ElementTree.fromstring(showing.plot(done))
    showing.show(console.stderr, done)


def test_words_of_the_user_are_escaped(swept) -> None:
    done, _ = swept(lambda *_: RuntimeError("<b>no</b>"), "--over", "lora_rank=1,2")
    assert "<b>no" not in showing.page_of(done)
    assert "&lt;b&gt;no" in showing.page_of(done)


SMALL = (*BASE, "--max-steps", 4, "--learning-rate", "5e-3", "--batch-size", 4, "--sample-tokens", 2, "--evaluations",
         1, "--held-out-rows", 4, "--backend", "hf", "--rungs", 2, "--over", "lora_rank=2,8", "--over",
         "target_modules=attention,all")  # fmt: skip


def process(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "kit.sweep", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.torch
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_interrupted_sweep_goes_on_to_the_same_losses(tmp_path, kit_train) -> None:
    """And a trial that was paused at a rung is the run that kit.train does without a break, to the last bit."""
    whole = process(*SMALL, "--into", tmp_path / "whole", "--json")
    said = whole.communicate(timeout=300)
    assert whole.returncode == 0, said[1]
    first = json.loads(said[0])
    assert sorted(one["status"] for one in first["trials"]) == ["finished", "finished", "stopped", "stopped"]
    assert all(one["step"] == (4 if one["status"] == "finished" else 2) for one in first["trials"])

    broken = process(*SMALL, "--into", tmp_path / "x")
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not list((tmp_path / "x").glob("trials/*/events.jsonl")):
        time.sleep(0.05)
    broken.send_signal(signal.SIGINT)
    said = broken.communicate(timeout=200)
    assert broken.returncode == 130, said[1]
    assert "Traceback" not in said[1]
    again = process(*SMALL, "--into", tmp_path / "x", "--json")
    said = again.communicate(timeout=300)
    assert again.returncode == 0, said[1]
    second = json.loads(said[0])
    keys = ("values", "status", "loss", "step", "trained_params")
    assert [[one[key] for key in keys] for one in second["trials"]] == [
        [one[key] for key in keys] for one in first["trials"]
    ]
    for one in first["trials"]:
        folder = Path(one["folder"])
        assert losses(folder) == losses(tmp_path / "x" / "trials" / folder.name)
        assert [step for step, _ in losses(folder)] == list(range(1, one["step"] + 1))

    best = Path(first["best"]["folder"])
    assert kit_train("--config", best / "run.toml", "--output", tmp_path / "plain").returncode == 0
    assert losses(tmp_path / "plain") == losses(best)
    adapters = [folder / "adapter" / "adapter_model.safetensors" for folder in (tmp_path / "plain", best)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
