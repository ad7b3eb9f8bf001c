import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envcheck.facts import Facts, Finding, Gpu

KEYS = list(Facts.__dataclass_fields__)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["12.0", "2.7.1+cu128", "580.65", "MIG-1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*KEYS, "name", "torch", "compute_capability", "bf16"]), inner, max_size=4)
    ),
    max_leaves=12,
)
ANY_FACTS = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), VALUES, max_size=12)


def test_the_casebook_survives_the_round_trip(cases):
    for case in cases:
        facts = Facts.from_json(case["facts"])
        assert Facts.from_json(json.dumps(facts.to_json())) == facts, case["id"]


def test_null_torch_cuda_is_known_and_absent_is_unknown():
    assert Facts.from_json({"torch_cuda": None}).torch_build == "cpu"
    assert Facts.from_json({}).torch_build is None
    assert Facts.from_json({"torch_cuda": None}).to_json() == {"torch_cuda": None}


def test_unknown_keys_and_wrong_types_count_as_unknown():
    facts = Facts.from_json(
        {"weather": 3, "os": ["x"], "gpu": "RTX", "c_compiler": "yes", "ram_gib": "much", "env": [1]}
    )
    assert facts == Facts()


def test_names_of_packages_compare_without_case_and_hyphen():
    facts = Facts.from_json({"packages": {"Unsloth_Zoo": "2026.1", "triton": None}})
    assert facts.package("unsloth-zoo") == "2026.1"
    assert (facts.installed("triton"), facts.installed("torch")) == (False, None)


def test_bounds_decide_only_what_is_certain():
    facts = Facts.from_json({"packages_bounds": {"transformers": "<4.50", "torchvision": ">=0.21"}})
    assert facts.fits("transformers", "<4.52") is True
    assert facts.fits("transformers", ">=4.50") is False
    assert facts.fits("transformers", "<4.40") is None
    assert facts.fits("torchvision", "==0.20.*") is False


@pytest.mark.parametrize(
    ("name", "vendor"),
    [
        ("NVIDIA GeForce RTX 5080", "nvidia"),
        ("Tesla T4", "nvidia"),
        ("AMD Radeon RX 7900 XTX", "amd"),
        ("AMD Instinct MI50 (gfx906)", "amd"),
        ("Intel Arc 140V", "intel"),
        ("Apple M4 Pro", "apple"),
        ("Matrox G200", None),
    ],
)
def test_vendor(name, vendor):
    assert Gpu(name=name).vendor == vendor


def test_text_that_is_no_object_is_refused():
    for text in ("[]", "nothing", '"x"', "[" * 100_000):
        with pytest.raises(ValueError, match=r".+"):
            Facts.from_json(text)


def test_a_finding_knows_its_severities():
    with pytest.raises(ValueError, match="severity"):
        Finding("x", "fatal", "what")


@settings(max_examples=150, deadline=None)
@given(ANY_FACTS)
def test_any_object_is_read_and_written(data):
    facts = Facts.from_json(data)
    again = Facts.from_json(json.loads(json.dumps(facts.to_json())))
    assert again.to_json() == facts.to_json()


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60) | st.sampled_from([b"[" * 100_000, b"1" * 6000, b'{"ram_gib": 1e999}', b"NaN", b"\xff\xfe{"])
)
def test_any_bytes_are_facts_or_refused(data):
    with contextlib.suppress(ValueError):  # anything else would end in a traceback
        assert isinstance(Facts.from_json(data), Facts)
