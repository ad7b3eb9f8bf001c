"""Installed packages, read from their own files: nothing is imported, so a broken package cannot stop the probe."""
# ruff: noqa: PTH112, PTH208
# names come from the environment: os.path answers False where Path raises on Python 3.8

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from envcheck.facts import normal_name
from envcheck.probe.commands import Runner

WATCHED = frozenset(
    [
        "torch",
        "torchvision",
        "torchaudio",
        "triton",
        "triton-windows",
        "unsloth",
        "unsloth-zoo",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "bitsandbytes",
        "torchao",
        "xformers",
        "flash-attn",
        "flash-attn-3",
        "vllm",
        "huggingface-hub",
        "hf-xet",
        "hf-transfer",
        "tokenizers",
        "safetensors",
        "numpy",
        "cut-cross-entropy",
        "deepspeed",
        "liger-kernel",
        "sentencepiece",
        "protobuf",
        "llamafactory",
        "axolotl",
        "nvidia-nccl-cu12",
        "nvidia-nccl-cu13",
        "nvidia-nvjitlink-cu12",
        "nvidia-nvjitlink",
        "nvidia-cusparse-cu12",
        "nvidia-cuda-runtime-cu12",
        "nvidia-cuda-runtime",
        "pydantic",
        "tyro",
        "rich",
    ]
)
ALWAYS_SAID = ("torch", "triton", "unsloth", "bitsandbytes", "transformers", "trl", "peft")  # absent is worth a fact
OWN_VERSION = {
    "transformers": "transformers",
    "peft": "peft",
    "accelerate": "accelerate",
    "huggingface-hub": "huggingface_hub",
    "datasets": "datasets",
    "safetensors": "safetensors",
}  # distribution -> package with a literal __version__
_FOLDER = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*?)-(?P<version>\d[^-]*?)\.(?:dist-info|egg-info)$")
MAX_BYTES = 1_000_000


def read(run: Runner) -> Dict[str, Any]:
    """packages, imported_versions, built_for, requires, torch_cuda, torch_hip, broken_packages of this interpreter."""
    return read_folders([path for path in sys.path if path and os.path.isdir(path)])


def read_folders(folders: List[str]) -> Dict[str, Any]:
    """The same for these folders, in the order in which the interpreter searches them."""
    packages: Dict[str, Any] = {}
    places: Dict[str, Path] = {}
    broken = set()
    for folder in folders:
        seen = set()
        for name, version, path in distributions(folder):
            if name not in WATCHED:
                continue
            if name in seen or not _has_metadata(path):
                broken.add(name)
            seen.add(name)
            if name not in places:
                packages[name], places[name] = version, path
    for name in ALWAYS_SAID:
        packages.setdefault(name, None)
    found: Dict[str, Any] = {"packages": packages}
    if broken:
        found["broken_packages"] = tuple(sorted(broken))
    imported = {name: version for name, version in _own_versions(folders) if packages.get(name) not in (None, version)}
    if imported:
        found["imported_versions"] = imported
    if "torch" in places:
        found.update(_torch(places["torch"].parent))
    return {**found, **_built_for(places), **_requires(places)}


def distributions(folder: str) -> Iterator[Tuple[str, str, Path]]:
    """(normal name, version, metadata folder) of everything installed in a site-packages folder."""
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return
    for entry in entries:
        match = _FOLDER.match(entry)
        if match:
            yield normal_name(match.group("name")), match.group("version"), Path(folder, entry)


def _has_metadata(path: Path) -> bool:
    return path.is_file() or (path / "METADATA").is_file() or (path / "PKG-INFO").is_file()


def _text(path: Path) -> str:
    """At most MAX_BYTES of a file, "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _own_versions(folders: List[str]) -> Iterator[Tuple[str, str]]:
    """What `import x; x.__version__` would say, from the first folder that has the package."""
    for name, package in OWN_VERSION.items():
        place = next(
            (Path(folder, package, "__init__.py") for folder in folders if Path(folder, package).is_dir()), None
        )
        match = re.search(r"^__version__\s*=\s*[\"']([^\"']+)[\"']", _text(place), re.MULTILINE) if place else None
        if match:
            yield name, match.group(1)


def _torch(site: Path) -> Dict[str, Any]:
    """CUDA and HIP version of the build, from torch/version.py."""
    text = _text(site / "torch" / "version.py")
    found: Dict[str, Any] = {}
    cuda = re.search(r"^cuda\b[^=\n]*=\s*(None|[\"']([\d.]+)[\"'])", text, re.MULTILINE)
    hip = re.search(r"^hip\b[^=\n]*=\s*[\"']([^\"']+)[\"']", text, re.MULTILINE)
    if cuda:
        found["torch_cuda"] = cuda.group(2) or ""
    if hip:
        found["torch_hip"] = hip.group(1)
    return found


def _built_for(places: Dict[str, Path]) -> Dict[str, Any]:
    """torch and Python that xformers was compiled for, CUDA versions that bitsandbytes brings a library for."""
    found: Dict[str, Any] = {}
    if "xformers" in places:
        try:
            version = json.loads(_text(places["xformers"].parent / "xformers" / "cpp_lib.json"))["version"]
            found["xformers"] = {key: str(version[key]) for key in ("torch", "python") if version.get(key)}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
    if "bitsandbytes" in places:
        try:
            names = os.listdir(places["bitsandbytes"].parent / "bitsandbytes")
        except OSError:
            names = []
        cuda = sorted(
            match.group(1) for match in map(re.compile(r"^libbitsandbytes_cuda(\d+)\.").match, names) if match
        )
        if cuda:
            found["bitsandbytes"] = {"cuda": " ".join(cuda)}
    return {"built_for": found} if found else {}


def _requires(places: Dict[str, Path]) -> Dict[str, Any]:
    """The bound each Unsloth package states for torch, in its metadata."""
    found = {}
    for name in ("unsloth", "unsloth-zoo"):
        lines = _text(places[name] / "METADATA").splitlines() if name in places else []
        stated = [
            line.partition(":")[2].partition(";")[0].strip()
            for line in lines
            if re.match(r"Requires-Dist:\s*torch\s*[<>=!~(;]", line) and "extra ==" not in line
        ]
        if stated:
            found[name] = stated[0]
    return {"requires": found} if found else {}
