"""What the adapter learnt, against the dense update that it stands for."""

import json
import math
import struct
from pathlib import Path

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from kit.models import headers
from kit.report import arrays, page
from kit.report.adapter import Learnt, LearntUpdate, effective_rank, held, learnt
from tests.kit.exports import METHODS, made_by_peft

LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")
RANK, INSIDE, OUTSIDE = 4, 12, 20


@pytest.fixture
def make(tmp_path: Path):
    """An adapter of random factors and its base; returns its folder and the factors."""

    def made(config: dict | None = None, dtype: str = "float32", factors: dict | None = None):
        random = numpy.random.default_rng(1)
        if factors is None:
            factors = {
                name: (random.standard_normal((RANK, INSIDE)), random.standard_normal((OUTSIDE, RANK)))
                for name in LAYERS
            }
        base = tmp_path / "base"
        adapter = tmp_path / "run" / "adapter"
        for folder in (base, adapter):
            folder.mkdir(parents=True, exist_ok=True)
        weights = {f"{name}.weight": random.standard_normal((OUTSIDE, INSIDE)).astype(dtype) for name in factors}
        save_file(weights, base / "model.safetensors")
        stored = {}
        for name, (a, b) in factors.items():
            stored[f"base_model.model.{name}.lora_A.weight"] = a.astype(dtype)
            stored[f"base_model.model.{name}.lora_B.weight"] = b.astype(dtype)
        save_file(stored, adapter / "adapter_model.safetensors")
        about = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "base_model_name_or_path": str(base)}
        (adapter / "adapter_config.json").write_text(json.dumps(about | (config or {})))
        (adapter.parent / "run.toml").write_text("")
        return adapter, factors, weights

    return made


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (4.0, 4.0)),
        ({"alpha_pattern": {"down_proj": 2}}, (2.0, 0.5)),
        ({"lora_alpha": -8}, (2.0, 2.0)),
    ],
)
def test_sizes_are_those_of_the_dense_update(make, config: dict, scales: tuple[float, float]) -> None:
    adapter, factors, weights = make(config, "float64")
    found = learnt(adapter)
    assert [(update.layer, update.projection) for update in found.updates] == [(0, "q_proj"), (1, "down_proj")]
    for update, name, scale in zip(found.updates, LAYERS, scales, strict=True):
        a, b = factors[name]
        dense = scale * b @ a
        exact = numpy.linalg.svd(dense, compute_uv=False)[:RANK]
        assert update.singular_values == pytest.approx(exact, rel=1e-9)
        assert update.norm == pytest.approx(numpy.linalg.norm(dense), rel=1e-9)
        assert update.share == pytest.approx(
            numpy.linalg.norm(dense) / numpy.linalg.norm(weights[f"{name}.weight"]), rel=1e-9
        )


def test_float16_factors_are_read(make) -> None:
    adapter, factors, _ = make(dtype="float16")
    for update, (a, b) in zip(learnt(adapter).updates, factors.values(), strict=True):
        dense = 2.0 * b.astype("float16").astype(float) @ a.astype("float16").astype(float)
        assert update.norm == pytest.approx(numpy.linalg.norm(dense), rel=1e-9)


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank([3.0] * 5) == pytest.approx(5)
    assert effective_rank([7.0, 0, 0]) == pytest.approx(1)
    assert effective_rank([0.0, 0.0]) == 0
    assert effective_rank([0.5, 0.25, 0.25]) == pytest.approx(2 ** (0.5 + 0.5 + 0.5))  # entropy: 1.5 bit
    assert effective_rank([50, 25, 25]) == pytest.approx(effective_rank([0.5, 0.25, 0.25]))


def _with(*spectra: tuple[float, ...], share: float | None = None) -> Learnt:
    return Learnt(
        tuple(
            LearntUpdate(place, "q_proj", len(sizes), math.hypot(*sizes), share, sizes, effective_rank(sizes))
            for place, sizes in enumerate(spectra)
        ),
        (),
    )


def test_energy_is_that_of_the_best_approximation(make) -> None:
    adapter, factors, _ = make({}, "float64")
    found = learnt(adapter)
    kept = whole = 0.0
    for a, b in factors.values():
        left, sizes, right = numpy.linalg.svd(2.0 * b @ a)
        dense = 2.0 * b @ a
        best = (left[:, :2] * sizes[:2]) @ right[:2]
        kept += numpy.linalg.norm(dense) ** 2 - numpy.linalg.norm(dense - best) ** 2
        whole += numpy.linalg.norm(dense) ** 2
    assert found.energy(2) == pytest.approx(kept / whole, rel=1e-9)
    assert found.energy(RANK) == pytest.approx(1)


def test_rank_for_a_share_is_the_lowest_that_holds_it() -> None:
    found = _with((3.0, 1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0))  # energies: 10 of 12 by rank 1, all by rank 2
    assert found.rank_for(0.83) == 1
    assert found.rank_for(0.84) == 2
    assert found.rank_for(1.0) == 2


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((5.0, 1.0, *[0.0] * 14), ("Rank 2 would have held 99 %", "--lora-rank 2.")),
        ((*[1.0] * 16,), ("Rank 16 would have held 99 %", "--lora-rank 32 may")),
        ((*[1.0] * 11, *[0.0] * 5), ("Rank 11 would have held 99 %", "keep it")),
        ((*[1.0] * 5, *[0.0] * 11), ("Rank 5 would have held 99 %", "--lora-rank 8.")),
        ((*[0.0] * 16,), ("changes nothing", "every update is zero")),
    ],
)
def test_advice_follows_from_the_spectrum(sizes: tuple[float, ...], said: tuple[str, str]) -> None:
    told = " ".join(_with(sizes).advice())
    assert all(part in told for part in said), told


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    """Each of the 65,536 patterns that is a number."""
    bits = numpy.arange(1 << 16, dtype="<u2")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [256, 256], "data_offsets": [0, 1 << 17]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
    found = arrays.values(headers.headers(path)["w"]).ravel()
    sign = numpy.where(bits >> 15, -1.0, 1.0)
    exponent, fraction = (bits >> 7 & 0xFF).astype(int), (bits & 0x7F) / 128
    exact = sign * numpy.where(exponent, (1 + fraction) * 2.0 ** (exponent - 127), fraction * 2.0**-126)
    finite = exponent < 255
    assert (found[finite] == exact[finite]).all()
    assert not numpy.isfinite(found[~finite]).any()


