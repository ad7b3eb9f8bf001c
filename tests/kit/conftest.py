"""What the tests of kit share: the front door as a user calls it, and the real Qwen3 tokenizer."""

import json
import lzma
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit import models, prompt

ROOT = Path(__file__).parents[2]
QWEN3 = ROOT / "tests" / "data" / "qwen3"


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'transformers', 'unsloth', 'trl', 'peft', 'bitsandbytes', 'datasets'):
            raise ImportError(f'{name} is imported')
sys.meta_path.insert(0, Blocker())
import importlib
sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
"""


@pytest.fixture(scope="session")
def without_heavy_libraries():
    """Run a module's main in a process where importing torch and its like is an error."""

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", BLOCKER, module, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Encoded data of the tests goes nowhere near the user's; child processes too."""
    os.environ["KIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["KIT_CACHE"]


@pytest.fixture(scope="session")
def kit_train():
    """Run `python -m kit.train ...` in a process of its own, from the repository root."""

    def run(*arguments: object, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "kit.train", *map(str, arguments)]
        return subprocess.run(
            command, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=600, **options
        )

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
