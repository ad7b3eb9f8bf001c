"""What the tests of kit share: the front door as a user calls it, and the real Qwen3 tokenizer."""

import json
import lzma
import os
import shutil
from pathlib import Path

import pytest

from kit import models, prompt
from tests.support.processes import Done, run_kit

QWEN3 = Path(__file__).parents[1] / "data" / "qwen3"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Encoded data of the tests goes nowhere near the user's; child processes too."""
    os.environ["KIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["KIT_CACHE"]


@pytest.fixture(scope="session")
def kit_train():
    """`python -m kit.train ...` with the default backend's libraries there already; in another environment afresh."""

    def run(*arguments: object, env: dict[str, str] | None = None, libraries: str = "unsloth") -> Done:
        return run_kit("kit.train", *arguments, env=env, libraries="" if env else libraries)

    return run


@pytest.fixture(scope="session")
def qwen3_folder(tmp_path_factory) -> Path:
    """The real Qwen3 tokenizer beside Qwen3-0.6B's config; no weights."""
    folder = tmp_path_factory.mktemp("qwen3")
    (folder / "tokenizer.json").write_bytes(lzma.decompress((QWEN3 / "tokenizer.json.xz").read_bytes()))
    shutil.copy(QWEN3 / "tokenizer_config.json", folder)
    shutil.copy(QWEN3 / "Qwen3-0.6B.config.json", folder / "config.json")
    return folder


@pytest.fixture(scope="session")
def qwen3_chat(qwen3_folder: Path) -> prompt.ChatFormat:
    files = {path.name: path for path in qwen3_folder.iterdir()}
    config = json.loads(files["config.json"].read_text())
    return prompt.load(models.Model("qwen3", str(qwen3_folder), config, files), "auto")


@pytest.fixture
def tiny_chat() -> prompt.ChatFormat:
    return prompt.load(models.find("tiny"), "auto")


@pytest.fixture
def write_rows(tmp_path: Path):
    """Rows -> a .jsonl file."""

    def write(rows: list, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