def test_a_norm_in_pieces_is_the_norm(tmp_path: Path) -> None:
    weight = numpy.random.default_rng(2).standard_normal((300, 1000)).astype("float32")  # several pieces and a rest
    save_file({"w": weight}, tmp_path / "w.safetensors")
    stored = headers.headers(tmp_path / "w.safetensors")["w"]
    assert arrays.norm(stored) == pytest.approx(numpy.linalg.norm(weight.astype(float)), rel=1e-6)
    assert (arrays.values(stored) == weight).all()


def test_without_the_base_there_is_no_share_and_the_reason(make) -> None:
    adapter, *_ = make({"base_model_name_or_path": "/gone"})
    found = learnt(adapter)
    assert {update.share for update in found.updates} == {None}
    assert "not on this machine" in found.notes[0]
    assert "norm" in found.advice()[-1]


def test_a_base_of_other_shapes_gives_no_share(make) -> None:
    adapter, *_ = make()
    base = Path(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"])
    save_file({f"{name}.weight": numpy.zeros((7, 7), "uint8") for name in LAYERS}, base / "model.safetensors")
    found = learnt(adapter)
    assert {update.share for update in found.updates} == {None}
    assert "4 or 8 bit" in found.notes[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [({"use_dora": True}, "DoRA"), ({"peft_type": "IA3"}, "IA3"), ({"lora_alpha": None}, "lora_alpha")],
)
def test_other_adapters_are_refused_in_words(make, config: dict, said: str) -> None:
    adapter, *_ = make(config)
    with pytest.raises(ValueError, match=said):
        learnt(adapter)


@pytest.mark.torch
@pytest.mark.parametrize("method", [*METHODS, "full"])
def test_what_other_methods_hold_is_counted(method: str, tmp_path_factory) -> None:
    folder = made_by_peft(tmp_path_factory)[0] / method
    told = held(folder / "model" if method == "full" else folder)
    if method in ("lora", "rslora"):
        assert told == ""
        assert len(learnt(folder).updates) == 12
        return
    sides = {"q_proj": (256, 256, 6), "v_proj": (256, 128, 4), "down_proj": (448, 256, 6)}
    plain = sum(math.prod(shape) for shape in shapes_of(folder / "model")) if method == "full" else 0
    count = {
        "dora": 4 * sum((inside + outside) * rank + outside for inside, outside, rank in sides.values()),
        "ia3": 4 * (256 + 128 + 448),
        "miss": 4 * 6 * (256 + 128 + 256),
        "prefix": 5 * 2 * 4 * 128,
        "p-tuning-v2": 5 * 2 * 4 * 128,
        "prompt": 5 * 256,
        "full": plain,
    }[method]
    assert f"--method {method}: " in told
    assert f"{count:,} numbers" in told


def shapes_of(folder: Path) -> list[tuple[int, ...]]:
    return [tensor.shape for tensor in headers.headers(folder / "model.safetensors").values()]


def test_factors_that_do_not_fit_or_hold_nan_are_named(make) -> None:
    a, b = numpy.ones((RANK, INSIDE)), numpy.ones((OUTSIDE, RANK))
    adapter, *_ = make(factors={LAYERS[0]: (a, b[:, :3])})
    with pytest.raises(ValueError, match="do not fit"):
        learnt(adapter)
    b[3, 2] = math.nan
    adapter, *_ = make(factors={LAYERS[1]: (a, b)})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.down_proj holds a number that is not finite"):
        learnt(adapter)


def test_what_is_no_linear_layer_is_counted(make) -> None:
    adapter, factors, _ = make()
    stored = {f"base_model.model.{LAYERS[0]}.lora_{side}.weight": factor.astype("float32")
              for side, factor in zip("AB", factors[LAYERS[0]], strict=True)}  # fmt: skip
    stored["base_model.model.model.embed_tokens.lora_embedding_A"] = numpy.ones((4, 9), "float32")
    save_file(stored, adapter / "adapter_model.safetensors")
    found = learnt(adapter)
    assert len(found.updates) == 1
    assert any("1 further tensors" in note and "lora_embedding_A" in note for note in found.notes)


def test_a_file_cut_anywhere_is_told_in_words(make) -> None:
    adapter, *_ = make()
    path = adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    for length in (0, 4, 8, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        seen = page.analyse(adapter.parent)
        assert seen.learnt is None, length
        assert "cannot be looked at" in seen.why_not


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=8), st.booleans())
def test_changed_bytes_never_end_in_a_traceback(make, changes: list[tuple[int, int]], of_config: bool) -> None:
    adapter, *_ = make()
    path = adapter / ("adapter_config.json" if of_config else "adapter_model.safetensors")
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % min(len(content), 600)] = value
    path.write_bytes(content)
    seen = page.analyse(adapter.parent)
    assert (seen.learnt is None) == bool(seen.why_not)
