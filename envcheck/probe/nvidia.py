"""Graphics cards: nvidia-smi, the driver's own libraries through ctypes, and the PCI bus for cards without a driver."""
# ruff: noqa: PTH110
# names come from the environment: os.path answers False where Path raises on Python 3.8

import ctypes
import os
import platform
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from envcheck.facts import Gpu
from envcheck.probe.commands import Output, Runner

FIELDS = (
    "index",
    "name",
    "compute_cap",
    "memory.total",
    "memory.free",
    "driver_version",
    "uuid",
    "persistence_mode",
    "mig.mode.current",
    "ecc.mode.current",
    "display_active",
    "pcie.link.gen.max",
    "pcie.link.width.current",
)
APPS = ("gpu_uuid", "pid", "process_name", "used_memory")
MIB_PER_GIB = 1024.0
SMI_SECONDS = 8.0
PCI_DEVICES = Path("/sys/bus/pci/devices")
INTEL_INSIDE = "0000:00:02.0"  # where the graphics of an Intel processor sits; an Arc card sits elsewhere
PCI_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
WSL_SMI = "/usr/lib/wsl/lib/nvidia-smi"


def read(run: Runner) -> Dict[str, Any]:
    """gpu, driver, driver_cuda, and nvidia_smi where it failed."""
    if sys.platform == "darwin":
        return {"gpu": (Gpu(name="Apple silicon"),) if platform.machine() == "arm64" else ()}
    program = shutil.which("nvidia-smi") or (WSL_SMI if os.path.exists(WSL_SMI) else None)
    if program is None:
        return _without_nvidia_smi(run)
    with ThreadPoolExecutor(2) as pool:
        cards = pool.submit(
            run, [program, "--query-gpu=" + ",".join(FIELDS), "--format=csv,noheader,nounits"], SMI_SECONDS
        )
        apps = pool.submit(
            run, [program, "--query-compute-apps=" + ",".join(APPS), "--format=csv,noheader,nounits"], SMI_SECONDS
        )
        answer, held = cards.result(), apps.result()
    names: Sequence[str] = FIELDS
    if not answer.ok and "not a valid field" in answer.text:
        names = [name for name in FIELDS if name not in ("compute_cap", "mig.mode.current")]  # drivers before 510
        answer = run([program, "--query-gpu=" + ",".join(names), "--format=csv,noheader,nounits"], SMI_SECONDS)
    if not answer.ok:
        return {**_failed(answer), **_from_pci(), **_from_nvml()}
    return {**parse_cards(answer.text, names, held.text if held.ok else ""), **_cuda_of_driver(run, program)}


def parse_cards(text: str, names: Sequence[str] = FIELDS, apps: str = "") -> Dict[str, Any]:
    """nvidia-smi's CSV (no header, no units) -> gpu, driver. A line that does not fit the columns is left out and
    named.
    """
    cards, unread, driver = [], [], None
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) != len(names) or not re.match(r"^[0-9]{1,6}$", values[0]):
            if line.strip():
                unread.append("nvidia-smi: a line that could not be read")
            continue
        row = {name: values[number] for number, name in enumerate(names)}
        driver = driver or _known(row.get("driver_version"))
        cards.append(_card(row, apps))
    found: Dict[str, Any] = {"driver": driver, "unread": unread}
    if cards or not unread:
        found["gpu"] = tuple(cards)
    return found


def _card(row: Dict[str, str], apps: str) -> Gpu:
    generation, width = _known(row.get("pcie.link.gen.max")), _known(row.get("pcie.link.width.current"))
    return Gpu(
        name=_known(row.get("name")),
        compute_capability=_known(row.get("compute_cap")),
        index=int(row["index"]),
        vram_gib=_gib(row.get("memory.total")),
        vram_free_gib=_gib(row.get("memory.free")),
        processes=_processes(apps, row.get("uuid", "")),
        persistence=_switch(row.get("persistence_mode")),
        mig=_switch(row.get("mig.mode.current")),
        ecc=_switch(row.get("ecc.mode.current")),
        display=_switch(row.get("display_active")),
        pcie=f"gen {generation} x{width}" if generation and width else None,
        uuid=_known(row.get("uuid")),
    )


def _known(text: Optional[str]) -> Optional[str]:
    """nvidia-smi writes [N/A], [Not Supported] or [Unknown Error] for what it cannot tell."""
    return None if not text or text.startswith("[") or text.upper() in ("N/A", "ERR!") else text


def _gib(text: Optional[str]) -> Optional[float]:
    found = re.match(r"^\d{1,9}(\.\d+)?$", text or "")
    return round(float(found.group(0)) / MIB_PER_GIB, 2) if found else None


def _switch(text: Optional[str]) -> Optional[bool]:
    return {"enabled": True, "disabled": False, "on": True, "off": False, "yes": True, "no": False}.get(
        (text or "").lower()
    )


