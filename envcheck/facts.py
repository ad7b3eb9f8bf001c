"""The records every other file speaks in. Imports nothing of ours but versions; None means "could not be read", never
"fine".
"""
# ruff: noqa: RUF009 -- _key only calls dataclasses.field

import json
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, Dict, Mapping, Optional, Tuple

from envcheck import versions

SEVERITIES = ("error", "warning", "note")
SCHEMA = 1  # of the facts file and of the --json answer; a change of meaning raises it


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing, in the one form that envcheck and kit both print.

    `details` are (label, value) lines that show the evidence; `fix` holds the exact commands or steps, in order;
    `source` says where the rule comes from.
    """

    id: str
    severity: str
    what: str
    why: str = ""
    fix: Tuple[str, ...] = ()
    details: Tuple[Tuple[str, str], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r} is none of {', '.join(SEVERITIES)}")

    def to_json(self) -> Dict[str, object]:
        return {
            "id": self.id,
            "severity": self.severity,
            "what": self.what,
            "why": self.why,
            "fix": list(self.fix),
            "details": dict(self.details),
            "source": self.source,
        }


def _text(value: Any) -> Optional[str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _flag(value: Any) -> Optional[bool]:
    return value if isinstance(value, bool) else None


def _number(value: Any) -> Optional[float]:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15
    return value if good else None


def _whole(value: Any) -> Optional[int]:
    number = _number(value)
    return int(number) if number is not None else None


def _texts(value: Any) -> Optional[Tuple[str, ...]]:
    if not isinstance(value, (list, tuple)):
        return None
    return tuple(item for item in map(_text, value) if item is not None)


def _table(value: Any) -> Optional[Dict[str, Any]]:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else None


def _versions(value: Any) -> Optional[Dict[str, Optional[str]]]:
    """Distribution name (lower case, hyphens) -> version; None = known to be absent."""
    table = _table(value)
    return {normal_name(key): _text(item) for key, item in table.items()} if table is not None else None


def _words(value: Any) -> Optional[Dict[str, str]]:
    """Name -> text, as environment variables are; names keep their case."""
    table = _table(value)
    return {key: _text(item) or "" for key, item in table.items()} if table is not None else None


def _tables(value: Any) -> Optional[Dict[str, Dict[str, Any]]]:
    table = _table(value)
    return (
        {normal_name(key): item for key, item in table.items() if isinstance(item, dict)} if table is not None else None
    )


def _results(value: Any) -> Optional[Dict[str, Dict[str, Any]]]:
    table = _table(value)
    return {key: item for key, item in table.items() if isinstance(item, dict)} if table is not None else None


def _gpus(value: Any) -> Optional[Tuple["Gpu", ...]]:
    if not isinstance(value, (list, tuple)):
        return None
    return tuple(Gpu.from_json(item) for item in value if isinstance(item, dict))


def _build(value: Any) -> Optional[str]:
    return "" if value is None else _text(value)


def _key(kind: Any) -> Any:
    return field(default=None, metadata={"kind": kind})


def normal_name(name: str) -> str:
    """Distribution names compare without case, and "_" and "." count as "-"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _read(cls: type, data: Mapping[str, Any]) -> Dict[str, Any]:
    return {item.name: item.metadata["kind"](data[item.name]) for item in fields(cls) if item.name in data}


def _write(record: Any) -> Dict[str, Any]:
    pairs = ((item.name, getattr(record, item.name)) for item in fields(record))
    return {name: value for name, value in pairs if value is not None}


@dataclass(frozen=True)
class Gpu:
    """One graphics card. Memory in GiB; `index` is the number nvidia-smi gives it (PCI order)."""

    name: Optional[str] = _key(_text)
    compute_capability: Optional[str] = _key(_text)
    vram_gib: Optional[float] = _key(_number)
    vram_free_gib: Optional[float] = _key(_number)
    index: Optional[int] = _key(_whole)
    processes: Optional[Tuple[str, ...]] = _key(_texts)  # "name (pid 123, 4.2 GiB)"
    persistence: Optional[bool] = _key(_flag)
    mig: Optional[bool] = _key(_flag)
    ecc: Optional[bool] = _key(_flag)
    display: Optional[bool] = _key(_flag)
    pcie: Optional[str] = _key(_text)  # "gen 4 x16"
    uuid: Optional[str] = _key(_text)  # "GPU-..." as nvidia-smi gives it; taken out of what is shared

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Gpu":
        return cls(**_read(cls, data))

    @property
    def vendor(self) -> Optional[str]:
        """ "nvidia", "amd", "intel", "apple", or None where the name does not tell."""
        name = (self.name or "").lower()
        if re.search(r"\bamd\b|radeon|instinct|\bgfx\d|\bmi\d{2,3}x?\b|strix halo|ryzen", name):
            return "amd"
        if re.search(r"\bintel\b|\barc\b|\biris\b|\bxe\b", name):
            return "intel"
        if re.search(r"\bapple\b|^m[1-9]\b", name):
            return "apple"
        nvidia = r"nvidia|geforce|quadro|tesla|titan|\brtx|\bgtx|\b[abhlptv]\d{1,4}\b|jetson|\bgb\d|\bgh\d"
        return "nvidia" if self.compute_capability or re.search(nvidia, name) else None


