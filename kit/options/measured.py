"""What was measured of a preset on a card: results of `python -m benchmarks.gpu`, one file a card."""

import json
from pathlib import Path
from typing import Any

from kit.support.carried import carried_folder

NOT_MEASURED = "not measured on a card by this project"


def results_folder() -> Path:
    """In the repository where its other figures are; in an installed kit beside this file."""
    return carried_folder(Path(__file__).parent / "measured", "benchmarks/results")


def measured(memory_class: str, own_card: str | None = None, folder: Path | None = None) -> str:
    """In words: whether the preset of a memory class was measured, where, with what, and in which file.

    own_card: key of the card (resolve.card_key) whose file comes before those of others. folder: of the files.
    """
    found = [(path, data) for path in sorted((folder or results_folder()).glob("gpu_*.json")) if (data := _read(path))]
    found.sort(key=lambda pair: pair[0].stem != f"gpu_{own_card}")
    for path, data in found:
        of_class = [one for one in data["presets"].values() if one["preset"] == memory_class and "limit_gib" in one]
        if of_class:
            return _words(path, data, of_class)
    return NOT_MEASURED


def _read(path: Path) -> dict[str, Any] | None:
    """None for what is no result of a card."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return data if data["card"]["name"] and data["versions"] and data["presets"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _words(path: Path, data: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """The first run is of the preset's own model."""
    versions = ", ".join(f"{name} {data['versions'].get(name)}" for name in ("torch", "unsloth"))
    run = runs[0]
    plan = "the plan held" if run["status"] == "done" and not run["given_up"] else "the plan did not hold"
    return (
        f"measured on {data['card']['name']}, held to {run['limit_gib']:g} GiB ({versions}, {data['measured']}): "
        f"{run['tokens_per_s']:,.0f} tokens/s with the shape of Qwen3-{run['shape']}, {run['peak_gib']:.2f} GiB of "
        f"{run['low_gib']:.2f} to {run['high_gib']:.2f} planned, {plan} ({path.name})"
    )
