"""An adapter that cannot answer is a finding before any library is loaded: whatever is wrong with its folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kit import adapters, models
from kit.chat.__main__ import main
from kit.errors import KitError

RANK = 4
CONFIG = {"peft_type": "LORA", "r": RANK, "target_modules": ["q_proj", "down_proj"], "base_model_name_or_path": "tiny"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An adapter of noughts that fits tiny."""
    folder = tmp_path_factory.mktemp("adapters") / "whole"
    folder.mkdir()
    shapes = adapters.tensor_shapes(models.TINY / "model.safetensors")
    tensors = {}
    for name, shape in shapes.items():
        if name.split(".")[-2] in CONFIG["target_modules"]:
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{layer}.lora_A.weight"] = np.zeros((RANK, shape[1]), np.float32)
            tensors[f"{layer}.lora_B.weight"] = np.zeros((shape[0], RANK), np.float32)
    save_file(tensors, folder / adapters.WEIGHTS)
    (folder / adapters.CONFIG).write_text(json.dumps(CONFIG))
    return folder


def change_config(**values: object):
    def change(folder: Path) -> None:
        (folder / adapters.CONFIG).write_text(json.dumps(CONFIG | values))

    return change


def change_tensors(change_one):
    def change(folder: Path) -> None:
        tensors = load_file(folder / adapters.WEIGHTS)
        first = sorted(tensors)[0]  # lora_A of a down_proj
        change_one(tensors, first)
        save_file(tensors, folder / adapters.WEIGHTS)

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


def missing(tensors: dict, name: str) -> None:
    layer = name.removesuffix("lora_A.weight")
    for side in "AB":
        del tensors[f"{layer}lora_{side}.weight"]


def half(tensors: dict, name: str) -> None:
    del tensors[name]


def narrow(tensors: dict, name: str) -> None:
    tensors[name] = tensors[name][:, :-8].copy()


def no_such_layer(tensors: dict, name: str) -> None:
    tensors[name.replace("layers.0", "layers.40")] = tensors.pop(name)


BROKEN = {
    "adapter-is-pickle": pickled,
    "adapter-leaves-its-folder": link_outside,
    "weights-unreadable": cut_short,
    "adapter-kind-unknown": change_config(peft_type="LOHA"),
    "adapter-does-not-fit, rank": change_config(r=8),
    "adapter-does-not-fit, shape": change_tensors(narrow),
    "adapter-does-not-fit, layer": change_tensors(no_such_layer),
    "adapter-incomplete, a layer": change_tensors(missing),
    "adapter-incomplete, half of one": change_tensors(half),
    "adapter-incomplete, no weights": lambda folder: (folder / adapters.WEIGHTS).unlink(),
    "base-missing": change_config(base_model_name_or_path="/no/such/model"),
    "base-unknown": change_config(base_model_name_or_path=None),
    "model-config-unreadable": lambda folder: (folder / adapters.CONFIG).write_text("{"),
    "not-a-run": lambda folder: (folder / adapters.CONFIG).unlink(),
}


def test_a_whole_adapter_has_no_finding(whole: Path) -> None:
    adapters.check(adapters.read("whole", whole), models.find("tiny"))


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

    adapters.check(adapters.read("b", snapshot), models.find("tiny"))


def test_a_header_that_lies_about_its_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")

    with pytest.raises(KitError, match="weights-unreadable"):
        adapters.tensor_shapes(path)
