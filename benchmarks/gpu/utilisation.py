"""The driver's own tool beside a job: is the card busy, at which clock, with which power?

`utilization.gpu` of nvidia-smi is the share of the last sampling period (a sixth to one second) in which at least one
kernel ran: it tells a card that waits from one that works, not how well it works.
"""

import shutil
import statistics
import subprocess
import threading
import time
from typing import NamedTuple

QUERY = ("utilization.gpu", "clocks.sm", "power.draw", "memory.used")
EVERY_MS = 250


class Reading(NamedTuple):
    """One line of nvidia-smi, None for what it cannot tell. at_s: Unix time."""

    at_s: float
    busy_pct: float | None
    clock_mhz: float | None
    power_w: float | None
    used_mib: float | None


def parse(line: str, at_s: float) -> Reading | None:
    values = [_number(value) for value in line.split(",")]
    return Reading(at_s, *values) if len(values) == len(QUERY) and any(v is not None for v in values) else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # [N/A], [Not Supported]
        return None


def summary(samples: list[Reading], start_s: float, end_s: float) -> dict[str, float]:
    """Mean share of time the card was busy, median clock, mean power and most memory between these times; {} where
    nothing was read there."""
    inside = [sample for sample in samples if start_s <= sample.at_s <= end_s]
    ways = {"busy_pct": statistics.fmean, "clock_mhz": statistics.median, "power_w": statistics.fmean, "used_mib": max}
    read = {name: [value for one in inside if (value := getattr(one, name)) is not None] for name in ways}
    return {name: round(ways[name](values), 1) for name, values in read.items() if values}


class Watcher:
    """Samples one card while it is open; `samples` is what was read so far, nothing where there is no nvidia-smi."""

    def __init__(self, index: int | None):
        self.samples: list[Reading] = []
        self.child: subprocess.Popen[str] | None = None
        self.index = index

    def __enter__(self) -> "Watcher":
        program = shutil.which("nvidia-smi")
        if program is None or self.index is None:
            return self
        command = [program, f"--id={self.index}", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits",
                   f"--loop-ms={EVERY_MS}"]  # fmt: skip
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")
        threading.Thread(target=self._read, args=(self.child,), daemon=True).start()
        return self

    def _read(self, child: "subprocess.Popen[str]") -> None:
        for line in child.stdout or ():
            if sample := parse(line, time.time()):
                self.samples.append(sample)

    def __exit__(self, *_: object) -> None:
        if self.child:
            self.child.kill()
            self.child.wait()
