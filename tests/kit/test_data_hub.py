"""Data sets by hub name, against a hub of our own on this machine that answers as the real one does."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.processes import run_python

ROOT = Path(__file__).parents[2]
COMMIT = "0" * 40
CARD = b"""---
configs:
- {config_name: sums, data_files: [{split: train, path: sums.jsonl}, {split: test, path: test.jsonl}]}
- {config_name: words, data_files: [{split: train, path: words.jsonl}]}
---
"""
SUMS = [{"question": f"How much is {a}+{a}?", "answer": str(2 * a)} for a in range(3)]


def json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


REPOS = {
    "someone/sums": {"train.jsonl": json_lines(SUMS)},
    "someone/both": {
        "README.md": CARD,
        "sums.jsonl": json_lines(SUMS),
        "test.jsonl": json_lines(SUMS[:1]),
        "words.jsonl": json_lines([{"text": "word"}]),
    },
    "someone/broken": {"train.jsonl": b'{"a": 1}\n{"a": ' * 2},
    "someone/script": {"script.py": b"raise SystemExit('a script was run')"},
    "someone/gated": {"train.jsonl": json_lines(SUMS)},
}
# Run in a process of its own: Hugging Face's libraries read their settings when they are imported.
FIND = """
import sys, json
import kit, datasets.config  # kit first: it turns off what phones home
datasets.config.S3_DATASETS_BUCKET_PREFIX = datasets.config.HF_ENDPOINT + "/counted"
from kit.data.rows import sources
from kit.support.errors import KitError
try:
    found = sources.find_files(sys.argv[1:])
    print(json.dumps([[file.name, file.kind, [raw.value for raw in sources.read_rows(file)]] for file in found]))
except KitError as error:
    print(json.dumps([finding.to_json() for finding in error.findings]))
assert "torch" not in sys.modules
"""


class Hub(BaseHTTPRequestHandler):
    """The data sets of REPOS; other names are answered with 401, as the hub does."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        Hub.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        repo = next((name for name in REPOS if f"/datasets/{name}" in self.path), None)
        if repo is None:
            return self.reply(401, b"", "RepoNotFound")
        place = self.path.partition("?")[0].partition(f"/datasets/{repo}")[2]
        if repo == "someone/gated" and (place == "/auth-check" or place.startswith("/resolve")):
            return self.reply(403, b"", "GatedRepo")
        files = REPOS[repo]
        if place in ("", "/revision/main", f"/revision/{COMMIT}"):
            return self.reply_json({
                "id": repo, "sha": COMMIT, "gated": "auto" if repo == "someone/gated" else False,
                "siblings": [{"rfilename": name} for name in files],
            })  # fmt: skip
        if place.startswith("/tree/"):
            return self.reply_json([entry(name, files[name]) for name in files])
        if place.startswith("/paths-info/"):
            wanted = json.loads(body)["paths"]
            return self.reply_json([entry(name, files[name]) for name in files if name in wanted])
        name = place.rpartition("/")[2]
        if place.startswith("/resolve/") and name in files:
            return self.reply(200, files[name])
        return self.reply(404, b"", "EntryNotFound")

    do_HEAD = do_POST = do_GET

    def reply_json(self, content: object) -> None:
        self.reply(200, json.dumps(content).encode())

    def reply(self, status: int, body: bytes, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def entry(name: str, content: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The environment in which Hugging Face's libraries talk to our hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tmp_path_factory.mktemp("hub")
    yield {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    server.shutdown()


def find(hub: dict, *names: str) -> list:
    done = run_python("-c", FIND, *names, env={"HF_TOKEN": "hf_secret", **hub})
    assert done.returncode == 0, done.stderr
    assert "hf_secret" not in done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.torch
def test_a_data_set_is_fetched_once_and_then_needs_no_hub(hub) -> None:
    Hub.asked.clear()
    names = ("someone/sums", "someone/both:sums:test")
    found = find(hub, *names)
    assert found == [[names[0], "arrow", SUMS], [names[1], "arrow", SUMS[:1]]]
    assert [path for path in Hub.asked if "/datasets/someone/" not in path] == [], "nothing phones home"
    Hub.asked.clear()
    assert find({**hub, "HF_HUB_OFFLINE": "1"}, *names) == found
    assert Hub.asked == []
    (problem,) = find({**hub, "HF_HUB_OFFLINE": "1"}, "someone/both:words:train")
    assert problem["id"] == "data-hub-offline"


@pytest.mark.torch
def test_problems_are_told_with_what_there_is(hub) -> None:
    names = ("someone/sums:test", "someone/both:sums:tset", "someone/both:letters:train", "someone/both")
    problems = find(hub, *names)
    assert [item["id"] for item in problems] == ["data-hub-split"] * 4
    assert problems[0]["fix"] == ["--data someone/sums:train"]
    assert "Did you mean test?" in problems[1]["what"]
    assert problems[1]["fix"] == ["--data someone/both:sums:train", "--data someone/both:sums:test"]
    assert problems[2]["fix"] == ["--data someone/both:sums:train", "--data someone/both:words:train"]
    assert problems[3]["what"] == "someone/both has several configurations, and none is the default."


@pytest.mark.torch
def test_what_cannot_be_had_is_told_with_the_reason(hub) -> None:
    names = ("someone/nothing", "someone/gated", "someone/broken", "someone/script", "some--one/x")
    problems = find(hub, *names)
    assert [item["id"] for item in problems] == [
        "data-hub-missing", "data-hub-gated", "data-hub-unreadable", "data-hub-unreadable", "data-hub-missing",
    ]  # fmt: skip
    assert "hf auth login" in problems[1]["fix"]


@pytest.mark.torch
@pytest.mark.parametrize("change", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_a_hub_the_way_around_it_is_told(hub, change: dict) -> None:
    (problem,) = find({**hub, **change}, "someone/never-fetched")
    assert problem["id"] == "data-hub-offline"
    assert "hf download someone/never-fetched --repo-type dataset" in " ".join(problem["fix"])
