"""What keeps a server from starting is told before the model is loaded."""

import socket

import pytest

from kit.backend import serving
from kit.chat import serve
from kit.chat.__main__ import main


def test_a_missing_package_has_its_install_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr(serving, "NEEDED", ("fastapi_that_nobody_has", "json"))

    assert main(["tiny", "--serve"]) == 1

    told = capsys.readouterr().err
    assert "server-packages-missing" in told
    assert "fix: python -m pip install fastapi_that_nobody_has\n" in told


def test_a_taken_port_is_a_finding(monkeypatch, capsys) -> None:
    monkeypatch.setattr(serve, "missing_packages", list)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert main(["tiny", "--serve", "--port", str(port)]) == 1

    told = capsys.readouterr().err
    assert "port-taken" in told
    assert str(port) in told


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_port_that_is_none_is_wrong_usage(port: str) -> None:
    assert main(["tiny", "--serve", "--port", port]) == 2
