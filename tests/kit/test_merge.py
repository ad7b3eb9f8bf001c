"""Merging: the numbers against PEFT and bitsandbytes, the files, and every bad input."""

import json
import math
import shutil
from pathlib import Path

import pytest

from kit.export import model_folder, parity_prompts, writing
from kit.export.job import prepare
from kit.export.options import MergeCommand
from kit.export.tuned_model import find_adapter
from kit.models import safetensors_file
from kit.run import checkpoints
from kit.support.errors import KitError
from kit.support.units import GIB
from tests.kit.exports import METHODS, TINY, child, made_by_peft, parts, write_adapter
from tests.support.processes import run_kit
from tests.support.results import findings_of


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> dict:
    """What the kit computes, compared with the libraries in one process."""
    return child(tmp_path_factory.mktemp("numbers"))


@pytest.mark.torch
def test_equal_to_peft_to_the_last_bit(numbers) -> None:
    """Also with rsLoRA's scale and with ranks and alphas of their own."""
    assert numbers["tensors"] == 46
    assert numbers["peft"] == {"plain": [], "odd": []}


@pytest.mark.torch
def test_nf4_is_the_loaders(numbers) -> None:
    assert numbers["four_bit"]["differ"] == []
    assert numbers["four_bit"]["differ_when_saved"] == []
    assert len(numbers["four_bit"]["rounded"]) == 4 * 7, "the linear layers of each block, not embedding and norms"


@pytest.mark.torch
def test_several_adapters(numbers) -> None:
    assert numbers["combined"]["linear"] < 1e-6
    assert numbers["combined"]["plain_sums"] == [True] * 3, "to the last bit"
    assert numbers["combined"]["one_is_itself"]
    assert numbers["combined"]["ties"] < 1e-4, "PEFT's goes through a decomposition"
    assert numbers["combined"]["dare"] < 1e-4, "with the same random numbers"
    assert numbers["combined"]["dare_dropped_by_both"] == pytest.approx(0.25, abs=0.02)
    assert numbers["combined"]["dare_mean"] == pytest.approx(1, abs=0.05)
    assert numbers["combined"]["dare_repeats"] == [True, False]


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS[:5])
def test_each_kind_is_merged_as_by_peft(method: str, tmp_path_factory) -> None:
    found = made_by_peft(tmp_path_factory)[1]["merged"][method]
    assert found["changed"] == 4 * 3, "the layers with an adapter, and no others"
    assert found["change"] > 1e-2
    assert found["largest"] < 1e-6


@pytest.mark.torch
@pytest.mark.parametrize("name", ["dora", "ia3", "miss", "full"])
def test_the_command_proves_each_kind(name: str, tmp_path_factory) -> None:
    """A run of `full` is no merge: its model goes into a GGUF file, and is compared with itself."""
    folder, told = made_by_peft(tmp_path_factory)
    made = told["merges"][name]
    assert made["status"] == 0
    assert all(row[1] for row in made["rows"])
    assert made["rows"][0][0].endswith(".gguf") == (name in ("dora", "full"))
    assert not any((folder / f"{name}-{to}" / "NOT-VERIFIED").exists() for to in ("hf", "gguf"))


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS[5:])
def test_virtual_tokens_cannot_be_merged(method: str, out, tmp_path_factory) -> None:
    found = finding(made_by_peft(tmp_path_factory)[0] / method, out)
    assert found.id == "adapter-changes-no-weight"
    assert "5 virtual tokens" in found.why
    assert found.fix[0].startswith("python -m kit.chat")


@pytest.mark.torch
@pytest.mark.parametrize("options", [{"weight": 0.5}, {"add": ("lora",)}])
@pytest.mark.parametrize("method", ["dora", "ia3", "miss"])
def test_what_is_no_plain_sum_is_merged_alone(method: str, options: dict, out, tmp_path_factory) -> None:
    folder = made_by_peft(tmp_path_factory)[0]
    options = {name: value if name == "weight" else (f"{folder / 'lora'}=0.5",) for name, value in options.items()}
    found = finding(folder / method, out, **options)
    assert found.id == "merge-of-several-kinds"
    assert "lora and rslora" in found.why
    job = prepare(command(folder / "lora", out, add=(f"{folder / 'rslora'}=0.5",)))
    assert [len(weight.changes) for weight in job.weights if weight.changes] == [2] * 12


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "named"),
    [({}, "--to hf"), ({"to": ("hf", "gguf")}, "--to hf"), ({"to": ("gguf",), "weight": 2.0}, "--weight"),
     ({"to": ("gguf",), "base_precision": "nf4"}, "--base-precision"), ({"to": ("gguf",), "base": "tiny"}, "--base")],
)  # fmt: skip
def test_a_run_of_every_weight_is_a_model_already(options: dict, named: str, out, tmp_path_factory) -> None:
    folder = made_by_peft(tmp_path_factory)[0]
    found = finding(folder / "full", out, **options)
    assert found.id == "run-is-a-whole-model"
    assert f"already: {named} means nothing" in found.what
    assert found.fix[0].split("     ")[0].endswith("--to gguf")
    assert finding(folder / "lora", out, add=(str(folder / "full"),)).id == "run-is-a-whole-model"


