"""Before and at the import of the libraries: the environment, the card, its memory. Torch and Unsloth are spies."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from envcheck import rules, settings
from envcheck.facts import Facts, Gpu
from kit.backend.loading import Loading
from kit.backend.starting import Backend, PlannedCard, is_same, starting_words
from kit.memory.activations import logits_bytes
from kit.memory.shape import Shape
from kit.options import Run, resolve
from kit.run.watch import Watch
from kit.support import environment
from kit.support.cache import cache_folder
from kit.support.units import GIB
from tests.support.plans import ON_CARD, config_of
from tests.support.processes import run_python
from tests.support.results import record_of

SPIES = Path(__file__).parents[1] / "support" / "spies"
RTX5080 = {"name": "NVIDIA GeForce RTX 5080", "compute_capability": "12.0", "vram_gib": 15.92, "vram_free_gib": 14.5,
           "index": 0, "uuid": "GPU-aa", "display": True}  # fmt: skip
RTX3060 = {"name": "NVIDIA GeForce RTX 3060", "compute_capability": "8.6", "vram_gib": 12.0, "vram_free_gib": 11.8,
           "index": 1, "uuid": "GPU-bb"}  # fmt: skip
LINUX, WINDOWS, WSL = {"os": "Ubuntu 24.04"}, {"os": "Windows 11"}, {"os": "Ubuntu 24.04", "wsl": True}
OWN = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "UNSLOTH_BLOCK_COMPILE", "UNSLOTH_LOGPROB_CHUNK_GB",
       "UNSLOTH_COMPILE_LOCATION", "UNSLOTH_COMPILE_DISABLE")  # fmt: skip

START = """
import json, os, sys
for name in sys.argv[2].split():
    os.environ.pop(name, None)
os.environ |= json.loads(sys.argv[3])
from envcheck.facts import Facts
from kit import backend
from kit.backend.loading import Loading
from kit.options import Run
from kit.support.errors import KitError
done = []
for machine, options in json.loads(sys.argv[1]):
    run = Run(**dict(device="cuda", precision="bf16") | options)
    try:
        chosen = backend.start(Loading.of(run, Facts.from_json(machine)))
    except KitError as error:
        done.append({"finding": error.findings[0].id})
        continue
    done.append({"backend": chosen.name, "notes": chosen.notes, "compiles": chosen.compiles_layers,
                 "card_bytes": chosen.card_bytes})
