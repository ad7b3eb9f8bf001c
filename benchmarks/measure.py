"""Run a command and account for it: wall seconds, exit status, peak memory of the largest process."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from envcheck import probe
from envcheck.facts import Facts
from kit.run.recording import versions
from kit.support.environment import CONSTANT

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
UTF8 = {"encoding": "utf-8", "errors": "replace"}


@dataclass(frozen=True)
class Done:
    """A finished command; peak_bytes is the resident memory of its process (0 where the system does not tell)."""

    status: int
    wall_s: float
    peak_bytes: int
    stdout: str
    stderr: str


# For a peer: without what importing the kit has set here for the libraries.
AS_INSTALLED: dict[str, str | None] = {variable.name: None for variable in CONSTANT if not variable.is_forced}


def run(*arguments: object, env: Mapping[str, str | None] | None = None) -> Done:
    """`python ARGUMENTS` from the repository root; env is added to the environment, None takes a variable out."""
    whole = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
    with TemporaryFile("w+", **UTF8) as out, TemporaryFile("w+", **UTF8) as err:
        start_s = time.perf_counter()
        child = subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, stdout=out, stderr=err, env=whole)
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        else:
            child.wait()
            peak_bytes = 0
        wall_s = time.perf_counter() - start_s
        out.seek(0)
        err.seek(0)
        return Done(child.returncode, round(wall_s, 3), peak_bytes, out.read(), err.read())


def draw_weights(folder: Path) -> None:
    """Random weights in bf16 for the model whose config.json is there; equal in every call."""
    code = (
        "import sys, torch; from transformers import AutoConfig, AutoModelForCausalLM; torch.manual_seed(0);"
        "config = AutoConfig.from_pretrained(sys.argv[1]);"
        "AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(sys.argv[1])"
    )
    must(run("-c", code, folder))


def must(done: Done) -> Done:
    """The same, or an end with what the command said."""
    if done.status:
        raise SystemExit(f"status {done.status}\n{done.stdout}\n{done.stderr}")
    return done


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": round(statistics.median(values), 3), "max": max(values), "runs": len(values)}


def write(name: str, figures: dict[str, Any]) -> None:
    """results/NAME.json: the figures with the machine and the versions they were measured on."""
    today = datetime.now(UTC).date().isoformat()
    record = {"measured": today, "machine": machine(probe.collect()), "versions": versions(), **figures}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8", newline="\n"
    )
    print(json.dumps(figures, indent=1, ensure_ascii=False))


def machine(facts: Facts) -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cores": facts.cpu_count,
        "ram_gib": facts.ram_gib,
        "gpu": [card.name for card in facts.gpu or ()],
        **({"driver": facts.driver} if facts.driver else {}),
        "system": platform.system(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
