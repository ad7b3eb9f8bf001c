"""An adapter that cannot answer is a finding before any library is loaded: whatever is wrong with its folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from envcheck import probe
from kit import models
from kit.chat.__main__ import main
from kit.chat.options import read_command
from kit.chat.target import find
from kit.export.job import prepare
from kit.export.options import MergeCommand
from kit.models import adapters, headers
from kit.run import tuned
from kit.support.errors import KitError
from tests.kit.exports import METHODS, made_by_peft

RANK = 4
CONFIG = {"peft_type": "LORA", "r": RANK, "target_modules": ["q_proj", "down_proj"], "base_model_name_or_path": "tiny"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An adapter of noughts that fits tiny."""
    folder = tmp_path_factory.mktemp("adapters") / "whole"
    folder.mkdir()
    matrices = {}
    for name, tensor in headers.headers(models.TINY / "model.safetensors").items():
        shape = tensor.shape
        if name.split(".")[-2] in CONFIG["target_modules"]:
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            matrices[f"{layer}.lora_A.weight"] = np.zeros((RANK, shape[1]), np.float32)
            matrices[f"{layer}.lora_B.weight"] = np.zeros((shape[0], RANK), np.float32)
    save_file(matrices, folder / adapters.WEIGHTS)
    (folder / adapters.CONFIG).write_text(json.dumps(CONFIG))
    return folder


def change_config(**values: object):
    def change(folder: Path) -> None:
        (folder / adapters.CONFIG).write_text(json.dumps(CONFIG | values))

    return change


def change_tensors(change_one):
    def change(folder: Path) -> None:
        matrices = load_file(folder / adapters.WEIGHTS)
        first = sorted(matrices)[0]  # lora_A of a down_proj
        change_one(matrices, first)
        save_file(matrices, folder / adapters.WEIGHTS)

    return change


def pickled(folder: Path) -> None:
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")


def link_outside(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / adapters.WEIGHTS).rename(outside)
    (folder / adapters.WEIGHTS).symlink_to(outside)


