"""Imports point one way: a file imports only from the rows above its own. Heavy libraries stay in one file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KIT_LAYERS = (
    ("errors", "files", "options", "progress", "servers", "tensors"),
    ("config", "models", "trackers"),
    ("rows", "prompt", "adapters"),
    ("data",),
    ("memory",),
    ("backend", "record", "checkpoints"),
    ("folder",),
    ("report",),
    ("watch", "screen"),
    ("export", "runner", "chat"),
    ("train", "chat.__main__", "merge", "data.__main__", "report.__main__"),
    ("sweep", "sweep.__main__"),
    ("notebook", "lora_from_scratch"),
)
FOLDERS = ("rows", "prompt", "adapters", "data", "memory", "backend", "report", "export", "chat", "sweep", "notebook")
LONGEST_FILE_LINES = 400
HEAVY = {"unsloth", "torch", "trl", "transformers", "peft", "bitsandbytes", "datasets", "accelerate"}
TEACHING = "lora_from_scratch"  # the teaching module: it imports torch at its top, and nothing of the kit imports it


def imports(path: Path) -> set[tuple[str, bool]]:
    """(module, at the top of the file) for each import of a file."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in top) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add((node.module, id(node) in top))
            found |= {(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names}
    return found


def level(module: str) -> int:
    return next(number for number, names in enumerate(KIT_LAYERS) if module in names)


def name_of(path: Path) -> str:
    """The file's name in KIT_LAYERS; files of a folder go by the folder's, but for its command."""
    if path.parent.name not in FOLDERS:
        return path.stem
    return f"{path.parent.name}.__main__" if path.stem == "__main__" else path.parent.name


def wrong_imports(path: Path) -> list[str]:
    """Imports of kit that point at the file's own layer or a later one."""
    mine = level(name_of(path))
    others = {name.split(".")[1] for name, _ in imports(path) if name.startswith("kit.")} - {
        path.parent.name,
        path.stem,
    }
    known = {name for names in KIT_LAYERS for name in names}
    return sorted(other for other in others & known if level(other) >= mine)


KIT_FILES = sorted(path for path in (ROOT / "kit").rglob("*.py") if path != ROOT / "kit" / "__init__.py")


@pytest.mark.parametrize("path", KIT_FILES, ids=lambda path: f"{name_of(path)}.{path.stem}")
def test_kit_imports_point_one_way(path: Path) -> None:
    assert wrong_imports(path) == []


def test_every_file_of_kit_has_a_layer() -> None:
    assert {name_of(path) for path in KIT_FILES} == {name for names in KIT_LAYERS for name in names}


def test_a_wrong_import_is_seen(tmp_path: Path) -> None:
    bad = tmp_path / "config.py"
    bad.write_text("def late():\n    from kit import train\n")
    assert wrong_imports(bad) == ["train"]


@pytest.mark.parametrize(
    "path",
    [path for path in KIT_FILES if path.stem != TEACHING],
    ids=lambda path: f"{name_of(path)}.{path.stem}",
)
def test_heavy_libraries_are_imported_in_backend_only_and_late(path: Path) -> None:
    heavy = {(name, top) for name, top in imports(path) if name.split(".")[0] in HEAVY}
    allowed = {"backend": HEAVY, "hub": {"datasets"}}.get("hub" if path.stem == "hub" else name_of(path), set())
    assert {name.split(".")[0] for name, _ in heavy} <= allowed
    assert not any(top for _, top in heavy), "the first import decides who patches whom: import inside a function"


def test_nothing_of_the_kit_imports_the_teaching_module() -> None:
    assert [path for path in KIT_FILES if f"kit.{TEACHING}" in {name for name, _ in imports(path)}] == []


def test_envcheck_never_imports_kit() -> None:
    for path in (ROOT / "envcheck").rglob("*.py"):
        assert not any(name.split(".")[0] == "kit" for name, _ in imports(path)), path


def test_every_file_can_be_read_in_one_sitting() -> None:
    files = [*(ROOT / "kit").rglob("*.py"), *(ROOT / "envcheck").rglob("*.py")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path.name: count for path, count in lines.items() if count > LONGEST_FILE_LINES} == {}
