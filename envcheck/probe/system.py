"""Operating system, Python, memory, disk, compilers, environment variables, hub."""
# ruff: noqa: PTH109, PTH110, PTH111, PTH112, PTH113, PTH118, PTH120, PTH123, PTH207
# names come from the environment: os.path answers False where Path raises on Python 3.8

import ctypes
import glob
import os
import platform
import re
import shutil
import socket
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional

from envcheck.known import variables
from envcheck.probe.commands import Runner

GIB = float(1 << 30)
HUB = ("huggingface.co", 443)
HUB_SECONDS = 0.7
UNLIMITED_BYTES = 1 << 60  # what cgroup v1 writes for "no limit" is larger
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "bf16", "asimd", "sve")


def read(run: Runner) -> Dict[str, Any]:
    readers = (_system, _memory, _disk, _paths, _tools, _variables, _processor)
    found: Dict[str, Any] = {}
    unread: List[str] = []
    for reader in readers:
        try:
            found.update(reader(run))
        except Exception as error:
            unread.append(f"{reader.__name__.strip('_')}: {type(error).__name__}: {error}"[:200])
    return {**{name: value for name, value in found.items() if value is not None}, "unread": unread}


def read_hub(run: Runner) -> Dict[str, Any]:
    """Can the model hub be reached at all? Opens and closes one connection; nothing is sent. Not asked, hence unknown,
    when set offline, behind a proxy or with a mirror.
    """
    if any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    ):
        return {}
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT")):
        return {}  # the way leads through a proxy or to a mirror: the hub's own port would tell nothing
    answer: List[bool] = []

    def connect() -> None:
        try:
            socket.create_connection(HUB, HUB_SECONDS).close()
            answer.append(True)
        except OSError:
            answer.append(False)

    thread = threading.Thread(target=connect, daemon=True)  # a name server that hangs must not hold the report
    thread.start()
    thread.join(HUB_SECONDS)
    return {"hub_reachable": bool(answer and answer[0])}


