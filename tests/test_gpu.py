"""`make gpu` without a card: its jobs' processes are stand-ins that work, fail, hang or are killed."""

import json
import os
import signal
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from benchmarks.flops import needed_flops_per_token, peak_flops
from benchmarks.gpu import __main__ as front
from benchmarks.gpu import catalogue, micro_batches, page, slices, summary, utilisation
from benchmarks.gpu.catalogue import CardJob, Workplace
from benchmarks.gpu.shapes import config_of
from envcheck import probe
from envcheck.facts import Facts, Gpu
from kit.backend import methods
from kit.memory import Shape
from kit.options import measured, resolve
from kit.support.units import GIB

RTX_5080 = Gpu(name="NVIDIA GeForce RTX 5080", vram_gib=15.92, vram_free_gib=15.0, compute_capability="12.0", index=0)
MACHINE = Facts(gpu=(RTX_5080,), ram_gib=64, ram_free_gib=50, driver="581.57", os="Linux")
WORKS = "import json; print('loading'); print(json.dumps({'figure': 7}))"
FAILS = "raise ValueError('a tensor of another shape')"
RUNS_OUT = "raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')"
FINDS = """
import sys
from kit.support import console
from kit.support.errors import failure
def run(): raise failure('no-usable-gpu', 'No card can be used.', 'It is hidden.', 'python -m envcheck')
sys.exit(console.status_of(run))
"""
HANGS = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True)
time.sleep(600)
"""
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def job(name: str, code: str, expected_s: int = 1) -> CardJob:
    return CardJob(name, f"the stand-in {name}", ("-c", code), expected_s)


def a_slice(folder: Path, minutes: float = 5, said: list[str] | None = None) -> slices.Slice:
    return slices.Slice(folder, minutes, slices.Watched(), "code", (said if said is not None else []).append)


# how a job ends


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        (WORKS, "done", ""),
        ("print('7 passed')", "done", ""),
        (FAILS, "failed", "ValueError: a tensor of another shape"),
        (RUNS_OUT, "out of memory", "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"),
        (FINDS, "failed", "no-usable-gpu: No card can be used. It is hidden."),
        (f"import atexit, sys; atexit.register(sys.stderr.write, '  0%|   | 0/4 [00:03<?, ?it/s]'); {FAILS}", "failed",
         "ValueError: a tensor of another shape"),
        ("raise SystemExit(3)", "failed", "status 3, without a word"),
        ("print('{\"findings\": [{\"severity\": \"error\", \"what\": \"No driver.\"}]}'); raise SystemExit(1)",
         "failed", "No driver."),
    ],
)  # fmt: skip
def test_how_a_job_ended_is_a_record_in_words(code: str, status: str, words: str, tmp_path: Path) -> None:
    assert a_slice(tmp_path).run([job("one", code)])
    record = a_slice(tmp_path).records()["one"]
    assert (record["status"], record["why"][: len(words)]) == (status, words)
    assert bool(record["why"]) == (status != "done")


def test_figures_are_the_last_line(tmp_path: Path) -> None:
    a_slice(tmp_path).run([job("one", WORKS), job("other", "print('7 passed')")])
    records = a_slice(tmp_path).records()
    assert (records["one"]["figures"], records["other"]["figures"]) == ({"figure": 7}, {"said": "7 passed"})


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_a_killed_job_is_a_result_and_the_next_one_runs(tmp_path: Path) -> None:
    assert a_slice(tmp_path).run([job("dies", DIES), job("works", WORKS)])
    records = a_slice(tmp_path).records()
    assert (records["dies"]["status"], records["works"]["status"]) == ("killed", "done")
    assert f"signal {int(signal.SIGKILL)}" in records["dies"]["why"]


def test_a_job_that_hangs_is_ended_with_all_it_started(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slices, "LEAST_LIMIT_S", 0)
    assert a_slice(tmp_path).run([job("hangs", HANGS, 1), job("works", WORKS, 60)])
    records = a_slice(tmp_path).records()
    assert (records["hangs"]["status"], records["works"]["status"]) == ("timed out", "done")
    child = int((tmp_path / "logs" / "hangs.out.txt").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


# slices


def test_what_has_ended_is_not_run_again_however_it_ended(tmp_path: Path) -> None:
    jobs = [job("fails", FAILS), job("works", WORKS)]
    assert a_slice(tmp_path).run(jobs)
    said: list[str] = []
    assert a_slice(tmp_path, said=said).run(jobs)
    assert said == []


def test_a_slice_stops_between_jobs_and_the_next_goes_on(tmp_path: Path) -> None:
    """The long job does not fit behind the first: the short one is done in its place."""
    jobs = [job("first", WORKS, 1), job("long", WORKS, 100), job("short", WORKS, 2)]
    said: list[str] = []
    assert not a_slice(tmp_path, 1, said).run(jobs)
    assert set(a_slice(tmp_path).records()) == {"first", "short"}
    assert any("1:43 of work left" in text for text in said)
    assert a_slice(tmp_path, 1).run(jobs), "the first job of a call runs whatever it is expected to take"


def test_time_to_write_a_model_counts(tmp_path: Path) -> None:
    """27.5 GiB do not fit into half a minute, though the job would."""
    jobs = [job("first", WORKS, 1), replace(job("large", WORKS, 1), model="14B")]
    assert not a_slice(tmp_path, 0.5).run(jobs)
    assert set(a_slice(tmp_path).records()) == {"first"}


def test_a_job_that_the_end_of_a_slice_cuts_begins_again(tmp_path: Path) -> None:
    ending = a_slice(tmp_path, 1 / 60)
    ending.has_run = True
    assert not ending.run([job("hangs", HANGS, 0)])
    assert a_slice(tmp_path).records() == {}


def test_a_job_that_takes_more_than_a_whole_slice_is_said_to(tmp_path: Path) -> None:
    assert a_slice(tmp_path, 0.02).run([job("hangs", HANGS, 60)])
    record = a_slice(tmp_path).records()["hangs"]
    assert record["status"] == "timed out"
    assert "--minutes" in record["why"]


def test_a_slow_machine_is_given_more_time(tmp_path: Path) -> None:
    jobs = [job("one", WORKS, 10), job("two", WORKS, 10)]
    records = {"one": {"status": "done", "wall_s": 25.0}, "two": {"status": "timed out", "wall_s": 900}}
    assert slices.how_slow(jobs, records) == 2.5
    assert slices.how_slow(jobs, {}) == slices.how_slow(jobs, {"one": {"status": "done", "wall_s": 1}}) == 1


def test_models_go_when_no_job_needs_them_and_a_full_disk_is_said(monkeypatch, tmp_path: Path) -> None:
    for name in ("0.6B", "4B"):
        (tmp_path / "models" / name).mkdir(parents=True)
    a_slice(tmp_path).run([replace(job("one", WORKS), model="4B")])
    assert {path.name for path in (tmp_path / "models").iterdir()} == set()
    monkeypatch.setattr(slices, "free_gib", lambda _: 5.0)
    assert a_slice(tmp_path).run([replace(job("other", WORKS), model="14B")])
    assert a_slice(tmp_path).records()["other"]["why"] == "the weights of 14B need 31 GiB of disk, 5 are free"


# the command


@pytest.fixture
def card(monkeypatch) -> None:
    monkeypatch.setattr(probe, "collect", lambda: MACHINE)
    jobs = [job("smoke-card", WORKS), job("memory-4B", FAILS), job("long", WORKS, 600)]
    monkeypatch.setattr(catalogue, "jobs", lambda _: jobs)


def test_no_card_is_a_finding(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr(probe, "collect", lambda: Facts(gpu=()))
    assert front.main(["--work", str(tmp_path)]) == front.FAILED
    assert "no-usable-gpu" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_each_call_goes_on_and_writes_what_is_known(card, tmp_path: Path) -> None:
    asked = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--minutes", "5"]
    assert front.main(asked) == front.NOT_COMPLETE
    result = json.loads((tmp_path / "out" / "gpu_rtx5080.json").read_text("utf-8"))
    assert (result["complete"], result["not_run"]) == (False, ["long"])
    assert front.main([*asked[:-1], "20"]) == front.FAILED, "complete, and a job failed"
    result = json.loads((tmp_path / "out" / "gpu_rtx5080.json").read_text("utf-8"))
    assert (result["complete"], [one["status"] for one in result["jobs"]]) == (True, ["done", "failed", "done"])
    text = (tmp_path / "out" / "gpu_rtx5080.html").read_text("utf-8")
    assert "2 of 3 jobs done; 1 failed" in text
    assert "a tensor of another shape" in text


def test_jobs_are_chosen_and_run_again_by_name(card, capsys, tmp_path: Path) -> None:
    asked = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert front.main([*asked, "--only", "memory"]) == front.FAILED
    assert front.main([*asked, "--only", "memory"]) == front.FAILED
    assert capsys.readouterr().err.count("the stand-in memory-4B") == 1
    assert front.main([*asked, "--only", "memory", "--again", "failed"]) == front.FAILED
    assert capsys.readouterr().err.count("the stand-in memory-4B") == 1
    assert front.main([*asked, "--list"]) == front.DONE
    assert "failed" in capsys.readouterr().out
    assert front.main([*asked, "--again", "memory-4"]) == 2
    assert "Did you mean memory-4B?" in capsys.readouterr().err


def test_records_of_other_versions_are_kept_apart() -> None:
    about = {"versions": {"torch": "2.11"}, "machine": {"gpu": ["RTX 5080"], "driver": "581"}}
    assert front.hash_of(about) == front.hash_of({**about, "rehearsal": True})
    assert front.hash_of(about) != front.hash_of({**about, "versions": {"torch": "2.13"}})


def test_wheels_are_used_by_every_job_without_a_network(monkeypatch, card, capsys, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    asked = ["--work", str(tmp_path / "work"), "--out", str(tmp_path), "--only", "smoke", "--wheels", str(wheels)]
    assert front.main(asked) == front.FAILED
    assert "There is no .whl file" in capsys.readouterr().err
    files = {"only_in_the_wheel.py": "", "only_in_the_wheel-1.0.dist-info/METADATA":
             "Metadata-Version: 2.1\nName: only-in-the-wheel\nVersion: 1.0\n",
             "only_in_the_wheel-1.0.dist-info/WHEEL":
             "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
             "only_in_the_wheel-1.0.dist-info/RECORD": ""}  # fmt: skip
    with zipfile.ZipFile(wheels / "only_in_the_wheel-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    monkeypatch.setattr(catalogue, "jobs", lambda _: [job("smoke-wheel", "import only_in_the_wheel; print('{}')")])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    assert front.main(asked) == front.DONE
    assert front.main([*asked, "--again", "smoke-wheel"]) == front.DONE


# the jobs


@pytest.mark.parametrize("size_gib", [8, 16, 24, 80])
def test_the_jobs_cover_what_they_say_in_under_25_minutes(size_gib: float, tmp_path: Path) -> None:
    place = Workplace(resolve.with_card(MACHINE, size_gib), tmp_path)
    jobs = catalogue.jobs(place)
    names = [one.name for one in jobs]
    assert len(set(names)) == len(names)
    models = a_slice(tmp_path).making_s({one.model for one in jobs})
    assert sum(one.expected_s for one in jobs) + models < 60 * front.MINUTES < 60 * 25
    assert {one.model for one in jobs} == {"", "0.6B", "1.7B", "4B", "8B", "14B"}
    limits = place.limits_gib()
    assert limits == sorted(limits, reverse=True)
    assert len(limits) == sum(size <= size_gib for size in catalogue.SIZES_GIB)
    modules = [one.arguments[1] for one in jobs if one.arguments[1].startswith("benchmarks")]
    assert all((slices.ROOT / Path(*name.split("."))).with_suffix(".py").is_file() for name in modules)


def test_presets_larger_than_the_card_are_not_played(tmp_path: Path) -> None:
    presets = {size: [job.name for job in catalogue.jobs(Workplace(resolve.with_card(MACHINE, size), tmp_path))
                      if job.name.startswith("preset-")] for size in (7.65, 11.9, 15.92, 80)}  # fmt: skip
    assert presets[7.65] == ["preset-vram-8-1.7B"]
    assert presets[11.9] == ["preset-vram-12-4B", "preset-vram-8-1.7B"]
    assert [len(presets[size]) for size in (15.92, 80)] == [4, 5]


def test_every_preset_is_a_class_and_every_job_is_small_in_a_rehearsal(tmp_path: Path) -> None:
    assert {memory_class for memory_class, _ in catalogue.PRESETS} <= set(resolve.CLASSES)
    jobs = catalogue.jobs(Workplace(Facts(gpu=()), tmp_path, small=True))
    assert {one.model for one in jobs} == {"", "J1"}
    assert not any("cuda" in word for one in jobs for word in one.arguments)


# arithmetic


@pytest.mark.parametrize(
    ("name", "capability", "sms", "clock_mhz", "tflops"),
    [
        ("NVIDIA GeForce RTX 3090", (8, 6), 82, 1695, 71.2),
        ("NVIDIA GeForce RTX 4090", (8, 9), 128, 2520, 165.2),
        ("NVIDIA GeForce RTX 5080", (12, 0), 84, 2617, 112.6),
        ("NVIDIA GeForce RTX 5090", (12, 0), 170, 2407, 209.5),
        ("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1410, 312),
        ("NVIDIA H100 80GB HBM3", (9, 0), 132, 1830, 989.4),
        ("NVIDIA L4", (8, 9), 58, 2040, 121),
        ("Tesla T4", (7, 5), 40, 1590, 65),
    ],
)
def test_the_peak_is_that_of_the_makers_papers(name, capability, sms, clock_mhz, tflops) -> None:
    assert peak_flops(name, capability, sms, clock_mhz) / 1e12 == pytest.approx(tflops, rel=0.005)


def test_an_unknown_card_has_no_share() -> None:
    card = {"name": "NVIDIA GeForce RTX 6090", "capability": [13, 0], "sms": 100}
    assert summary.share_pct(1e14, card, 2500) is None
    assert summary.share_pct(1e14, {**card, "capability": [12, 0]}, None) is None
    assert summary.share_pct(1e14, {}, 2500) is None
    assert summary.share_pct(6.4e13, {**card, "capability": [12, 0]}, 2500) == 50.0


def test_operations_of_a_token() -> None:
    """Four for each weight of a linear layer or the head, twelve for each query and the half of the keys before it."""
    shape = Shape.of(config_of("4B"))
    assert (shape.linear_params, shape.embedding_params) == (3_633_315_840, 388_956_160)
    attention = 12 * 36 * 32 * 128 * 1024
    needed = needed_flops_per_token(shape, 1000, 2048, 0.5)
    assert needed == 4 * (3_633_315_840 + 194_478_080) + 6 * 1000 + attention


def row(peak: int | None, low: int, high: int, verdict: str) -> dict:
    return {"low_bytes": low, "high_bytes": high, "verdict": verdict} | (
        {"peak_bytes": peak} if peak else {"out_of_memory": "CUDA out of memory"}
    )


def test_wrong_bounds_and_wrong_verdicts_are_counted() -> None:
    rows = [row(100, 90, 120, "fits"), row(100, 110, 120, "will not fit"), row(100, 80, 95, "fits"),
            row(None, 90, 120, "fits"), row(None, 90, 120, "tight")]  # fmt: skip
    found = summary.bounds(rows)
    assert (found["micro_batches"], found["ran_out"]) == (3, 2)
    assert (found["low_above_peak"], found["high_below_peak"]) == (1, 1)
    assert (found["said_fits_and_ran_out"], found["said_will_not_fit_and_fitted"]) == (1, 1)
    assert found["high_over_peak"] == {"min": 0.95, "max": 1.2}


class StandInLook:
    """A look inside of a model on a card; a micro-batch of so many tokens takes a GiB for each 1,024 of them."""

    def __init__(self, device: str = "cuda"):
        self.loaded = SimpleNamespace(device=device)
        self.limit_gib = 0.0

    def cost(self, samples: int, tokens: int) -> dict:
        gib = samples * tokens / 1024
        return {"peak_bytes": int(gib * GIB)} if gib <= self.limit_gib else {"out_of_memory": "CUDA out of memory"}


def test_a_smaller_card_is_played_with_what_is_near_its_size(monkeypatch) -> None:
    """16 GiB ran out in the large card and is not tried again; half of a GiB is known to fit into four."""
    looked, switched = StandInLook(), []
    monkeypatch.setattr(methods, "recompute_activations", switched.append)
    monkeypatch.setattr(micro_batches, "set_limit", lambda _, limit_gib: setattr(looked, "limit_gib", limit_gib))
    monkeypatch.setattr(
        micro_batches,
        "cost_of",
        lambda look, _, samples, tokens, __: {**look.cost(samples, tokens), "way": len(switched)},
    )
    grid = [(1, 512, False), (1, 4096, False), (5, 1024, True), (8, 1024, True), (16, 1024, False)]
    rows = micro_batches.measured(micro_batches.Spec({}, ["off", "on"], [10.0, 4.5], grid), looked, None)
    assert [row["way"] for row in rows] == [0] * 7 + [1] * 7
    small = [(row["samples"], "peak_bytes" in row) for row in rows[:7] if row["limit_gib"] == 4.5]
    assert small == [(1, True), (5, False)]
    assert [row["samples"] for row in rows[:5] if "out_of_memory" in row] == [16]


# the driver's tool


def test_lines_of_nvidia_smi() -> None:
    assert utilisation.parse("97, 2610, 301.50, 14220", 5.0) == (5.0, 97, 2610, 301.5, 14220)
    assert utilisation.parse("97, 2610, [N/A], 14220", 5.0) == (5.0, 97, 2610, None, 14220)
    assert utilisation.parse("No devices were found", 5.0) is None
    assert utilisation.parse("[N/A], [N/A], [N/A], [N/A]", 5.0) is None


def test_only_samples_of_the_window_count() -> None:
    samples = [
        utilisation.Reading(at, busy, 2500 + at, None, 10 * at) for at, busy in ((1, 0), (2, 90), (3, 100), (9, 0))
    ]
    assert utilisation.summary(samples, 2, 3) == {"busy_pct": 95.0, "clock_mhz": 2502.5, "used_mib": 30}
    assert utilisation.summary(samples, 20, 30) == {}


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for nvidia-smi")
def test_the_card_is_watched_while_a_job_runs(monkeypatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nwhile :; do echo '50, 2000, 100.0, 1000'; sleep 0.05; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    watching = slices.Slice(tmp_path / "work", 5, slices.Watched(0), "code", lambda _: None)
    watching.run([job("one", f"import time; time.sleep(1); {WORKS}")])
    assert watching.records()["one"]["gpu"]["clock_mhz"] == 2000


# what others read


def result(**presets: dict) -> dict:
    return {"card": {"name": RTX_5080.name}, "versions": {"torch": "2.11.0", "unsloth": "2026.10.9"},
            "measured": "2026-12-01", "presets": presets}  # fmt: skip


RUN = {"status": "done", "preset": "vram-16", "shape": "4B", "limit_gib": 14.4, "tokens_per_s": 4321.0,
       "peak_gib": 11.2, "low_gib": 9.8, "high_gib": 13.1, "given_up": 0}  # fmt: skip


@pytest.fixture
def results(monkeypatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(measured, "results_folder", lambda: tmp_path)
    return tmp_path


def test_a_preset_says_what_was_measured_of_it(results: Path) -> None:
    (results / "gpu_rtx5080.json").write_text(json.dumps(result(one=RUN)))
    (results / "gpu_a.json").write_text(json.dumps({**result(one=RUN), "card": {"name": "NVIDIA A100"}}))
    run = resolve.given({"preset": "rtx5080", "device": "cuda"}, lambda: MACHINE).run
    assert resolve.settle(run, MACHINE)[1]["preset"] == (
        "measured on NVIDIA GeForce RTX 5080, held to 14.4 GiB (torch 2.11.0, unsloth 2026.10.9, 2026-12-01): "
        "4,321 tokens/s with the shape of Qwen3-4B, 11.20 GiB of 9.80 to 13.10 planned, the plan held "
        "(gpu_rtx5080.json)"
    )
    of_auto = resolve.given({"preset": "auto"}, lambda: MACHINE).run
    assert resolve.settle(of_auto, MACHINE)[1]["preset"].startswith("rtx5080, measured on NVIDIA GeForce RTX 5080")
    other = resolve.given({"preset": "vram-8", "device": "cuda"}, lambda: MACHINE).run
    assert resolve.settle(other, MACHINE)[1]["preset"] == measured.NOT_MEASURED


def test_a_plan_that_did_not_hold_is_said(results: Path) -> None:
    (results / "gpu_x.json").write_text(json.dumps(result(one={**RUN, "given_up": 2})))
    assert "the plan did not hold" in measured.measured("vram-16")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"card": {}}', '{"card": {"name": "x"}, "versions": {}, "presets": 7}']
)
def test_what_is_no_result_of_a_card_is_not_believed(text: str, results: Path) -> None:
    (results / "gpu_x.json").write_text(text)
    assert measured.measured("vram-16") == measured.NOT_MEASURED


def test_results_that_are_committed_are_whole() -> None:
    for path in measured.results_folder().glob("gpu_*.json"):
        assert json.loads(path.read_text("utf-8"))["complete"], path


def everything() -> dict:
    """Records of one job of each kind -> the result."""
    card = {"name": RTX_5080.name, "capability": [12, 0], "sms": 84, "total_bytes": 17 << 30, "most_clock_mhz": 3090.0}
    gpu = {"busy_pct": 97.0, "clock_mhz": 2617.0, "power_w": 301.0, "used_mib": 12000.0}
    speed = {"tool": "kit", "tokens_per_s": 4000.0, "tokens_a_pass": 4096, "padding_pct": 3.0,
             "peak_bytes": 12 << 30, "first_step_after_s": 30.0, "flops_per_token": 1.4e10, "held_out_loss": 9.5,
             "window_s": [1, 2]}  # fmt: skip
    planned = {"low_bytes": 10 << 30, "high_bytes": 13 << 30, "available_bytes": 14 << 30, "verdict": "fits",
               "settings": {"micro_batch_size": 8, "gradient_checkpointing": "off"}}  # fmt: skip
    rows = [{**row(100, 90, 120, "fits"), "checkpointing": "off", "limit_gib": 14.0, "samples": 4, "tokens": 1024,
             "padded": False, "seconds": 1.0}]  # fmt: skip
    figures = {
        "smoke-card": card, "speed-kit": speed, "preset-vram-16-4B": {**speed, "plan": planned, "given_up": []},
        "memory-4B": {"loaded": True, "rows": rows, "planned_over_loaded": {"weights": 1.0}},
        "speed-trl": {}, "resume": {"state_differs_in": [], "went_on_after_step": 4, "losses_of_resumed_apart": 0.25,
                                "losses_of_repeats_apart": 0.5},
        "ladder": {**speed, "given_up": ["gradient checkpointing from now on"]},
    }  # fmt: skip
    jobs = [replace(job(name, ""), model="4B") for name in figures] + [job("not yet", "")]
    failed = {"status": "failed", "why": "ValueError: <script>alert(1)</script>"}
    records = {
        name: {"job": name, "what": name, "model": "4B", "status": "done", "why": "", "wall_s": 60.0, "gpu": gpu,
               "code": "c", "figures": found} | (failed if name == "speed-trl" else {})
        for name, found in figures.items()
    }  # fmt: skip
    about = {"key": "x", "rehearsal": False, "machine": {"driver": "581.57"}, "versions": {"torch": "2.11.0"}}
    return summary.combine(jobs, records, about)


def test_everything_is_combined() -> None:
    made = json.loads(json.dumps(everything()))
    assert made["presets"]["preset-vram-16-4B"]["limit_gib"] == 14
    assert made["speeds"]["speed-kit"]["share_of_peak_pct"] == pytest.approx(100 * 4000 * 1.4e10 / 112.55e12, abs=0.1)
    assert made["speeds"]["speed-kit"]["over_kit"] == 1
    assert made["speeds"]["speed-trl"]["why"].startswith("ValueError")
    assert made["memory"]["all"]["high_over_peak"] == {"min": 1.2, "max": 1.2}
    assert made["micro_batches"][0]["tokens_per_s"] == 4096
    assert measured.measured("vram-16", folder=Path("nowhere")) == measured.NOT_MEASURED


def test_the_page_has_all_of_it_escaped() -> None:
    text = page.render(everything())
    assert "6 of 8 jobs done; 1 failed; 1 not run yet: the same command goes on" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    figures = ("4,000", "2,617", "memory-4B", "9.5", "581.57")
    for word in (*figures, "same to the last bit", "0.25 apart", "checkpointing from now on"):
        assert word in text


def test_the_measured_file_of_a_run_is_what_the_preset_reads(results: Path) -> None:
    """What the last job writes is what the kit reads: no key is named in two ways."""
    (results / "gpu_rtx5080.json").write_text(json.dumps(everything()))
    assert "4,000 tokens/s with the shape of Qwen3-4B, 12.00 GiB of 10.00 to 13.00 planned" in measured.measured(
        "vram-16"
    )


# the jobs themselves, in small and on a CPU


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory) -> dict[str, dict]:
    """The record of one job of each kind, by its name."""
    folder = tmp_path_factory.mktemp("gpu")
    place = Workplace(Facts(gpu=(), ram_free_gib=8), folder, small=True)
    names = ("smoke-card", "preset-vram-16-4B", "memory-0.6B", "resume")
    running = a_slice(folder, 10)
    assert running.run([one for one in catalogue.jobs(place) if one.name in names])
    return running.records()


@pytest.mark.torch
def test_every_kind_of_job_works(rehearsed) -> None:
    assert {name: record["why"] for name, record in rehearsed.items() if record["status"] != "done"} == {}
    assert not {record["model"] for record in rehearsed.values()} - {"", "J1"}


@pytest.mark.torch
def test_a_look_inside_finds_what_is_planned(rehearsed) -> None:
    figures = rehearsed["memory-0.6B"]["figures"]
    assert figures["planned_over_loaded"] == pytest.approx(
        dict.fromkeys(("weights", "adapter", "gradients", "optimizer"), 1), abs=1e-3
    )
    assert [(row["checkpointing"], row["samples"], row["padded"]) for row in figures["rows"]] == [
        (way, samples, padded) for way in ("off", "on") for samples, _, padded in catalogue.SMALL_GRID
    ]
    assert all(row["saved_bytes"] < row["high_bytes"] for row in figures["rows"])


@pytest.mark.torch
def test_a_whole_run_tells_plan_and_speed(rehearsed) -> None:
    figures = rehearsed["preset-vram-16-4B"]["figures"]
    assert (len(figures["losses"]), figures["given_up"], figures["plan"]["verdict"]) == (4, [], "fits")
    assert figures["tokens_per_s"] > 0
    assert figures["window_s"][0] < figures["window_s"][1]


@pytest.mark.torch
def test_a_killed_run_goes_on_from_the_same_state(rehearsed) -> None:
    figures = rehearsed["resume"]["figures"]
    assert (figures["state_differs_in"], figures["losses_of_resumed_apart"]) == ([], 0.0)
    assert figures["went_on_after_step"] >= 3


@pytest.mark.torch
def test_states_that_differ_are_told_apart() -> None:
    import torch

    from benchmarks.gpu.resumed import unlike

    state = {"optimizer": [torch.ones(2), 3], "random": (1, torch.zeros(1))}
    other = {"optimizer": [torch.tensor([1.0, 2.0]), 4], "random": (1, torch.zeros(1))}
    assert unlike("state", state, state) == []
    assert unlike("state", state, other) == ["state.optimizer.0", "state.optimizer.1"]
    assert unlike("state", state, {"optimizer": state["optimizer"]}) == ["state"]


@pytest.mark.torch
@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to allocate 2.00 GiB", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_memory_that_runs_out_in_a_micro_batch_is_a_row(monkeypatch, text: str) -> None:
    import torch

    fakes = {"max_memory_reserved": 7, "max_memory_allocated": 6}
    for name in ("empty_cache", "reset_peak_memory_stats", "synchronize", *fakes):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: fakes.get(name))
    weight = torch.nn.Linear(1, 1)
    looked = StandInLook()
    looked.batch = lambda *_: ({"input_ids": torch.ones(1, 1)}, torch.tensor(1))
    looked.compute = lambda model, batch, num_items_in_batch: model(batch["input_ids"]).sum()
    fitted = micro_batches.cost_of(looked, weight, 1, 1, False)
    assert (fitted["peak_bytes"], fitted["allocated_bytes"]) == (7, 6)

    def fails(*_, **__) -> None:
        raise RuntimeError(text)

    looked.compute = fails
    assert micro_batches.cost_of(looked, weight, 1, 1, False) == {"out_of_memory": text}
    looked.compute = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        micro_batches.cost_of(looked, weight, 1, 1, False)
