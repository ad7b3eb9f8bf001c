"""Models asked in a notebook: loaded once and asked by name, how fast they answer, and a server to be asked."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from envcheck.facts import Finding
from kit.chat.serve import check_server
from kit.chat.talk import Talk
from kit.support import servers
from kit.support.errors import KitError, problem

READY_S = 300.0  # a server loads its model first


def speeds(talks: Mapping[str, tuple[Talk, str]], questions: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """Tokens a second over all questions, once for each repeat, of each (model, name in it).

    Everyone is asked in turn, so that what else the machine does falls on all; a first round is not counted.
    """
    found: dict[str, list[float]] = {label: [] for label in talks}
    for number in range(repeats + 1):
        for label, (talk, name) in talks.items():
            answers = [talk.ask(question, name) for question in questions]
            seconds = sum(answer.tokens / answer.tokens_per_s for answer in answers)
            if number:
                found[label].append(sum(answer.tokens for answer in answers) / seconds)
    return found


@contextmanager
def serving(*arguments: str | Path) -> Iterator[str]:
    """Inside, `python -m kit.chat ARGUMENTS --serve` runs on a free port of this machine: yields the API's address.

    Raises KitError: packages missing, or it has not started.
    """
    port = servers.free_port()
    check_server(port)
    command = [sys.executable, "-m", "kit.chat", *map(str, arguments), "--serve", "--port", str(port)]
    address = f"http://127.0.0.1:{port}/v1"
    try:
        with servers.running(command, f"{address}/models", READY_S):
            yield address
    except servers.NotStarted as error:
        raise KitError(_not_started(error)) from None


def _not_started(error: servers.NotStarted) -> Finding:
    ended = f"ended with status {error.status}" if error.status is not None else f"said nothing for {READY_S} s"
    return problem(
        "server-not-started",
        f"The server {ended}.",
        " ".join(error.lines[-8:] or ["It said nothing."]),
        "python -m kit.chat RUN --serve        (in a terminal, where all that it says is seen)",
    )