def text_of(path: str) -> str:
    """At most 1 MB of a file of the system, "" where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(1_000_000).decode("utf-8", "replace")
    except OSError:
        return ""


def _system(run: Runner) -> Dict[str, Any]:
    kernel = text_of("/proc/version").lower()
    found = {
        "os": os_name(),
        "machine": platform.machine() or None,
        "python": platform.python_version(),
        "venv": sys.prefix != sys.base_prefix,
        "wsl": "microsoft" in kernel,
        "container": _container(),
    }
    if sys.platform.startswith("linux"):
        found["glibc"] = platform.libc_ver()[1] or None
        found["secure_boot"] = _secure_boot()
    return found


def os_name() -> str:
    """System and release; for a hosted notebook also which one it is."""
    if sys.platform == "win32":
        build = re.match(r"\d+\.\d+\.(\d+)", platform.version())
        return "Windows 11" if build and int(build.group(1)) >= 22000 else f"Windows {platform.release()}"
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} {platform.machine()}"
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', text_of("/etc/os-release"), re.MULTILINE)
    host = "Colab" if "COLAB_RELEASE_TAG" in os.environ else "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else ""
    return (match.group(1) if match else f"Linux {platform.release()}") + (f" ({host})" if host else "")


def _container() -> str:
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    match = re.search(r"docker|kubepods|lxc|containerd", text_of("/proc/1/cgroup"))
    return match.group(0) if match else "kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else ""


def _secure_boot() -> Optional[bool]:
    files = glob.glob("/sys/firmware/efi/efivars/SecureBoot-*")
    try:
        return Path(files[0]).read_bytes()[-1] == 1 if files else None
    except (OSError, IndexError):
        return None


def _memory(run: Runner) -> Dict[str, Any]:
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        answer = run(["sysctl", "-n", "hw.memsize"], 2.0)
        return {"ram_gib": round(int(answer.text) / GIB, 1)} if answer.ok and answer.text.strip().isdigit() else {}
    rows = dict(re.findall(r"^(\w+):\s+(\d{1,15}) kB", text_of("/proc/meminfo"), re.MULTILINE))
    sizes = {"ram_gib": "MemTotal", "ram_free_gib": "MemAvailable", "swap_gib": "SwapTotal"}
    return {
        **{name: round(int(rows[key]) * 1024 / GIB, 1) for name, key in sizes.items() if key in rows},
        "memory_limit_gib": _cgroup_limit(),
    }


def _cgroup_limit() -> Optional[float]:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = text_of(path).strip()
        if text.isdigit() and int(text) < UNLIMITED_BYTES:
            return round(int(text) / GIB, 1)
    return None


class WindowsMemory(ctypes.Structure):
    """What GlobalMemoryStatusEx fills: the commit limit is main memory plus page file."""

    _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
        (name, ctypes.c_ulonglong)
        for name in ("total", "free", "commit_limit", "commit_free", "virtual", "virtual_free", "extended")
    ]


def _windows_memory() -> Dict[str, Any]:
    status = WindowsMemory(length=ctypes.sizeof(WindowsMemory))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        return {}
    return {
        "ram_gib": round(status.total / GIB, 1),
        "ram_free_gib": round(status.free / GIB, 1),
        "swap_gib": round(max(0, status.commit_limit - status.total) / GIB, 1),
    }


def _disk(run: Runner) -> Dict[str, Any]:
    cache = (
        os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    )
    found = {"disk_free_gib": _free_gib(os.getcwd()), "cache_free_gib": _free_gib(cache)}
    if sys.platform.startswith("linux"):
        found["shm_gib"] = _free_gib("/dev/shm")
    return found


def _free_gib(path: str) -> Optional[float]:
    """Free space of the file system that holds the path, or will hold it."""
    while path and not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    try:
        return round(shutil.disk_usage(path).free / GIB, 1)
    except OSError:
        return None


def _paths(run: Runner) -> Dict[str, Any]:
    """Of Windows: whether long paths are allowed, and where packages go: this environment, or the one to be made."""
    if sys.platform != "win32":
        return {}
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            allowed = winreg.QueryValueEx(key, "LongPathsEnabled")[0] == 1
    except FileNotFoundError:
        allowed = False  # as Windows has it where nobody set it
    is_venv = sys.prefix != sys.base_prefix
    site = sysconfig.get_path("purelib") if is_venv else os.path.join(os.getcwd(), ".venv", "Lib", "site-packages")
    return {"long_paths": allowed, "site_packages_characters": len(site)}


def _tools(run: Runner) -> Dict[str, Any]:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    compilers = (
        [os.environ.get("CC", ""), "gcc", "cc", "clang"] if sys.platform != "win32" else ["cl", "clang-cl", "gcc"]
    )
    compiler = any(name and shutil.which(name.split()[0]) for name in compilers)
    if sys.platform == "win32" and not compiler:
        compiler = bool(
            glob.glob(r"C:\Program Files*\Microsoft Visual Studio\*\*\VC\Tools\MSVC\*\bin\Hostx64\x64\cl.exe")
        )
    include = sysconfig.get_path("include")
    return {
        "c_compiler": compiler,
        "nvcc": bool(shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(home, "bin"))),
        "cuda_toolkits": tuple(_toolkits(home)),
        "python_headers": os.path.exists(os.path.join(include, "Python.h")) if include else None,
    }


def _toolkits(home: str) -> List[str]:
    roots = {os.path.realpath(path) for path in (*glob.glob("/usr/local/cuda*"), home) if os.path.isdir(path)}
    found = set()
    for root in roots:
        match = re.search(
            r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"(\d+\.\d+)', text_of(os.path.join(root, "version.json"))
        )
        match = match or re.search(r"cuda-(\d+\.\d+)$|v(\d+\.\d+)$", root)
        if match:
            found.add(next(group for group in match.groups() if group))
    return sorted(found)


def _variables(run: Runner) -> Dict[str, Any]:
    """Variables that matter and those that look like a misspelt one. Of a token only its presence is kept."""
    env = {name: value for name, value in os.environ.items() if name in variables.KNOWN or variables.meant(name)}
    home = os.path.expanduser("~")
    stored = [
        os.environ.get("HF_TOKEN_PATH", ""),
        os.path.join(os.environ.get("HF_HOME") or os.path.join(home, ".cache", "huggingface"), "token"),
    ]
    token = any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"))
    env.update({name: "<set>" for name in env if "TOKEN" in name})
    return {"env": env, "hf_logged_in": bool(token or any(path and os.path.isfile(path) for path in stored))}


def _processor(run: Runner) -> Dict[str, Any]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text_of("/proc/cpuinfo"), re.MULTILINE)
    flags = tuple(flag for flag in CPU_FLAGS if flag in match.group(1).split()) if match else None
    return {"cpu_count": count, "cpu_flags": flags}
