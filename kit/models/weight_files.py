"""Which files of a model folder hold its weights."""

from pathlib import Path

from kit.models.find import INDEX, SINGLE, read_json


def weight_files(folder: Path) -> list[Path]:
    """Those that are loaded: some publishers put the same weights beside them in a file of another name."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))]
    return sorted(folder.glob("*.safetensors"))
