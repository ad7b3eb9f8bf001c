"""The pins against what the packages themselves ask for: three torch targets, Linux and Windows, Python 3.11 to 3.13.

A bound that the set does not meet stands in NOT_MET with its reason; one that the set does meet must not stand there.
"""

import re
import runpy
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
TARGETS = ("cpu", "cu128", "cu130")
EXTRAS = ("requirements-notebooks.txt", "requirements-dev.txt")
FILES = ("requirements.txt", *EXTRAS, *(f"requirements-{target}.txt" for target in TARGETS))
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "win32": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
}
PYTHONS = ("3.11", "3.12", "3.13")

# Nothing in the set asks for these: they are what the kit and its developers came for.
WANTED = {
    "unsloth",
    "matplotlib",
    "gguf",
    "optuna",
    "python-calamine",
    "threadpoolctl",
    "ruff",
    "pytest-xdist",
    "mypy",
    "hatchling",
    "types-pyyaml",
    "hypothesis",
    "openai",
    "fastapi",
    "uvicorn",
    "jupyterlab",
    "xllamacpp",
}

# On Linux torch brings its triton (and NVIDIA's libraries) itself, in the step before --no-deps.
TRITON = {"cu128": "3.6.0", "cu130": "3.8.0"}

# Bound -> (where: "" is everywhere, else "target platform"; why it is not met).
NOT_MET = {
    "unsloth: torchvision": ("", "for vision models only; unpinned it replaces the CPU torch by a CUDA build"),
    "unsloth: xformers>=0.0.27.post2": ("", "breaks RTX 50 cards; Unsloth falls back to torch's own attention"),
    "unsloth: diffusers": ("", "for image models only"),
    "unsloth: certifi>=2026.10.19": ("", "the package index has nothing newer than 2026.10.18"),
    "unsloth-zoo: certifi>=2026.10.19": ("", "the package index has nothing newer than 2026.10.18"),
    "unsloth: triton>=3.0.0": ("cpu linux", "compiles kernels for graphics cards only"),
    "unsloth-zoo: triton>=3.0.0": ("cpu linux", "compiles kernels for graphics cards only"),
    "cut-cross-entropy: triton": ("cpu linux", "compiles kernels for graphics cards only"),
    "unsloth: triton-windows": ("cpu win32", "compiles kernels for graphics cards only"),
}