def test_lengths_without_dora_are_not_merged(adapter, out) -> None:
    add_to(adapter, {f"base_model.model.{parts(0, 'q_proj')}.lora_magnitude_vector": (256,)})
    assert "lora_magnitude_vector" in finding(adapter, out).what


# the files


def test_a_writer_that_is_read_by_safetensors(tmp_path) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    values = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones((5, 4), np.float16)}
    kinds = {"b": "F32", "a": "F16"}
    planned = [safetensors_file.PlannedTensor(name, kinds[name], values[name].shape) for name in values]
    file = safetensors_file.TensorWriter(tmp_path / "x", planned)
    for value in values.values():
        for row in value:
            file.write(memoryview(row.tobytes()))
    file.close()
    found = load_file(tmp_path / "x")
    assert all((found[name] == value).all() and found[name].dtype == value.dtype for name, value in values.items())


def test_a_writer_notices_what_is_missing(tmp_path) -> None:
    file = safetensors_file.TensorWriter(tmp_path / "x", [safetensors_file.PlannedTensor("a", "F32", (2,))])
    file.write(memoryview(bytes(4)))
    with pytest.raises(ValueError, match="announced"):
        file.close()


def test_shards_are_filled_in_order(tmp_path) -> None:
    most = 1 << 20
    job = prepare(command(write_adapter(tmp_path / "a"), tmp_path / "out", shard_gib=most / GIB))
    found = job.shard_plan
    assert len(found.names) == len(found.shards) > 2
    assert [one.name for shard in found.shards for one in shard] == [weight.name for weight in job.weights]
    sizes = [sum(one.nbytes for one in shard) for shard in found.shards]
    assert all(size <= most for size, shard in zip(sizes, found.shards, strict=True) if len(shard) > 1)
    assert sum(sizes) == found.nbytes


# bad input


def command(source: Path, output: Path, **options) -> MergeCommand:
    return MergeCommand(source=source, output=output, **options)


def finding(source: Path, output: Path, **options):
    found = findings_of(lambda: prepare(command(source, output, **options)))[0]
    assert found.id == "output-not-empty" or not output.exists()
    return found


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def adapter(tmp_path) -> Path:
    return write_adapter(tmp_path / "adapter")