import torch
print(json.dumps({"runs": done, "seen": torch.SEEN, "told": torch.told}))
"""


def start(*runs: tuple[dict, dict], cache: Path, **env: str) -> dict:
    """Runs (machine, options) that follow one another in a process: what each was told, and what torch saw."""
    spied = {"PYTHONPATH": str(SPIES), "KIT_CACHE": str(cache)}
    return record_of(run_python("-c", START, json.dumps(runs), " ".join(OWN), json.dumps(env), env=spied))


def machine(*cards: dict, **facts: object) -> dict:
    return {"gpu": list(cards), **facts}


def test_the_card_that_is_planned_for_is_the_one_that_torch_sees(tmp_path) -> None:
    two = machine(RTX3060 | {"index": 0}, RTX5080 | {"index": 1}, **LINUX)
    for backend in ("auto", "hf"):
        got = start((two, {"backend": backend}), cache=tmp_path)
        assert (got["seen"]["CUDA_DEVICE_ORDER"], got["seen"]["CUDA_VISIBLE_DEVICES"]) == ("PCI_BUS_ID", "1")


@pytest.mark.parametrize(
    ("environ", "changes"),
    [
        ({}, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}),
        ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aa"}, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}),
        ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, {"CUDA_VISIBLE_DEVICES": "GPU-bb"}),
        ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST", "CUDA_VISIBLE_DEVICES": "0"}, {}),
    ],
)
def test_what_the_user_set_stays(environ: dict, changes: dict) -> None:
    assert environment.of_card(1, "GPU-bb", False, environ) == changes


def test_a_card_that_no_number_names_is_named_by_its_uuid_or_left() -> None:
    assert environment.of_card(None, "GPU-bb", False, {}) == {"CUDA_VISIBLE_DEVICES": "GPU-bb"}
    assert environment.of_card(None, None, False, {}) == {}
    assert environment.of_card(0, "GPU-aa", True, {}) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "the only one"


@pytest.mark.parametrize(
    ("env", "finding"),
    [
        ({}, None),
        ({"SPY_NAME": "NVIDIA GeForce RTX 3060", "SPY_UUID": "bb"}, "other-card"),
        ({"SPY_UUID": "bb"}, "other-card"),  # of the same name
        ({"SPY_UUID": "AA"}, None),
    ],
)
def test_another_card_than_the_planned_one_ends_the_run_before_it_begins(env: dict, finding: str | None, tmp_path):
    (got,) = start((machine(RTX5080, RTX5080 | {"index": 1, "uuid": "GPU-bb"}, **LINUX), {}), cache=tmp_path, **env)[
        "runs"
    ]
    assert got.get("finding") == finding


def test_a_card_is_known_by_its_uuid_else_by_its_name() -> None:
    gpu = Gpu(name="NVIDIA L4")
    assert is_same(gpu, "NVIDIA L4", "aa")
    assert not is_same(gpu, "NVIDIA A10", "aa")
    assert is_same(Gpu(name="NVIDIA MIG instance", uuid="MIG-1"), "NVIDIA A100 MIG 1g.5gb", "aa")


def test_after_a_run_on_the_cpu_a_card_cannot_be_used_any_more_and_that_is_said(tmp_path) -> None:
    got = start(({}, {"device": "cpu"}), (machine(RTX5080, **LINUX), {}), cache=tmp_path)
    assert [run.get("finding") for run in got["runs"]] == [None, "torch-sees-no-card"]


@pytest.mark.parametrize("system", [WINDOWS, WSL])
def test_where_the_driver_spills_torch_may_take_what_the_plan_has(system: dict, tmp_path) -> None:
    facts = machine(RTX5080, **system)
    planned_bytes = settings.choose(Facts.from_json(facts)).memory_bytes.value
    got = start((facts, {}), (facts, {"vram_limit_gib": 4.0}), cache=tmp_path)
    assert got["told"] == ["peak", planned_bytes / (16 << 30), "peak", 0.25]
    of_the_kit, of_the_user = (run["notes"] for run in got["runs"])
    assert f"No more than {planned_bytes / GIB:.2f} GiB" in of_the_kit[0]
    assert of_the_user == []


def test_the_limit_is_no_more_than_what_is_free_when_the_libraries_have_started(tmp_path) -> None:
    """A browser that came after the plan counts: beyond what is free the driver spills."""
    got = start((machine(RTX5080, **WINDOWS), {}), cache=tmp_path, SPY_FREE_GIB="8")
    assert got["told"] == ["peak", 0.5]
    assert got["runs"][0]["card_bytes"] == 8 * GIB


def test_a_limit_holds_for_one_run_of_a_process(tmp_path) -> None:
    facts = machine(RTX5080, **LINUX)
    assert start((facts, {"vram_limit_gib": 8.0}), (facts, {}), cache=tmp_path)["told"] == ["peak", 0.5, "peak", 1.0]


def test_no_free_memory_is_a_limit_too() -> None:
    full = Facts.from_json(machine(RTX5080 | {"vram_free_gib": 0.2}, **WINDOWS))
    card = PlannedCard.of(full)
    assert card is not None
    assert card.limit_bytes == 0


def test_layers_are_not_compiled_and_the_logits_chunk_is_fixed_unless_the_user_says_so(tmp_path) -> None:
    facts = machine(RTX5080, **LINUX)
    got = start((facts, {}), cache=tmp_path)
    assert (got["seen"]["UNSLOTH_BLOCK_COMPILE"], got["seen"]["UNSLOTH_LOGPROB_CHUNK_GB"]) == ("0", "0.5")
    assert (got["runs"][0]["compiles"], got["runs"][0]["notes"]) == (False, [])
    got = start((facts, {}), cache=tmp_path, UNSLOTH_BLOCK_COMPILE="1", UNSLOTH_LOGPROB_CHUNK_GB="2")
    assert (got["seen"]["UNSLOTH_BLOCK_COMPILE"], got["seen"]["UNSLOTH_LOGPROB_CHUNK_GB"]) == ("1", "2")
    assert got["runs"][0]["compiles"]
    assert "layers are compiled in the first step" in got["runs"][0]["notes"][0]


def test_plain_transformers_compile_nothing(monkeypatch) -> None:
    monkeypatch.setenv("UNSLOTH_BLOCK_COMPILE", "1")
    assert Backend("unsloth", "").compiles_layers
    assert not Backend("hf", "").compiles_layers
    monkeypatch.setenv("UNSLOTH_COMPILE_DISABLE", "partial")
    assert not Backend("unsloth", "").compiles_layers


def test_what_would_phone_home_is_off_whatever_is_set_and_the_rest_is_the_users() -> None:
    given = {"UNSLOTH_DISABLE_STATISTICS": "0", "TOKENIZERS_PARALLELISM": "false"}
    environment.set_constant(given)
    assert given["UNSLOTH_DISABLE_STATISTICS"] == "1"
    assert given["TOKENIZERS_PARALLELISM"] == "false"
    assert {variable.name for variable in environment.CONSTANT} == set(given)
    assert all(variable.reason for variable in environment.CONSTANT)


def test_what_unsloth_writes_lies_in_the_cache_for_this_user_alone(tmp_path, monkeypatch) -> None:
    (tmp_path / "unsloth").mkdir(mode=0o777)
    got = start((machine(RTX5080, **LINUX), {}), cache=tmp_path)
    assert got["seen"]["UNSLOTH_COMPILE_LOCATION"] == str(tmp_path / "unsloth")
    if os.name == "posix":
        assert (tmp_path / "unsloth").stat().st_mode & 0o777 == 0o700
    own = start((machine(RTX5080, **LINUX), {}), cache=tmp_path, UNSLOTH_COMPILE_LOCATION="mine")
    assert own["seen"]["UNSLOTH_COMPILE_LOCATION"] == "mine"


def test_a_cache_that_cannot_be_written_to_is_a_note(tmp_path) -> None:
    (tmp_path / "unsloth").write_text("a file, not a folder")
    got = start((machine(RTX5080, **LINUX), {}), cache=tmp_path)
    folder = Path(got["seen"]["UNSLOTH_COMPILE_LOCATION"])
    assert folder.is_dir()
    assert str(folder) in got["runs"][0]["notes"][0]
    folder.rmdir()


def test_the_first_start_on_a_card_says_that_it_takes_a_minute(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    monkeypatch.delenv("UNSLOTH_COMPILE_LOCATION", raising=False)
    on_card = Loading("cuda", "bf16", True, 512)
    assert "first time" in starting_words(on_card)
    for other in (Loading("cpu", "bf16", True, 512), Loading("cuda", "bf16", True, 512, backend="hf")):
        assert "first time" not in starting_words(other)
    cache_folder("unsloth").mkdir()
    (cache_folder("unsloth") / "UnslothSFTTrainer.py").touch()
    assert "first time" not in starting_words(on_card)


def test_the_preset_and_the_reason_are_of_the_chosen_card() -> None:
    def settled(**env: str) -> tuple[str, str]:
        facts = Facts.from_json(machine(RTX5080, RTX3060, env=env, **LINUX))
        return resolve.preset_for(facts), resolve.settle(Run(), facts)[1]["device"]

    preset, reason = settled()
    assert (preset, reason) == ("rtx5080", f"{RTX5080['name']}, number 0 of nvidia-smi's: of 2 cards the one with the "
                                "most memory")  # fmt: skip
    preset, reason = settled(CUDA_VISIBLE_DEVICES="1")
    assert (preset, reason) == (
        "rtx3060",
        f"{RTX3060['name']}, number 1 of nvidia-smi's: named by CUDA_VISIBLE_DEVICES",
    )
    preset, reason = settled(CUDA_VISIBLE_DEVICES="")
    assert (preset, reason) == ("cpu", 'no usable NVIDIA card: CUDA_VISIBLE_DEVICES is ""')


def test_a_card_that_is_not_used_need_not_be_well() -> None:
    old = {"name": "NVIDIA GeForce GTX 1080", "compute_capability": "6.1", "vram_gib": 8.0, "index": 0}
    torch = {"packages": {"torch": "2.14.1+cu130"}, "driver": "581.57"}
    facts = Facts.from_json(machine(old, RTX5080 | {"index": 1}, **torch, **LINUX))

    def errors(seen: Facts) -> list[str]:
        return [found.id for found in rules.judge(seen) if found.severity == "error"]

    assert errors(facts), "of the other card"
    run, _ = resolve.settle(Run(), facts)
    assert errors(resolve.seen_by(run, facts)) == []


def test_compiling_is_said_before_it_begins(monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("UNSLOTH_BLOCK_COMPILE", "1")
    monkeypatch.setattr("kit.backend.preflight", lambda *_: said.append("the preflight") or 1 / 0)
    watch = object.__new__(Watch)
    watch.trainer = None
    watch.session = SimpleNamespace(
        loaded=SimpleNamespace(device="cuda", backend=Backend("unsloth", "")),
        state=None, say=said.append, data=SimpleNamespace(held_out=()),
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        watch.on_begin()
    assert said == ["compiling the layers, once: this takes minutes", "the preflight"]


def test_the_plan_counts_the_logits_chunk_that_unsloth_is_told(monkeypatch) -> None:
    shape, run = Shape.of(config_of("Qwen3-4B")), Run(**ON_CARD)
    monkeypatch.delenv("UNSLOTH_LOGPROB_CHUNK_GB", raising=False)
    assert logits_bytes(shape, run, 1 << 20)[1] <= 2 * 0.5 * GIB
    monkeypatch.setenv("UNSLOTH_LOGPROB_CHUNK_GB", "2")
    assert logits_bytes(shape, run, 1 << 20)[1] > 3 * GIB


ROWS = """
import kit, json, sys, unsloth, torch
from unsloth_zoo.fused_losses import fused_linear
print(json.dumps([fused_linear.fused_linear_rows(*case, 4, torch.device("cpu")) for case in json.loads(sys.argv[1])]))
"""


@pytest.mark.torch
def test_rows_of_logits_are_those_of_unsloths_own_function() -> None:
    from kit.memory.activations import unsloth_logits_rows

    sizes = ((1024, 151936), (2560, 151936), (4096, 128256), (2304, 262144), (64, 2000))  # of hidden states, vocabulary
    cases = [(tokens, *size) for tokens in (1, 100, 512, 4096, 65536, 1 << 20) for size in sizes]
    theirs = record_of(run_python("-c", ROWS, json.dumps(cases), libraries="unsloth"))
    assert [unsloth_logits_rows(*case, int(0.5 * GIB)) for case in cases] == theirs
