"""What goes wrong in a run, provoked from a notebook: one fault at a time, taken out again afterwards."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks import inject
from kit import backend
from kit.options import resolve
from kit.prompt import IGNORED, ChatFormat
from kit.run.prepared import Prepared
from kit.run.reading import read
from kit.run.record import Result
from kit.support import console
from kit.support.progress import OnProgress
from kit.train import train

PLAN = ("-m", "kit.train", "--plan", "--preset", "cpu", "--data", "examples/identity.jsonl", "--model")


def silent() -> AbstractContextManager[OnProgress]:
    """For kit.train.train: no bar; what happened is in the run folder."""
    return nullcontext(lambda *_: None)


def quietly(prepared: Prepared) -> Result:
    """kit.train's run without a word."""
    with console.saying_to(console.QUIET):
        return train(prepared, silent)


@contextmanager
def provoked(name: str) -> Iterator[None]:
    """That fault of benchmarks.inject in the trainers that are made inside."""
    plain = backend.trainer
    inject.FAULTS[name]()
    try:
        yield
    finally:
        backend.trainer = plain


def killed(prepared: Prepared) -> int:
    """Begin the run in a process of its own that is killed with its third step; the exit status of that."""
    options = prepared.output.with_suffix(".toml")
    options.parent.mkdir(parents=True, exist_ok=True)
    options.write_text(resolve.to_toml(prepared.command.run, {}), encoding="utf-8", newline="\n")
    command = [sys.executable, "-m", "benchmarks.inject", "kill", "--config", str(options), "--fresh"]
    return subprocess.run(command, capture_output=True, check=False).returncode


def losses(prepared: Prepared) -> dict[int, float]:
    """Step -> its training loss, as the run folder has it."""
    return {line["step"]: line["loss"] for line in read(prepared.output).steps}


def step_seconds(prepared: Prepared, since_step: int = 2) -> float:
    """Seconds of the fastest step after that one: what the machine can do, whatever else it did meanwhile."""
    ends = {line["step"]: line["elapsed_s"] for line in read(prepared.output).steps}
    return min(ends[step] - ends[step - 1] for step in ends if step > since_step)


def times_as_long(plain_s: Sequence[float], other_s: Sequence[float]) -> str:
    """The others' seconds over the plain ones' in words, and whether repeats of the same differ by as much."""
    ratio = min(other_s) / min(plain_s)
    apart = max(max(repeats) / min(repeats) for repeats in (plain_s, other_s))
    said = f"a step takes {ratio:.2f} times as long"
    if max(ratio, 1 / ratio) > apart:
        return f"{said} (repeats differ by {apart:.2f})"
    return f"{said}, which says nothing: repeats of the same differ by {apart:.2f}, as the machine does other work too"


def events(prepared: Prepared, *kinds: str) -> list[dict]:
    """What happened, of these kinds."""
    return [event for event in read(prepared.output).events if event["kind"] in kinds]


def mask_behind(chat: ChatFormat, ids: Sequence[int], marker: str) -> list[int]:
    """Labels as many scripts make them: what stands between each marker and the next end token, that included."""
    begin = chat.tokenizer.encode(marker, add_special_tokens=False).ids
    end = chat.tokenizer.token_to_id(chat.end_token)
    labels, inside = [IGNORED] * len(ids), False
    for place, token in enumerate(ids):
        inside = inside or list(ids[max(0, place - len(begin)) : place]) == begin
        if inside:
            labels[place] = token
            inside = token != end
    return labels


class _NoSuchModel(BaseHTTPRequestHandler):
    """Answers as the hub does for a name that it does not have."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing: the notebook shows what the kit says."""


def asked_of_the_hub(name: str) -> str:
    """What kit.train --plan says of a model whose name gets the hub's 401; from a hub in this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NoSuchModel)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        return _said(name, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HUB_OFFLINE="0")
    finally:
        server.shutdown()


def asked_offline(name: str) -> str:
    """The same without any hub."""
    return _said(name, HF_HUB_OFFLINE="1")


def _said(name: str, **env: str) -> str:
    command = [sys.executable, "-W", "ignore", *PLAN, name]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=os.environ | env)
    return done.stderr.strip()