def decode(data: bytes) -> str:
    """Bytes of a file -> text: UTF-16 where it has a byte order mark (PowerShell's ">" writes that), else UTF-8 with
    replacement characters.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


@dataclass(frozen=True)
class Facts:
    """What is known of one machine, its packages and the planned run. Keys and meanings: the casebook's README in
    docs of this project; those added here are commented. Sizes in GiB as the tools print them.
    """

    os: Optional[str] = _key(_text)
    wsl: Optional[bool] = _key(_flag)
    machine: Optional[str] = _key(_text)  # x86_64, aarch64, AMD64, arm64
    container: Optional[str] = _key(_text)  # docker, podman, lxc, kubernetes; "" = none
    python: Optional[str] = _key(_text)
    venv: Optional[bool] = _key(_flag)  # the interpreter runs inside a virtual environment
    gpu: Optional[Tuple[Gpu, ...]] = _key(_gpus)
    gpu_count: Optional[int] = _key(_whole)
    driver: Optional[str] = _key(_text)
    driver_cuda: Optional[str] = _key(_text)
    nvidia_smi: Optional[str] = _key(_text)
    secure_boot: Optional[bool] = _key(_flag)
    env: Optional[Dict[str, str]] = _key(_words)
    c_compiler: Optional[bool] = _key(_flag)
    nvcc: Optional[bool] = _key(_flag)
    cuda_toolkits: Optional[Tuple[str, ...]] = _key(_texts)  # versions of the toolkits found, "13.0"
    python_headers: Optional[bool] = _key(_flag)
    glibc: Optional[str] = _key(_text)
    disk_free_gib: Optional[float] = _key(_number)
    cache_free_gib: Optional[float] = _key(_number)  # file system of the hub cache
    shm_gib: Optional[float] = _key(_number)  # free space of /dev/shm
    ram_gib: Optional[float] = _key(_number)
    ram_free_gib: Optional[float] = _key(_number)
    swap_gib: Optional[float] = _key(_number)  # swap, or the page file of Windows
    memory_limit_gib: Optional[float] = _key(_number)  # of the container (cgroup)
    cpu_count: Optional[int] = _key(_whole)  # usable by this process
    cpu_flags: Optional[Tuple[str, ...]] = _key(_texts)  # those that decide the precision
    hf_logged_in: Optional[bool] = _key(_flag)
    hub_reachable: Optional[bool] = _key(_flag)
    torch_cuda: Optional[str] = _key(_build)  # "" = known not to be a CUDA build (null in JSON)
    torch_hip: Optional[str] = _key(_text)
    torch_arch_list: Optional[Tuple[str, ...]] = _key(_texts)
    torch_cuda_available: Optional[bool] = _key(_flag)
    torch_mps_available: Optional[bool] = _key(_flag)
    packages: Optional[Dict[str, Optional[str]]] = _key(_versions)
    packages_bounds: Optional[Dict[str, Optional[str]]] = _key(_versions)
    built_for: Optional[Dict[str, Dict[str, Any]]] = _key(_tables)
    imported_versions: Optional[Dict[str, Optional[str]]] = _key(_versions)
    installing: Optional[Dict[str, Optional[str]]] = _key(_versions)
    requires: Optional[Dict[str, Optional[str]]] = _key(_versions)
    requires_python: Optional[str] = _key(_text)
    broken_packages: Optional[Tuple[str, ...]] = _key(
        _texts
    )  # distributions whose metadata cannot be read or is there twice
    model: Optional[str] = _key(_text)
    training: Optional[Dict[str, Any]] = _key(_table)
    smoke: Optional[Dict[str, Dict[str, Any]]] = _key(
        _results
    )  # test -> {"verdict": ok|failed|hung|skipped, "detail": text}
    long_paths: Optional[bool] = _key(_flag)  # Windows: paths of more than 259 characters are allowed
    site_packages_characters: Optional[int] = _key(_whole)  # Windows: of the folder that packages are unpacked into
    unread: Optional[Tuple[str, ...]] = _key(_texts)  # what the probe tried and could not read, with the reason

    @classmethod
    def from_json(cls, data: Any) -> "Facts":
        """From a JSON object (or its text). Unknown keys are ignored; a value of the wrong type counts as unknown.

        Raises: ValueError: the text is not JSON, or not an object.
        """
        if isinstance(data, (str, bytes)):
            try:
                data = json.loads(decode(data) if isinstance(data, bytes) else data)
            except RecursionError as error:
                raise ValueError("nested too deep") from error
        if not isinstance(data, dict):
            raise ValueError("the facts must be one JSON object")
        return cls(**_read(cls, data))

    def to_json(self) -> Dict[str, Any]:
        """The inverse of from_json; unknown values are left out."""
        data = _write(self)
        if "torch_cuda" in data:
            data["torch_cuda"] = data["torch_cuda"] or None
        if self.gpu is not None:
            data["gpu"] = [_write(gpu) for gpu in self.gpu]
        return json.loads(json.dumps(data, default=list))

    def with_changes(self, **changes: Any) -> "Facts":
        return replace(self, **changes)

    # --- the operating system -------------------------------------------------------------------------------------
    @property
    def is_wsl(self) -> bool:
        return bool(self.wsl) or "wsl" in (self.os or "").lower()

    @property
    def is_windows(self) -> bool:
        """The program itself runs on Windows (not inside WSL)."""
        return "windows" in (self.os or "").lower() and not self.is_wsl

    @property
    def is_macos(self) -> bool:
        return bool(re.search(r"\bmac ?os|darwin|os x", (self.os or "").lower()))

    @property
    def is_linux(self) -> bool:
        return bool(self.os) and not self.is_windows and not self.is_macos

    @property
    def is_notebook(self) -> bool:
        """A hosted notebook: Colab or Kaggle."""
        return bool(re.search(r"colab|kaggle", (self.os or "").lower()))

    @property
    def is_container(self) -> bool:
        return bool(self.container) or bool(re.search(r"docker|container|podman|kubernetes", (self.os or "").lower()))

    @property
    def is_arm(self) -> bool:
        return bool(re.search(r"aarch64|arm64", f"{self.machine or ''} {self.os or ''}".lower()))

    # --- packages -------------------------------------------------------------------------------------------------
    def package(self, name: str) -> Optional[str]:
        """The exact installed version, or None where it is absent or unknown."""
        return (self.packages or {}).get(normal_name(name))

    def bounds(self, name: str) -> Optional[str]:
        return (self.packages_bounds or {}).get(normal_name(name))

    def installed(self, name: str) -> Optional[bool]:
        """True, False (known to be absent) or None (unknown)."""
        key = normal_name(name)
        if self.package(key) is not None or self.bounds(key) is not None:
            return True
        return False if key in (self.packages or {}) else None

    def fits(self, name: str, spec: str) -> Optional[bool]:
        """Is the installed version inside `spec`? None where that is not certain."""
        exact, bounds = self.package(name), self.bounds(name)
        if exact is not None:
            return versions.matches(exact, spec)
        if bounds is None:
            return None
        if versions.implies(bounds, spec):
            return True
        return False if versions.excludes(bounds, spec) else None

    def shown_version(self, name: str) -> str:
        """For the screen: "2.7.1", "<4.50" or "unknown"."""
        return self.package(name) or self.bounds(name) or "unknown"

    # --- the planned run ------------------------------------------------------------------------------------------
    def run(self, *names: str) -> Any:
        """The first of these settings of the planned run that is given, else None."""
        training = self.training or {}
        return next((training[name] for name in names if name in training), None)

    @property
    def torch_build(self) -> Optional[str]:
        """CUDA version torch was built for ("12.8"), "cpu", "rocm", or None: unknown."""
        local = getattr(versions.parse(self.package("torch")), "local", "")
        if self.torch_hip or "rocm" in local:
            return "rocm"
        if self.torch_cuda:
            return self.torch_cuda
        found = re.match(r"cu(\d{2})(\d)", local)
        if found:
            return f"{found.group(1)}.{found.group(2)}"
        return "cpu" if local.startswith("cpu") or self.torch_cuda == "" else None
