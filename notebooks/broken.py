"""What the notebooks break on purpose: saved machines in every state on the way to a healthy one. Standard library."""

import json
from pathlib import Path
from typing import Any

from envcheck import rules
from envcheck.facts import Facts

MACHINES = Path(__file__).parents[1] / "tests" / "envcheck" / "machines"
CASES = MACHINES.with_name("casebook.jsonl")


def machine(name: str) -> Facts:
    """A saved machine of the tests."""
    return Facts.from_json((MACHINES / f"{name}.json").read_bytes())


def recorded_failures() -> list[dict[str, Any]]:
    """The casebook's failures that have an error text: what was said, and which causes are right."""
    cases = map(json.loads, CASES.read_text(encoding="utf-8").splitlines())
    return [case for case in cases if case["kind"] == "fault" and case["error"]]


def causes_of(case: dict[str, Any]) -> set[str]:
    """The ids that are right for its text."""
    return {case["cause_id"], *case["also_accept"], *case["also_accept_log"]}


def error_text(name: str) -> str:
    """What the failure of that name said when it was reported."""
    return next(case["error"] for case in recorded_failures() if case["id"] == name)


def caught(cause_id: str, now: Facts, mended: Facts) -> bool:
    """The cause is named first and with a command, and is gone from the machine on which it was mended."""
    first = rules.judge(now)[0]
    return first.id == cause_id and bool(first.fix) and cause_id not in [item.id for item in rules.judge(mended)]


def with_packages(facts: Facts, **versions: str | None) -> Facts:
    """The machine with these packages in these versions; None: not installed. torch brings its CUDA along."""
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return facts.with_changes(packages={**facts.packages, **named})


def way_of_an_rtx_5080() -> dict[str, Facts]:
    """From the first failure to a machine that trains, in five states.

    First and last are saved machines; those between have the packages of August 2025, each with one thing mended.
    """
    first = machine("rtx5080-windows-old-torch").with_changes(env={})
    healthy = machine("rtx5080-windows").with_changes(env={})
    now = {"torch_cuda": "12.8", "torch_arch_list": healthy.torch_arch_list}
    torch_2_8 = with_packages(
        first.with_changes(**now), torch="2.8.0+cu128", torchvision="0.22.1+cu128", torchaudio="2.7.1+cu128",
        triton_windows="3.4.0.post20", unsloth="2025.8.7", unsloth_zoo="2025.8.6", xformers="0.0.32.post2",
        transformers="4.55.2", trl="0.21.0", peft="0.17.0", accelerate="1.10.0", bitsandbytes="0.47.0",
        datasets="3.6.0", huggingface_hub="0.34.4", tokenizers="0.21.4",
    )  # fmt: skip
    paired = with_packages(torch_2_8, torchvision="0.23.0+cu128", torchaudio="2.8.0+cu128")
    debugging: dict[str, Any] = {"CUDA_LAUNCH_BLOCKING": "1", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    plain = with_packages(paired, xformers=None)
    return {
        "torch without code for the card": first,
        "torchvision, torchaudio of another torch": torch_2_8,
        "xformers takes Hopper's kernels": paired,
        "debug variables left on": plain.with_changes(env=debugging),
        "healthy: the kit's own set": healthy,
    }
