"""The tables: every row has a source, and the questions asked of them have the right answers."""

import re

import pytest

from envcheck import known
from envcheck.known import check_tables, variables

TABLES = ("torch", "drivers", "gpus", "packages", "models")


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_a_source_and_the_table_a_date(name):
    data = known.table(name)
    assert re.match(r"^20\d\d-\d\d-\d\d$", data["about"]["checked"])
    assert data["about"]["sources"]
    rows = [row for key, value in data.items() if isinstance(value, list) for row in value]
    assert rows
    assert [row for row in rows if not row.get("source")] == []


@pytest.mark.parametrize(
    ("torch", "variant", "card", "serves"),
    [
        ("2.11.0", "cu128", (12, 0), True),
        ("2.11.0", "cu128", (7, 0), False),
        ("2.10.0", "cu128", (7, 0), True),
        ("2.14.1", "cu126", (12, 0), False),
        ("2.14.1", "cu126", (6, 1), True),
        ("2.13.0", "cu130", (7, 5), True),
        ("2.13.0", "cu130", (7, 0), False),
        ("2.8.0", "cu126", (8, 9), True),
        ("2.9.1", "cu130", (12, 1), True),
    ],
)
def test_what_a_wheel_serves(torch, variant, card, serves):
    assert known.serves(known.architectures(torch, variant, "linux_x86_64"), card) is serves


def test_the_128_wheels_end_with_211_and_126_with_214():
    newest = {variant: row["torch"] for row in known.table("torch")["releases"] for variant in row["variants"]}
    assert newest["cu128"].startswith("2.11")
    assert newest["cu126"].startswith("2.14")


def test_rules_of_binary_code():
    assert known.serves(["sm_80"], (8, 9))
    assert not known.serves(["sm_90"], (12, 0))
    assert not known.serves(["sm_89"], (8, 6))
    assert known.serves(["compute_90"], (12, 0))
    assert not known.serves(["sm_120a"], (12, 1))


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA GeForce RTX 5080", (12, 0)),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", (8, 9)),
        ("Tesla T4", (7, 5)),
        ("NVIDIA A100-SXM4-80GB", (8, 0)),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1)),
        ("Some Card 9000", None),
    ],
)
def test_cards_by_name(name, card):
    assert known.capability(name, None) == card


def test_what_the_driver_says_counts_more_than_the_name():
    assert known.capability("NVIDIA GeForce RTX 5080", "9.0") == (9, 0)


def test_drivers():
    assert known.floor_of_cuda("13.0", windows=False).startswith("580")
    assert known.floor_of_cuda("12.8", windows=False).startswith("525")
    assert known.first_driver_of_card((12, 0), windows=False) == "570"
    assert known.floor_of_cuda("99.0", windows=False) is None


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("CUDA_VISIBILE_DEVICES", "CUDA_VISIBLE_DEVICES"),
        ("CUDA_VISIBLE_DEVICE", "CUDA_VISIBLE_DEVICES"),
        ("NCCL_P2P_DISABEL", "NCCL_P2P_DISABLE"),
        ("cuda_visible_devices", "CUDA_VISIBLE_DEVICES"),
        ("NCCL_DISABLE_P2P", "NCCL_P2P_DISABLE"),
        ("CUDA_VISIBLE_DEVICES", None),
        ("CUDA_PATH_V12_8", None),
        ("NCCL_DEBUG_FILE", None),
        ("PATH", None),
        ("PYTORCH_CUDA_ALOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    ],
)
def test_misspelt_variables(name, right):
    assert variables.meant(name) == right


def test_a_table_that_differs_from_the_metadata_is_found(monkeypatch, capsys):
    said = {"trl": ("1.15.0", ["transformers>=4.56.2", "accelerate>=9.9", "datasets>=4.7.0", "vllm; extra == 'x'"])}

    def version(name):
        if name not in said:
            raise check_tables.metadata.PackageNotFoundError(name)
        return said[name][0]

    monkeypatch.setattr(check_tables.metadata, "version", version)
    monkeypatch.setattr(check_tables.metadata, "requires", lambda name: said[name][1])
    assert check_tables.main() == 1
    out = capsys.readouterr().out
    assert "accelerate is >=1.4.0 in the table, >=9.9 in the metadata" in out
    assert out.endswith("3 bounds compared, 1 differ\n")