# Requires-Python and Requires-Dist (extras and NVIDIA's libraries left out) of pins that are not installed everywhere.
# Read 2026-11-21 from the METADATA of the wheels: win_amd64 for the Windows packages; for torch the plain wheel of that
# version on the package index, whose names other than NVIDIA's are the same for every +variant.
TORCH = ["filelock", "typing-extensions>=4.10.0", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5"]
NOT_HERE = {
    "torch==2.11.0": (">=3.10", [*TORCH, "setuptools<82", 'triton==3.6.0; platform_system == "Linux"']),
    "torch==2.13.0": (">=3.10", [*TORCH, "setuptools>=77.0.3"]),  # the CPU build; only the CUDA build asks for triton
    "torch==2.14.1": (
        ">=3.10",
        [*TORCH, "setuptools>=77.0.3", 'triton~=3.8.0; platform_system == "Linux" and python_version < "3.15"'],
    ),
    "colorama==0.4.6": ("!=3.0.*,!=3.1.*,!=3.2.*,!=3.3.*,!=3.4.*,!=3.5.*,!=3.6.*,>=2.7", []),
    "pywinpty==3.1.2": (">=3.10", []),
    "triton-windows==3.6.0.post26": (">=3.10,<3.15", ['importlib-metadata; python_version < "3.10"']),
    "triton-windows==3.8.0.post29": (">=3.10,<3.15", ['importlib-metadata; python_version < "3.10"']),
}


def lines(file: str) -> list[str]:
    """The requirements of a file, without its options and comments."""
    text = [line.partition(" #")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    return [line for line in text if line and not line.startswith(("#", "-"))]


def environment(platform: str, python: str) -> dict[str, str]:
    versions = {"python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython"}
    return {**default_environment(), **versions, "platform_python_implementation": "CPython", **PLATFORMS[platform]}


def pins(target: str, env: dict[str, str]) -> dict[str, Version]:
    """Name -> version of all that a machine with this target and this environment installs."""
    found, extras = {}, [line for file in EXTRAS for line in lines(file)]
    for line in [*lines("requirements.txt"), *lines(f"requirements-{target}.txt"), *extras]:
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate(env):
            name = canonicalize_name(need.name)
            assert name not in found, f"{name} is pinned twice"
            found[name] = Version(next(iter(need.specifier)).version)
    return found


def installed(name: str) -> Version | None:
    try:
        return Version(distribution(name).version)
    except PackageNotFoundError:
        return None


@cache
def facts(name: str, version: str) -> tuple[str, list[Requirement]]:
    """Requires-Python and the requirements of one pin: from the installed package, else from the table."""
    found = installed(name)
    if found and found.public == version:
        dist = distribution(name)
        python, needs = dist.metadata["Requires-Python"] or "", dist.requires or []
    else:
        python, needs = NOT_HERE[f"{name}=={version}"]
    needs = [Requirement(need) for need in needs]
    return python, [need for need in needs if name != "torch" or not need.name.startswith(("nvidia-", "cuda-"))]


def needs(pinned: dict[str, Version], env: dict[str, str]) -> set[tuple[str, Requirement]]:
    """(who, what) for each requirement that holds in this environment, through the extras that are asked for."""
    found, todo, seen = set(), [(name, "") for name in pinned], set()
    while todo:
        name, extra = item = todo.pop()
        if item in seen or name not in pinned:
            continue
        seen.add(item)
        for need in facts(name, pinned[name].public)[1]:
            if need.marker is None or need.marker.evaluate({**env, "extra": extra}):
                found.add((name, need))
                todo += [(canonicalize_name(need.name), wanted) for wanted in need.extras]
    return found


def unmet(target: str, platform: str, python: str) -> set[str]:
    env = environment(platform, python)
    pinned = pins(target, env)
    there = {**pinned, "triton": Version(TRITON[target])} if platform == "linux" and target in TRITON else pinned
    return {
        f"{who}: {canonicalize_name(need.name)}{need.specifier}"
        for who, need in needs(pinned, env)
        if (version := there.get(canonicalize_name(need.name))) is None or version not in need.specifier
    }


everywhere = pytest.mark.parametrize(
    ("target", "platform", "python"), [(t, s, p) for t in TARGETS for s in PLATFORMS for p in PYTHONS]
)


@everywhere
def test_exactly_the_listed_bounds_are_not_met(target: str, platform: str, python: str) -> None:
    expected = {bound for bound, (where, _) in NOT_MET.items() if where in ("", f"{target} {platform}")}
    assert unmet(target, platform, python) == expected


@everywhere
def test_each_pin_admits_the_python(target: str, platform: str, python: str) -> None:
    for name, version in pins(target, environment(platform, python)).items():
        assert f"{python}.0" in SpecifierSet(facts(name, version.public)[0]), name


@everywhere
def test_no_pin_without_a_use(target: str, platform: str, python: str) -> None:
    env = environment(platform, python)
    pinned = pins(target, env)
    assert set(pinned) - {canonicalize_name(need.name) for _, need in needs(pinned, env)} == WANTED


@pytest.mark.parametrize("file", FILES)
def test_each_line_is_an_exact_pin(file: str) -> None:
    assert lines(file)
    for line in lines(file):
        specs = list(Requirement(line).specifier)
        assert [spec.operator for spec in specs] == ["=="], line
        assert "*" not in specs[0].version, line


@pytest.mark.parametrize("file", FILES)
def test_packages_that_break_a_machine_are_not_in_the_set(file: str) -> None:
    assert not {Requirement(line).name for line in lines(file)} & {"torchvision", "xformers", "diffusers", "triton"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_file_shows_its_two_commands_and_follows_the_pins(target: str) -> None:
    file = f"requirements-{target}.txt"
    text = (ROOT / file).read_text(encoding="utf-8").splitlines()
    first, second = [line[1:].split() for line in text if re.match(r"#\s+pip install ", line)]
    assert first[-2:] == ["-r", file]
    assert "--no-deps" not in first
    assert second == ["pip", "install", "--no-deps", "-r", "requirements.txt"]
    assert f"--extra-index-url https://download.pytorch.org/whl/{target}" in text
    assert "-c requirements.txt" in text


@pytest.mark.parametrize("python", PYTHONS)
def test_torch_is_the_build_its_file_names(python: str) -> None:
    def torch(target: str, platform: str) -> Version:
        return pins(target, environment(platform, python))["torch"]

    # The plain wheel is a CUDA build on Linux and a CPU build on Windows: only these may go without a local version.
    assert torch("cpu", "linux").local == "cpu"
    assert {torch("cu128", platform).local for platform in PLATFORMS} == {"cu128"}
    assert torch("cu130", "win32").local == "cu130"


@pytest.mark.parametrize("target", TRITON)
def test_triton_on_windows_has_the_minor_of_torchs_own(target: str) -> None:
    windows = pins(target, environment("win32", "3.11"))["triton-windows"]
    assert windows.release[:2] == Version(TRITON[target]).release[:2]


def here() -> str:
    """The target that this environment was installed for."""
    found = installed("torch")
    for target in TARGETS:
        pinned = pins(target, default_environment()).get("torch")
        if found and pinned and found in SpecifierSet(f"=={pinned}"):
            return target
    raise AssertionError(f"torch {found} is none of the pinned ones")


def test_the_installed_versions_are_the_pins() -> None:
    for name, version in pins(here(), default_environment()).items():
        found = installed(name)
        assert found, f"{name} is not installed"
        assert found in SpecifierSet(f"=={version}"), name


def test_the_installed_torch_is_a_cuda_build_only_where_asked() -> None:
    cuda = runpy.run_path(str(distribution("torch").locate_file("torch/version.py")))["cuda"]
    assert (cuda is None) == (here() == "cpu")


def test_the_table_agrees_with_what_is_installed() -> None:
    rows = [pin.split("==") for pin in NOT_HERE]
    checked = [(name, version) for name, version in rows if (found := installed(name)) and found.public == version]
    assert "torch" in dict(checked)
    for name, version in checked:
        python, asked = facts(name, version)
        table_python, table = NOT_HERE[f"{name}=={version}"]
        assert SpecifierSet(python) == SpecifierSet(table_python)
        assert {need for need in asked if "extra ==" not in str(need.marker)} == set(map(Requirement, table))
