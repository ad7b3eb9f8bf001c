"""Models by hub name, against a hub of our own on this machine that answers as the real one does."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from kit import models

COMMIT = "0" * 40
FILES = {path.name: path.read_bytes() for path in models.TINY.iterdir()}

AWQ = json.dumps(json.loads(FILES["config.json"]) | {"quantization_config": {"quant_method": "awq"}}).encode()


class Hub(BaseHTTPRequestHandler):
    """`someone/tiny` is the embedded model, `someone/tiny-AWQ` says that it is quantised, `someone/pickled` has no
    safetensors; other names are answered with 401."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if "/tree/" in self.path:
            return self.reply(404, b"", "EntryNotFound")
        if self.path.startswith("/api/models/someone/"):
            names = list(FILES) if "/tiny" in self.path else ["config.json", "tokenizer.json", "pytorch_model.bin"]
            info = {"id": "someone/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self.reply(200, json.dumps(info).encode())
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/someone/tiny-AWQ/resolve/") and name == "config.json":
            return self.reply(200, AWQ)
        if self.path.startswith(("/someone/tiny/resolve/", "/someone/tiny-AWQ/resolve/")):
            return self.reply(200, FILES[name]) if name in FILES else self.reply(404, b"", "EntryNotFound")
        return self.reply(401, b"", "RepoNotFound")

    do_HEAD = do_GET

    def reply(self, status: int, body: bytes, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The environment in which Hugging Face's library talks to our hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tmp_path_factory.mktemp("hub")
    yield {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    server.shutdown()


def plan(kit_train, hub: dict, name: str):
    return kit_train("--preset", "cpu", "--model", name, "--data", "examples/identity.jsonl", "--plan", env=hub)


def test_the_plan_fetches_only_the_small_files(kit_train, hub) -> None:
    done = plan(kit_train, hub, "someone/tiny")
    assert done.returncode == 0, done.stderr
    assert "3,803,904 weights" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [("Qwen/Qwen3-1.7B-Instrukt", "model-not-on-hub"), ("someone/pickled", "no *.safetensors weights")],
)
def test_what_the_hub_refuses_is_a_finding(kit_train, hub, name: str, said: str) -> None:
    done = plan(kit_train, hub, name)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_quantised_otherwise_is_refused_before_its_weights_are_fetched(kit_train, hub) -> None:
    Hub.asked.clear()
    done = plan(kit_train, hub, "someone/tiny-AWQ")
    assert done.returncode == 1
    assert "are stored as AWQ" in done.stderr
    assert "--model someone/tiny " in done.stderr
    assert any(path.endswith("config.json") for path in Hub.asked)
    assert not any(path.endswith(".safetensors") for path in Hub.asked)


@pytest.mark.torch
def test_a_hub_model_is_trained_and_then_the_hub_is_not_asked(kit_train, hub, tmp_path) -> None:
    """A machine that has a model needs no network for it, also where HF_HUB_OFFLINE does not say so."""
    options = ("--preset", "cpu", "--model", "someone/tiny", "--data", "examples/identity.jsonl", "--max-steps", 2,
               "--sample-tokens", 4, "--json")  # fmt: skip
    losses = {}
    for name in ("unsloth", "again", "hf"):
        asked = () if name == "again" else ("--backend", name)
        done = kit_train(*options, *asked, "--output", tmp_path / name, env=hub)
        assert done.returncode == 0, done.stderr
        losses[name] = json.loads(done.stdout)["loss_after"]
        assert bool(Hub.asked) == (name == "unsloth")
        Hub.asked.clear()
    assert losses["again"] == losses["unsloth"]
    assert losses["hf"] == pytest.approx(losses["unsloth"], rel=1e-2)