def cut_short(folder: Path) -> None:
    content = (folder / adapters.WEIGHTS).read_bytes()
    (folder / adapters.WEIGHTS).write_bytes(content[: len(content) // 2])


def missing(matrices: dict, name: str) -> None:
    layer = name.removesuffix("lora_A.weight")
    for side in "AB":
        del matrices[f"{layer}lora_{side}.weight"]


def half(matrices: dict, name: str) -> None:
    del matrices[name]


def narrow(matrices: dict, name: str) -> None:
    matrices[name] = matrices[name][:, :-8].copy()


def no_such_layer(matrices: dict, name: str) -> None:
    layer = name.removesuffix("lora_A.weight")
    for old in [f"{layer}lora_{side}.weight" for side in "AB"]:
        matrices[old.replace("layers.0", "layers.40")] = matrices.pop(old)


def other_names(matrices: dict, name: str) -> None:
    """Names that PEFT does not save under, and leaves out when it loads."""
    matrices[name.replace("lora_A.", "lora_A.default.")] = matrices.pop(name)


def no_matrix(matrices: dict, name: str) -> None:
    matrices[name] = matrices[name][:, 0].copy()


BROKEN = {
    "adapter-is-pickle": pickled,
    "adapter-leaves-its-folder": link_outside,
    "weights-unreadable": cut_short,
    "adapter-kind-unknown": change_config(peft_type="LOHA"),
    "adapter-broken, rank": change_config(r=8),
    "adapter-broken, rank of some layers": change_config(rank_pattern={"q_proj": 8}),
    "adapter-broken, rank patterns": change_config(rank_pattern={"q_proj(": 8}),
    "adapter-broken, no matrix": change_tensors(no_matrix),
    "adapter-does-not-fit, shape": change_tensors(narrow),
    "adapter-does-not-fit, layer": change_tensors(no_such_layer),
    "adapter-incomplete, a layer": change_tensors(missing),
    "adapter-incomplete, half of one": change_tensors(half),
    "adapter-incomplete, other names": change_tensors(other_names),
    "adapter-incomplete, no weights": lambda folder: (folder / adapters.WEIGHTS).unlink(),
    "base-missing": change_config(base_model_name_or_path="/no/such/model"),
    "base-unknown": change_config(base_model_name_or_path=None),
    "model-config-unreadable": lambda folder: (folder / adapters.CONFIG).write_text("{"),
    "no-adapter": lambda folder: (folder / adapters.CONFIG).unlink(),
}


def test_a_whole_adapter_has_no_finding(whole: Path) -> None:
    adapters.check(adapters.find(whole), models.find("tiny"))


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_adapter_is_a_finding_with_a_fix(case: str, whole: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "adapter-of-somebody"
    shutil.copytree(whole, folder)
    BROKEN[case](folder)

    assert main([str(folder), "--prompt", "Hello"]) == 1

    told = capsys.readouterr().err
    assert f"error: {case.split(',')[0]}\n" in told
    assert "fix: " in told


def test_links_into_the_cache_of_the_hub_are_followed(whole: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    shutil.copytree(whole, snapshot)
    blob = tmp_path / "models--a--b" / "blobs" / "123"
    blob.parent.mkdir()
    (snapshot / adapters.WEIGHTS).rename(blob)
    (snapshot / adapters.WEIGHTS).symlink_to(blob)

    adapters.check(adapters.find(snapshot), models.find("tiny"))


SAME_TROUBLE = {name: change for name, change in BROKEN.items() if not name.startswith("base-")}


@pytest.mark.parametrize("case", SAME_TROUBLE)
def test_a_merge_says_the_same(case: str, whole: Path, tmp_path: Path, capsys) -> None:
    """What keeps an adapter from answering keeps it from being merged: the same finding in the same words."""
    folder = tmp_path / "adapter-of-somebody"
    shutil.copytree(whole, folder)
    config = json.loads((folder / adapters.CONFIG).read_text()) | {"lora_alpha": RANK}
    (folder / adapters.CONFIG).write_text(json.dumps(config))
    SAME_TROUBLE[case](folder)
    found = []
    for start in (
        lambda: find(read_command([str(folder)]), None),
        lambda: prepare(MergeCommand(source=folder, output=tmp_path / "out")),
    ):
        with pytest.raises(KitError) as error:
            start()
        found.append(error.value.findings[0])

    assert found[0].id == case.split(",")[0]
    same = [(one.id, one.why, [label for label, _ in one.details]) for one in found]
    assert same[0] == same[1]


# the other kinds, as PEFT saves them


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Path:
    return made_by_peft(tmp_path_factory)[0]


@pytest.mark.torch
@pytest.mark.parametrize("method", METHODS)
def test_each_kind_is_known_and_fits_its_base(method: str, kinds: Path) -> None:
    found = adapters.find(kinds / method)

    adapters.check(found, models.find("tiny"))
    assert (found.method.name, found.virtual_tokens) == (method, 5 if method in METHODS[5:] else 0)


def other_base(folder: Path, matrices: dict) -> None:
    """As over a base whose layers are wider: the numbers of each are half of its."""
    config = json.loads((folder / adapters.CONFIG).read_text())
    for name, value in matrices.items():
        inward = config["peft_type"] in ("PREFIX_TUNING", "PROMPT_TUNING", "MISS") or value.shape[0] == 1
        if "lora_A" not in name:
            matrices[name] = value[:, : value.shape[1] // 2] if inward else value[: value.shape[0] // 2]


def one_missing(folder: Path, matrices: dict) -> None:
    del matrices[max(matrices)]  # with DoRA the lengths of the last layer


def no_such_number(folder: Path, matrices: dict) -> None:
    matrices |= {name: value.ravel() for name, value in matrices.items() if "lora_A" not in name}


@pytest.mark.torch
@pytest.mark.parametrize("method", [*METHODS[2:6], "prompt"])
@pytest.mark.parametrize(
    ("change", "finding"),
    [(other_base, "does-not-fit"), (one_missing, "incomplete"), (no_such_number, "broken")],
)
def test_a_broken_one_of_each_kind_is_a_finding(method: str, change, finding: str, kinds: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kinds / method, tmp_path / method))
    matrices = load_file(folder / adapters.WEIGHTS)
    change(folder, matrices)
    save_file({name: value.copy() for name, value in matrices.items()}, folder / adapters.WEIGHTS)

    with pytest.raises(KitError) as error:
        adapters.check(adapters.find(folder), models.find("tiny"))
    assert error.value.findings[0].id == f"adapter-{finding}"
    assert error.value.findings[0].fix


@pytest.mark.torch
def test_factors_of_the_other_side_are_seen(kinds: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kinds / "ia3", tmp_path / "ia3"))
    config = json.loads((folder / adapters.CONFIG).read_text())
    (folder / adapters.CONFIG).write_text(json.dumps(config | {"feedforward_modules": ["v_proj"]}))
    with pytest.raises(KitError, match="adapter-broken") as error:
        adapters.check(adapters.find(folder), models.find("tiny"))
    assert "goes in" in error.value.findings[0].why or "comes out" in error.value.findings[0].why


def test_an_unknown_kind_names_the_known_ones(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "other"))
    for values in ({"peft_type": "LOHA"}, {"peft_type": None}, {"peft_type": ["LORA"]}, {"megatron_config": {"a": 1}}):
        change_config(**values)(folder)
        with pytest.raises(KitError, match="adapter-kind-unknown") as error:
            adapters.find(folder)
        assert "LORA, IA3, MISS, PREFIX_TUNING, PROMPT_TUNING" in error.value.findings[0].why


@pytest.mark.torch
def test_adapters_of_two_kinds_are_refused_before_loading(kinds: Path, capsys) -> None:
    assert main([str(kinds / "ia3"), str(kinds / "prompt"), "--prompt", "Hello"]) == 1
    told = capsys.readouterr().err
    assert "error: adapters-of-two-kinds\n" in told
    assert "ia3 (ia3) and prompt (prompt)" in told
    assert "model  " not in told
    find(read_command([str(kinds / "lora"), str(kinds / "dora"), str(kinds / "rslora")]), probe.collect())  # one kind


def test_a_run_of_every_weight_is_no_adapter(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.toml").write_text('method = "full"\n')
    with pytest.raises(KitError, match="has no model yet"):
        tuned.find_adapter(run)
    shutil.copytree(models.TINY, run / "model")
    for name in (run, run / "model"):
        assert tuned.whole_model(name) == run / "model"
        with pytest.raises(KitError) as error:
            tuned.find_adapter(name)
        assert error.value.findings[0].id == "run-is-a-whole-model"
        assert f"python -m kit.chat {run}" in error.value.findings[0].fix[0]


@pytest.mark.parametrize("means", ["run", "run/adapter", "alone"])
def test_a_name_means_a_run_its_adapter_or_an_adapter(means: str, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run / "adapter")
    (run / "run.toml").write_text("")
    shutil.copytree(whole, tmp_path / "alone")

    found = tuned.find_adapter(tmp_path / means)

    of_run = means != "alone"
    assert (found.path, found.run_folder) == ((run / "adapter", run) if of_run else (tmp_path / "alone", None))
    assert found.name == ("run" if of_run else "alone")
    assert tuned.find_adapter(tmp_path / means, "mine").name == "mine"


def test_a_part_of_a_run_names_the_run(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(KitError, match="no-adapter") as error:
        tuned.find_adapter(tmp_path / "checkpoints")
    assert str(tmp_path) in error.value.findings[0].fix[0]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {"v_proj": 1, "q_proj": 2, ".*_proj": 3}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"proj": 2}}, 2.0),
    ],
)
def test_the_scale(config: dict, expected: float) -> None:
    assert adapters.scale(config, "model.layers.0.self_attn.q_proj", RANK) == expected


@pytest.mark.parametrize("config", [{}, {"lora_alpha": True}, {"lora_alpha": "8"}, {"alpha_pattern": [1]},
                                    {"lora_alpha": 8, "alpha_pattern": {"(": 1}}])  # fmt: skip
def test_a_scale_that_is_none(config: dict) -> None:
    with pytest.raises(ValueError, match="alpha"):
        adapters.scale(config, "model.layers.0.self_attn.q_proj", RANK)