@pytest.fixture
def model(tmp_path) -> Path:
    """A copy of tiny that can be broken."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def test_a_good_one_reads_no_weight(adapter, out) -> None:
    job = prepare(command(adapter, out))
    assert (job.four_bit, job.first.summary, len(job.weights)) == (False, "rank 4, 16 layers", 46)
    assert "no run folder" in job.reason
    assert not out.exists()


def test_scales(tmp_path) -> None:
    path = write_adapter(tmp_path / "a", use_rslora=True, rank_pattern={"v_proj": 2}, alpha_pattern={"down_proj": 3})
    found = find_adapter(path).changes
    assert found[parts(0, "q_proj")].scale == 8 / math.sqrt(4)
    assert found[parts(0, "v_proj")].scale == 8 / math.sqrt(2)
    assert found[parts(0, "down_proj")].scale == 3 / math.sqrt(4)


def test_no_such_adapter(tmp_path, out) -> None:
    assert finding(tmp_path / "nowhere", out).id == "no-adapter"
    assert finding(tmp_path, out).id == "no-adapter"
    assert finding(TINY, out).id == "not-an-adapter"


def test_a_run_that_is_not_finished(tmp_path, out) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.toml").write_text("")
    found = finding(tmp_path / "run", out)
    assert found.id == "run-without-adapter"
    assert "kit.train --config" in found.fix[0]


def test_pickled_adapters_are_not_read(adapter, out) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    found = finding(adapter, out)
    assert found.id == "adapter-is-pickle"
    assert "pickle" in found.why


def test_missing_weights(adapter, out) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    assert finding(adapter, out).id == "adapter-incomplete"


def test_weights_outside_of_the_folder_are_not_shipped(adapter, out) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.rename(adapter.with_name("outside"))
    weights.symlink_to(adapter.with_name("outside"))
    assert finding(adapter, out).id == "adapter-leaves-its-folder"


@pytest.mark.parametrize("keep_bytes", [0, 4, 300, 60_000])
def test_an_adapter_cut_short(adapter, out, keep_bytes) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep_bytes])
    assert finding(adapter, out).id == "weights-unreadable"


@pytest.mark.parametrize(
    "config",
    [
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"fan_in_fan_out": True},
    ],
)
def test_what_a_merge_would_lose_is_refused(tmp_path, out, config) -> None:
    found = finding(write_adapter(tmp_path / "a", **config), out)
    assert found.id == "adapter-cannot-be-merged"
    assert dict(found.details) == {name: str(value) for name, value in config.items()}


def test_weights_that_are_no_factors(adapter, out) -> None:
    add_to(adapter, {"base_model.model.lm_head.weight": (2, 2)})
    assert "lm_head" in finding(adapter, out).what


def add_to(adapter: Path, shapes: dict) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file(load_file(path) | {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, path)


@pytest.mark.parametrize(
    ("shapes", "id", "word"),
    [
        ({"A": (4, 256)}, "adapter-incomplete", "o_proj: lora_B"),
        ({"B": (256, 4)}, "adapter-incomplete", "o_proj: lora_A"),
        ({"A": (3, 256), "B": (256, 4)}, "adapter-broken", "rank 4"),
        ({"A": (4, 256), "B": (256, 3)}, "adapter-broken", "rank 4"),
        ({"A": (8, 256), "B": (256, 8)}, "adapter-broken", "rank 4"),
        ({"A": (4,), "B": (256, 4)}, "adapter-broken", "rank 4"),
        ({"A": (4, 256, 1, 1), "B": (256, 4, 1, 1)}, "adapter-cannot-be-merged", "o_proj"),
    ],
)
def test_factors_that_do_not_fit_together(adapter, out, shapes, id, word) -> None:
    stem = "base_model.model.model.layers.0.self_attn.o_proj.lora_"
    add_to(adapter, {f"{stem}{side}.weight": shape for side, shape in shapes.items()})
    found = finding(adapter, out)
    assert found.id == id
    assert word in f"{found.what} {found.why} {found.details}"


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": "LOHA"}', "{}"])
def test_a_config_that_is_none(adapter, out, text) -> None:
    (adapter / "adapter_config.json").write_text(text)
    assert finding(adapter, out).id in ("model-config-unreadable", "adapter-kind-unknown")


@pytest.mark.parametrize("values", [{"r": None}, {"r": 0}, {"lora_alpha": "much"}, {"lora_alpha": 10**400}, {"r": "4"}])
def test_a_config_with_odd_values(tmp_path, out, values) -> None:
    path = write_adapter(tmp_path / "a")
    config = json.loads((path / "adapter_config.json").read_text()) | values
    (path / "adapter_config.json").write_text(json.dumps(config))
    assert finding(path, out).id == "adapter-broken"


def test_missing_base(tmp_path, out) -> None:
    path = write_adapter(tmp_path / "a", base_model_name_or_path="/no/such/model")
    found = finding(path, out)
    assert found.id == "base-not-found"
    assert "--base" in found.fix[0]
    assert finding(write_adapter(tmp_path / "b", base_model_name_or_path=None), out).id == "base-not-found"


def test_a_base_of_another_shape(tmp_path, out, model) -> None:
    path = write_adapter(tmp_path / "a", layers=6)
    found = finding(path, out)
    assert found.id == "adapter-does-not-fit"
    assert found.fix[0].startswith("--base ")
    assert any("the model has no such layer" in value for _, value in found.details)
    other = write_adapter(tmp_path / "b")
    add_to(other, {f"base_model.model.{parts(0, 'k')}.lora_{side}.weight": shape
                   for side, shape in (("A", (4, 99)), ("B", (98, 4)))})  # fmt: skip
    assert finding(other, out).id == "adapter-does-not-fit"


def test_equal_shapes_under_another_name_are_a_warning(adapter, out, model) -> None:
    other = model.rename(model.with_name("tiny-Base"))
    job = prepare(command(adapter, out, base=str(other)))
    assert [one.id for one in job.findings] == ["base-has-another-name"]
    assert prepare(command(adapter, out)).findings == ()


def test_a_base_cut_short(adapter, out, model) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1_000_000])
    assert finding(adapter, out, base=str(model)).id == "weights-unreadable"


def test_a_pickled_base(adapter, out, model) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert finding(adapter, out, base=str(model)).id == "model-weights-missing"


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x", 7])
def test_an_index_that_leaves_the_folder(adapter, out, model, name) -> None:
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    assert finding(adapter, out, base=str(model)).id == "model-index-leaves-folder"


def test_an_index_of_another_model(adapter, out, model) -> None:
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x.weight": "model.safetensors"}}))
    assert finding(adapter, out, base=str(model)).id == "model-weights-missing"


def test_output_that_is_taken(adapter, out) -> None:
    out.mkdir()
    prepare(command(adapter, out))
    (out / "letter.txt").write_text("keep me")
    assert finding(adapter, out).id == "output-not-empty"
    assert (out / "letter.txt").read_text() == "keep me"
    assert finding(adapter, out / "letter.txt").id == "output-not-empty"
    assert finding(adapter, out / "letter.txt" / "x").id == "output-not-writable"


def test_a_disk_that_is_too_small(adapter, out, monkeypatch) -> None:
    monkeypatch.setattr(checkpoints, "free_bytes", lambda _: 7_000_000)
    assert finding(adapter, out).id == "disk-too-full"
    monkeypatch.setattr(checkpoints, "free_bytes", lambda _: 12_000_000)
    prepare(command(adapter, out))
    assert finding(adapter, out, to=("hf", "gguf")).id == "disk-too-full"


@pytest.mark.parametrize("text", ["=0.5", "x=much"])
def test_a_weight_that_is_none(adapter, out, text) -> None:
    with pytest.raises(KitError):
        prepare(command(adapter, out, add=(text,)))


def test_a_mixture_of_experts_is_refused(adapter, out, model) -> None:
    config = json.loads((model / "config.json").read_text()) | {"num_experts": 8}
    (model / "config.json").write_text(json.dumps(config))
    assert finding(adapter, out, base=str(model)).id == "merge-of-experts"


@pytest.mark.parametrize("experts", ["num_experts", "num_local_experts"])
def test_a_family_that_was_never_compared_is_a_warning(adapter, out, model, experts: str) -> None:
    config = json.loads((model / "config.json").read_text()) | {"model_type": "granite"}
    (model / "config.json").write_text(json.dumps(config))
    job = prepare(command(adapter, out, base=str(model)))
    assert {found.id: found.severity for found in job.findings}["merge-family-unknown"] == "warning"
    (model / "config.json").write_text(json.dumps(config | {experts: 32}))
    assert finding(adapter, out, base=str(model)).id == "merge-of-experts"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_an_interrupted_merge_leaves_nothing(adapter, out, monkeypatch, error) -> None:
    job = prepare(command(adapter, out, to=("hf", "gguf")))
    prompts = parity_prompts.collect(job.first, job.base.model)

    def interrupted(weights, combination, sinks, on_progress):
        (sinks[0].folder / "half").write_bytes(b"begun")
        raise error

    monkeypatch.setattr(writing, "write", interrupted)
    with pytest.raises((KitError, KeyboardInterrupt, MemoryError)):
        model_folder.write(job, prompts, lambda *_: None)
    assert not out.exists()
    assert sorted(path.name for path in out.parent.iterdir()) == ["adapter"]


def test_leftovers_of_a_killed_merge_are_replaced(adapter, out, monkeypatch) -> None:
    job = prepare(command(adapter, out))
    part = out.with_name(f".{out.name}.part")
    part.mkdir()
    (part / "half.safetensors").write_bytes(bytes(10))
    monkeypatch.setattr(model_folder, "fill", lambda *_: model_folder.WrittenFiles("BF16", {}, ()))
    model_folder.write(job, None, lambda *_: None)
    assert sorted(path.name for path in out.iterdir()) == ["NOT-VERIFIED"]
    assert not part.exists()


def test_usage(tmp_path) -> None:
    done = run_kit("kit.merge")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_and_bad_input_need_no_heavy_library(tmp_path) -> None:
    done = run_kit("kit.merge", "--help")
    assert done.returncode == 0
    assert "--combine" in done.stdout
    done = run_kit("kit.merge", tmp_path / "nowhere", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "no-adapter" in done.stderr
