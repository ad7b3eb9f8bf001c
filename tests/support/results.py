"""What a call or a program of the kit left, in a test's words."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from envcheck.facts import Finding
from kit.support.errors import KitError


def error_of(call: Callable, *arguments: object, **options: object) -> KitError:
    """That the call ends with."""
    with pytest.raises(KitError) as raised:
        call(*arguments, **options)
    return raised.value


def findings_of(call: Callable, *arguments: object, **options: object) -> list[Finding]:
    return list(error_of(call, *arguments, **options).findings)


def finding_of(call: Callable, *arguments: object, **options: object) -> Finding:
    """The only one."""
    (finding,) = findings_of(call, *arguments, **options)
    return finding


def record_of(done: subprocess.CompletedProcess[str]) -> dict:
    """The last line that a program printed, as JSON; its messages where it did not end well."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def losses_of(run: Path) -> list[tuple[int, float]]:
    """(step, loss) of each step in a run's folder."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]
