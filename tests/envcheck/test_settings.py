import dataclasses

import pytest
from hypothesis import given
from hypothesis import settings as limits
from test_facts import ANY_FACTS

from envcheck import settings
from envcheck.facts import Facts

RTX5080 = {
    "os": "Windows 11",
    "gpu": [
        {
            "name": "NVIDIA GeForce RTX 5080",
            "compute_capability": "12.0",
            "vram_gib": 15.9,
            "vram_free_gib": 14.5,
            "display": True,
        }
    ],
    "packages": {"triton-windows": "3.6.0.post26"},
}


def values(**facts):
    chosen = settings.choose(Facts.from_json(facts))
    return {item.name: getattr(chosen, item.name).value for item in dataclasses.fields(chosen)}


@pytest.mark.parametrize(
    ("driver", "requirements"),
    [("581.57", "requirements-cu130.txt"), ("576.88", "requirements-cu128.txt"), (None, "requirements-cu128.txt")],
)
def test_an_rtx_5080_on_windows(driver, requirements):
    chosen = values(**RTX5080, driver=driver)
    assert chosen["requirements"] == requirements
    assert (chosen["precision"], chosen["attention"], chosen["optimizer"]) == ("bf16", "sdpa", "adamw_8bit")
    assert (chosen["pin_memory"], chosen["workers"], chosen["dataset_workers"]) == (False, 0, None)
    assert (chosen["load_in_4bit"], chosen["gradient_checkpointing"], chosen["compile"]) == (True, True, True)
    assert 12.5 * 2**30 < chosen["memory_bytes"] < 14.5 * 2**30


@pytest.mark.parametrize(
    ("flags", "precision"), [(["avx512_bf16"], "bf16"), (["amx_bf16"], "bf16"), (["avx2"], "fp32"), (None, "fp32")]
)
def test_a_cpu_computes_in_bf16_only_with_the_instructions(flags, precision):
    chosen = values(gpu=[], cpu_flags=flags, ram_free_gib=10, cpu_count=4)
    assert (chosen["precision"], chosen["requirements"], chosen["load_in_4bit"]) == (
        precision,
        "requirements-cpu.txt",
        False,
    )
    assert chosen["memory_bytes"] == int(10 * settings.CPU_SHARE * 2**30)


def test_a_container_limit_counts():
    assert values(gpu=[], ram_free_gib=60, memory_limit_gib=8)["memory_bytes"] == int(8 * settings.CPU_SHARE * 2**30)


@pytest.mark.parametrize(
    ("system", "display", "kept_gib"),
    [
        ("Windows 11", True, 0.6),
        ("Windows 11", None, 0.6),
        ("Ubuntu 24.04 (WSL2)", None, 0.6),
        ("Windows 11", False, 0),
        ("Ubuntu 24.04", True, 0.6),
        ("Ubuntu 24.04", None, 0),
    ],
)
def test_a_desktop_on_the_card_keeps_its_share(system, display, kept_gib):
    """In WSL it is that of the Windows around it. Twice the share where what is free, without it, is unknown."""
    card = {"name": "NVIDIA GeForce RTX 4070", "vram_gib": 12, "display": display}
    free = values(os=system, gpu=[{**card, "vram_free_gib": 10}])["memory_bytes"]
    assert free / 2**30 == pytest.approx(10 * settings.FREE_SHARE - settings.CUDA_CONTEXT_GIB - kept_gib)
    whole = values(os=system, gpu=[card])["memory_bytes"]
    assert whole / 2**30 == pytest.approx(12 * settings.FREE_SHARE - settings.CUDA_CONTEXT_GIB - 2 * kept_gib)


def test_main_memory_for_what_is_offloaded():
    card = {"gpu": [{"name": "NVIDIA GeForce RTX 4090", "vram_gib": 24}]}
    share = settings.PINNED_SHARE * 2**30
    for found, size_gib in (
        ({"ram_gib": 64, "ram_free_gib": 40}, 40),
        ({"ram_gib": 64}, 64),
        ({"ram_gib": 64, "ram_free_gib": 40, "memory_limit_gib": 8}, 8),
    ):
        assert values(**card, **found)["main_memory_bytes"] == int(size_gib * share)
    assert values(**card)["main_memory_bytes"] is None
    assert values(gpu=[], ram_free_gib=40)["main_memory_bytes"] == 0


def test_cards_before_ampere_take_fp16_and_before_turing_no_cuda_set():
    assert values(gpu=[{"name": "Tesla T4"}])["precision"] == "fp16"
    old = values(gpu=[{"name": "NVIDIA GeForce GTX 1080"}], driver="560")
    assert (old["requirements"], old["load_in_4bit"]) == ("requirements-cpu.txt", False)


def test_hidden_cards_and_cards_of_others_mean_the_cpu():
    assert (
        values(gpu=[{"name": "NVIDIA L4"}], env={"CUDA_VISIBLE_DEVICES": ""})["requirements"] == "requirements-cpu.txt"
    )
    assert values(gpu=[{"name": "AMD Radeon RX 7900 XTX", "vram_gib": 24}])["optimizer"] == "adamw_torch_fused"


def test_unknown_memory_stays_unknown():
    assert values(gpu=[{"name": "NVIDIA GeForce RTX 4090"}])["memory_bytes"] is None


@limits(max_examples=100, deadline=None)
@given(ANY_FACTS)
def test_every_machine_gets_settings_with_reasons_as_toml(data):
    chosen = settings.choose(Facts.from_json(data))
    for item in dataclasses.fields(chosen):
        assert getattr(chosen, item.name).reason
    lines = settings.to_toml(chosen).splitlines()
    assert len(lines) == len(dataclasses.fields(chosen))


def test_the_toml_can_be_read():
    tomllib = pytest.importorskip("tomllib")
    chosen = settings.choose(Facts.from_json({**RTX5080, "driver": "581.57"}))
    read = tomllib.loads(settings.to_toml(chosen))
    assert read["requirements"] == "requirements-cu130.txt"
    assert read["pin_memory"] is False
