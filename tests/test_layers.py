"""Imports point one way: a room imports only from rooms above its own row. Heavy libraries stay in one room."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = (
    ("support",),
    ("options",),
    ("models",),
    ("prompt",),
    ("data",),
    ("memory",),
    ("backend",),
    ("run",),
    ("report", "chat", "export"),
    ("train", "merge"),
    ("sweep",),
    ("notebook",),
)
PUBLIC = {"__init__", "__main__", "py.typed"}  # the names that a package has; they stand above all rooms
MOST_THINGS = 16
LONGEST_FILE_LINES = 400
LONGEST_PAGE_LINES = 200
HEAVY = {"unsloth", "torch", "trl", "transformers", "peft", "bitsandbytes", "datasets", "accelerate"}
KIT_FILES = sorted((ROOT / "kit").rglob("*.py"))


def imports(path: Path, root: Path = ROOT) -> set[tuple[str, bool]]:
    """(module, at the top of the file) for each import of a file, names of a module among them."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in top) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add((node.module, id(node) in top))
            found |= {(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names}
    return found


def room_of(path: Path, root: Path = ROOT) -> str:
    """What stands directly in kit/ and holds the file."""
    return path.relative_to(root / "kit").parts[0].removesuffix(".py")


def row_of(room: str) -> int:
    return next(number for number, rooms in enumerate(ROWS) if room in rooms)


def wrong_imports(path: Path, root: Path = ROOT) -> list[str]:
    """Rooms that the file imports from and that stand in its own row or a later one."""
    own = room_of(path, root)
    rooms = {room for row in ROWS for room in row}
    others = {name.split(".")[1] for name, _ in imports(path) if name.startswith("kit.")} & rooms - {own}
    return sorted(other for other in others if row_of(other) >= row_of(own))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in KIT_FILES}


def arrows() -> dict[str, set[str]]:
    """Module of the kit -> modules that it imports at its top; a package's `__init__` is its door plate, and imports of
    the package that a file is in are those of the files behind it."""
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        names = {name for name, top in imports(path) if top}
        found[module] = {name for name in names & MODULES.keys() if not module.startswith(f"{name}.")} - {module}
    return found


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, [] where none do."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return way[way.index(module) :]
        if module in done:
            return []
        for other in sorted(arrows.get(module, ())):
            if there := walk(other, [*way, module]):
                return there
        done.add(module)
        return []

    return next((there for module in sorted(arrows) if (there := walk(module, []))), [])


def is_in_a_room(path: Path) -> bool:
    return room_of(path) not in PUBLIC


@pytest.mark.parametrize("path", list(filter(is_in_a_room, KIT_FILES)), ids=module_of)
def test_imports_point_one_way(path: Path) -> None:
    assert wrong_imports(path) == []


def test_every_room_has_a_row_and_every_row_a_room() -> None:
    assert {room_of(path) for path in KIT_FILES} - PUBLIC == {room for row in ROWS for room in row}


@pytest.mark.parametrize("room", [room for row in ROWS for room in row])
def test_the_head_of_each_room_says_what_it_imports(room: str) -> None:
    package = ROOT / "kit" / room / "__init__.py"
    head = package if package.is_file() else ROOT / "kit" / f"{room}.py"
    docstring = ast.get_docstring(ast.parse(head.read_text(encoding="utf-8"))) or ""
    named = re.search(r"^May import: (.*)\.$", docstring, re.MULTILINE)
    assert named, f"{head} does not say what it may import"
    files = [path for path in KIT_FILES if room_of(path) == room]
    used = {name.split(".")[1] for path in files for name, _ in imports(path) if name.startswith("kit.")} - {room}
    assert used == {name for name in named[1].split(", ") if name != "nothing of the kit"}


def test_few_things_stand_directly_in_kit() -> None:
    things = {path.name.removesuffix(".py") for path in (ROOT / "kit").iterdir() if path.name != "__pycache__"}
    assert len(things - {"__init__", "py.typed"}) <= MOST_THINGS


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("options/resolve.py", "def late():\n    from kit import train\n"),
        ("data/report.py", "from kit.report import page\n"),
        ("data/train.py", "import kit.train\n"),
        ("models/adapters/run.py", "from kit.run.folder import RunFolder\n"),
        ("train.py", "from kit.merge import write\n"),
    ],
)
def test_a_wrong_import_is_seen_whatever_the_files_own_name(tmp_path: Path, file: str, text: str) -> None:
    bad = tmp_path / "kit" / file
    bad.parent.mkdir(parents=True)
    bad.write_text(text)
    assert len(wrong_imports(bad, tmp_path)) == 1


def test_no_module_imports_itself_over_others() -> None:
    assert circle(arrows()) == []


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


@pytest.mark.parametrize("path", KIT_FILES, ids=module_of)
def test_heavy_libraries_are_imported_in_backend_only_and_late(path: Path) -> None:
    heavy = {(name.split(".")[0], top) for name, top in imports(path) if name.split(".")[0] in HEAVY}
    allowed = {"kit.backend": HEAVY, "kit.data.rows.hub": {"datasets"}}  # the latter fetches a data set from the hub
    module = module_of(path)
    assert {name for name, _ in heavy} <= allowed.get(module, allowed.get(module.rpartition(".")[0], set()))
    assert not any(top for _, top in heavy), "the first import decides who patches whom: import inside a function"


def test_envcheck_never_imports_kit() -> None:
    for path in (ROOT / "envcheck").rglob("*.py"):
        assert not any(name.split(".")[0] == "kit" for name, _ in imports(path)), path


def test_every_file_can_be_read_in_one_sitting() -> None:
    files = [*KIT_FILES, *(ROOT / "envcheck").rglob("*.py")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path.name: count for path, count in lines.items() if count > LONGEST_FILE_LINES} == {}