def _processes(apps: str, uuid: str) -> Optional[tuple]:
    held = []
    for line in apps.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) >= 4 and uuid and values[0] == uuid:
            program = re.split(r"[\\/]", ",".join(values[2:-1]))[-1]
            size = _gib(values[-1])
            held.append(f"{program} (pid {values[1]}" + (f", {size:g} GiB)" if size is not None else ")"))
    return tuple(held) or None


def _failed(answer: Output) -> Dict[str, Any]:
    words = "nvidia-smi did not answer within %.0f s" % SMI_SECONDS if answer.hung else answer.text.strip()[:500]
    return {"nvidia_smi": words or f"nvidia-smi ended with status {answer.code}"}


def _cuda_of_driver(run: Runner, program: str) -> Dict[str, Any]:
    """The highest CUDA version of the driver: from libcuda, which needs no card for this, else from nvidia-smi's
    heading.
    """
    number = ctypes.c_int(0)
    library = _load("libcuda.so.1", "nvcuda.dll")
    if library is not None and library.cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value:
        return {"driver_cuda": "%d.%d" % (number.value // 1000, number.value % 1000 // 10)}
    found = re.search(r"CUDA Version\s*:\s*(\d+\.\d+)", run([program], SMI_SECONDS).text)
    return {"driver_cuda": found.group(1)} if found else {}


def _load(linux: str, windows: str) -> Optional[Any]:
    try:
        return ctypes.CDLL(windows if sys.platform == "win32" else linux)
    except OSError:
        return None


def _without_nvidia_smi(run: Runner) -> Dict[str, Any]:
    """No nvidia-smi: the management library may still be there (some containers); else look who sits on the bus."""
    found = _from_nvml() or _from_pci() or (_from_windows(run) if sys.platform == "win32" else {})
    if any(gpu.vendor == "nvidia" for gpu in found.get("gpu") or ()) and not found.get("driver"):
        found["nvidia_smi"] = "nvidia-smi: command not found"
    return found


def _from_nvml() -> Dict[str, Any]:
    """Name, compute capability and memory of each card through NVIDIA's management library; {} where it does not
    load.
    """
    library = _load("libnvidia-ml.so.1", "nvml.dll")
    if library is None or library.nvmlInit_v2() != 0:
        return {}
    try:
        text, count, cards = ctypes.create_string_buffer(96), ctypes.c_uint(0), []
        driver = text.value.decode() if library.nvmlSystemGetDriverVersion(text, 96) == 0 else None
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        for index in range(min(count.value, 64)):
            card = _nvml_card(library, index)
            if card:
                cards.append(card)
        return {"gpu": tuple(cards), **({"driver": driver} if driver else {})}
    finally:
        library.nvmlShutdown()


def _nvml_card(library: Any, index: int) -> Optional[Gpu]:
    handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
        return None
    name = text.value.decode("utf-8", "replace") if library.nvmlDeviceGetName(handle, text, 96) == 0 else None
    major, minor = ctypes.c_int(), ctypes.c_int()
    known = library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)) == 0
    sizes = (ctypes.c_ulonglong * 3)()  # total, free, used in bytes
    sized = library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(sizes)) == 0
    return Gpu(
        name=name,
        index=index,
        compute_capability=f"{major.value}.{minor.value}" if known else None,
        vram_gib=round(sizes[0] / 2**30, 2) if sized else None,
        vram_free_gib=round(sizes[1] / 2**30, 2) if sized else None,
    )


def _from_pci() -> Dict[str, Any]:
    """Display controllers on the PCI bus of a Linux machine, by vendor; {} where the bus cannot be read."""
    if not PCI_DEVICES.is_dir():
        return {}
    cards: List[Gpu] = []
    for device in sorted(PCI_DEVICES.iterdir()):
        try:
            kind, vendor, model = (
                (device / name).read_text(encoding="utf-8").strip() for name in ("class", "vendor", "device")
            )
        except OSError:
            continue
        if kind.startswith("0x03") and vendor in PCI_VENDORS and device.name != INTEL_INSIDE:
            cards.append(Gpu(name=f"{PCI_VENDORS[vendor]} card (PCI {vendor[2:]}:{model[2:]})"))
    return {"gpu": tuple([gpu for gpu in cards if gpu.vendor == "nvidia"] or cards)}


def _from_windows(run: Runner) -> Dict[str, Any]:
    ask = "Get-CimInstance Win32_VideoController | ForEach-Object Name"
    answer = run(["powershell", "-NoProfile", "-Command", ask], SMI_SECONDS)
    names = [line.strip() for line in answer.text.splitlines() if line.strip()] if answer.ok else []
    good = tuple(Gpu(name=name) for name in names if Gpu(name=name).vendor in ("nvidia", "amd", "intel"))
    return {"gpu": good} if answer.ok else {}
