"""Programs of the kit in processes of their own, as a user starts them: one way for all tests.

Importing torch, TRL and Unsloth takes seven seconds, a short training one. So a test that is not about the start of a
process names the `libraries` that it needs, and its process is a fork of one that has imported them (`warm.py`): its
memory, its environment and its exit status are its own all the same. On a machine without fork it is started afresh.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.no_torch import sitecustomize

ROOT = Path(__file__).parents[2]
LONGEST_S = 600
NO_TORCH = {sitecustomize.LOG: os.devnull}  # an environment in which importing torch and its like is an error
Done = subprocess.CompletedProcess[str]


def run_kit(module: str, *arguments: object, **how) -> Done:
    """`python -m MODULE ARGUMENTS` from the root of the repository; `how` as of `run_python`."""
    return run_python("-m", module, *arguments, **how)


def run_python(
    *arguments: object, libraries: str = "", env: Mapping[str, str] | None = None, input: str = "", cwd: Path = ROOT
) -> Done:
    """`python ARGUMENTS`; `env` is added to the environment. libraries: "unsloth", "hf", "card" (Unsloth, on
    the paper card of `env`) or "" for a fresh process."""
    texts, whole = [str(argument) for argument in arguments], {**os.environ, **(env or {})}
    if libraries and hasattr(os, "fork") and sitecustomize.LOG not in whole:
        return _warm(libraries, whole).run(texts, whole, input)
    return subprocess.run(
        [sys.executable, *texts],
        cwd=cwd,
        env=whole,
        input=input,
        capture_output=True,
        encoding="utf-8",
        timeout=LONGEST_S,
    )


class Warm:
    """A process that has imported the libraries in that environment, and runs one program at a time in a fork of it."""

    def __init__(self, libraries: str, env: Mapping[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "warm.py"), libraries], cwd=ROOT, env=env,
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run(self, arguments: list[str], env: dict[str, str], input: str) -> Done:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
            for file, text in zip(files, (input, "", ""), strict=True):
                file.write_text(text, encoding="utf-8")
            request = {"arguments": arguments, "env": env, "files": list(map(str, files))}
            print(json.dumps(request), file=self.process.stdin, flush=True)
            status = self._answer(arguments)
            output, errors = (file.read_text(encoding="utf-8") for file in files[1:])
            return Done([sys.executable, *arguments], status, output, errors)

    def _answer(self, arguments: list[str]) -> int:
        if not select.select([self.process.stdout], [], [], LONGEST_S)[0]:
            os.killpg(self.process.pid, signal.SIGKILL)  # it and what it runs
            raise subprocess.TimeoutExpired(arguments, LONGEST_S)
        return int(self.process.stdout.readline())


_WARM: dict[str, Warm] = {}


def _warm(libraries: str, env: Mapping[str, str]) -> Warm:
    """In the environment of the first program that asks for it."""
    if libraries not in _WARM or _WARM[libraries].process.poll() is not None:
        _WARM[libraries] = Warm(libraries, env)
    return _WARM[libraries]


def end_all() -> None:
    """At the end of the tests."""
    for warm in _WARM.values():
        warm.process.communicate()  # at the end of its input it ends
    _WARM.clear()
