"""The header of a safetensors file: what the library reads is read alike, and what is not whole is refused."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from kit import models
from kit.models import headers

VALUES = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones((5, 4), np.float16), "none": np.zeros((0, 3))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(VALUES, tmp_path / "x.safetensors", metadata={"format": "pt"})
    return tmp_path / "x.safetensors"


def write(path: Path, table: object, data: bytes = b"") -> Path:
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_tensors_lie_where_it_says(path: Path) -> None:
    found = headers.headers(path)
    assert list(found) == sorted(VALUES)
    content = path.read_bytes()
    for name, value in VALUES.items():
        tensor = found[name]
        assert (tensor.shape, tensor.nbytes, tensor.file) == (value.shape, value.nbytes, path)
        assert content[tensor.start_bytes : tensor.start_bytes + tensor.nbytes] == value.tobytes()


def test_a_model_is_read_as_the_library_reads_it() -> None:
    path = models.TINY / "model.safetensors"
    found = headers.headers(path)
    with safe_open(path, framework="np") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        assert {name: (one.dtype, list(one.shape)) for name, one in found.items()} == {
            name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()
        }


def test_a_file_without_tensors_is_whole(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x")
    assert headers.headers(tmp_path / "x") == {}


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(headers.Unreadable):
        headers.headers(path)


def test_bytes_behind_the_last_tensor_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(headers.Unreadable, match="bytes, and its header tells of"):
        headers.headers(path)


def one(**fields: object) -> dict:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"{" + b" " * 20, "no JSON"),
        (b"\xff" * 20, "no JSON"),
        (b"[" * 100_000, "no JSON"),
        ([], "no table"),
        ({"w": 1}, "broken at w"),
        ({"w": {}}, "broken at w"),
        (one(dtype=7), "broken at w"),
        (one(shape=2), "broken at w"),
        (one(shape=[-2]), "broken at w"),
        (one(shape=[2.0]), "broken at w"),
        (one(shape=[True, 2]), "broken at w"),
        (one(data_offsets=[0]), "broken at w"),
        (one(data_offsets=[0, 4]), "another size"),
        (one(dtype="F4", data_offsets=[8, 0]), "another size"),
        (one(shape=[3]), "another size"),
        (one(data_offsets=[8, 16]), "does not begin where"),
        (one() | {"v": one()["w"]}, "does not begin where"),
        (one() | {"v": one(data_offsets=[12, 20])["w"]}, "does not begin where"),
        (one(shape=[1 << 60], data_offsets=[0, 1 << 62]), "tells of"),
        (one(shape=[1 << 70], data_offsets=[0, 1 << 72]), "broken at w"),
        (b'{"w": ' + b"9" * 5000 + b"}", "no JSON"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, table: object, said: str) -> None:
    with pytest.raises(headers.Unreadable, match=said):
        headers.headers(write(tmp_path / "x", table, bytes(8)))


def test_a_header_that_lies_about_its_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(headers.Unreadable, match="cut short"):
        headers.headers(path)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["absent", "folder"])
def test_what_cannot_be_opened_is_refused(tmp_path: Path, make) -> None:
    make(tmp_path / "x")
    with pytest.raises(headers.Unreadable, match=r"cannot be opened|cut short"):
        headers.headers(tmp_path / "x")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_are_read_or_refused(path: Path, changes: list[tuple[int, int]]) -> None:
    save_file(VALUES, path)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        found = headers.headers(path)
    except headers.Unreadable:
        return
    assert all(tensor.start_bytes + tensor.nbytes <= len(content) for tensor in found.values())
