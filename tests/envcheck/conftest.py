"""What the envcheck tests share: the project folder on the path, the saved machines, the casebook."""

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]


def read_lines(name: str) -> list:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines() if line.strip()]


@pytest.fixture(scope="session")
def cases() -> list:
    return read_lines("casebook.jsonl")


@pytest.fixture(scope="session")
def texts() -> list:
    return read_lines("texts.jsonl")


@pytest.fixture(scope="session")
def machines() -> dict:
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((HERE / "machines").glob("*.json"))
    }
