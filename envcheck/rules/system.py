"""Rules: system libraries, compilers, the CUDA toolkit."""

import re
from typing import Iterator

from envcheck import versions
from envcheck.causes import finding
from envcheck.causes.system import TORCH_PATH_CHARACTERS, debugging
from envcheck.facts import Facts, Finding
from envcheck.rules.cards import wants_gpu

BUILT_FROM_SOURCE = (
    "flash-attn",
    "flash-attn-3",
    "apex",
    "mamba-ssm",
    "causal-conv1d",
    "auto-gptq",
    "xformers",
    "deepspeed",
    "vllm",
    "grouped-gemm",
    "transformer-engine",
    "ring-flash-attn",
    "bitsandbytes",
)
MOST_PATH_CHARACTERS = 259  # of a Windows path, where long ones are not allowed
COMPILER_INSIDE = ">=3.2.0.post13"  # triton-windows from here on brings a compiler for NVIDIA cards (its README)


def runs_on_cpu(facts: Facts) -> bool:
    """No GPU kernels will be compiled: nothing here is missing then."""
    return wants_gpu(facts) is False or facts.gpu == () or (facts.torch_build == "cpu" and not facts.gpu)


def c_compiler(facts: Facts) -> Iterator[Finding]:
    if facts.c_compiler is not False or runs_on_cpu(facts) or facts.is_macos:
        return
    nvidia = all(gpu.vendor == "nvidia" for gpu in facts.gpu or ())
    if facts.is_windows and nvidia and facts.fits("triton-windows", COMPILER_INSIDE):
        return
    yield finding("no-c-compiler", facts)


def headers(facts: Facts) -> Iterator[Finding]:
    if facts.python_headers is False and not runs_on_cpu(facts) and not facts.is_macos:
        yield finding("python-headers-missing", facts, details=[("Python", facts.python or "unknown")])


def toolkit(facts: Facts) -> Iterator[Finding]:
    """nvcc and CUDA_HOME matter only when something is built from source."""
    home = (facts.env or {}).get("CUDA_HOME", "")
    building = [name for name in facts.installing or {} if name in BUILT_FROM_SOURCE]
    if facts.torch_build == "rocm":
        return
    if home and not facts.is_windows and (":" in home or re.search(r"\s", home.strip())):
        yield finding(
            "cuda-toolkit-missing", facts, "CUDA_HOME must name one folder; this value is none.", [("CUDA_HOME", home)]
        )
    elif building and facts.nvcc is False:
        yield finding(
            "cuda-toolkit-missing", facts, details=[("being built", ", ".join(building)), ("nvcc", "not found")]
        )


def shadowed_libraries(facts: Facts) -> Iterator[Finding]:
    """A CUDA toolkit of another version in LD_LIBRARY_PATH, or a stale nvJitLink wheel."""
    build = facts.torch_build
    if build in (None, "cpu", "rocm") and not (facts.env or {}).get("LD_LIBRARY_PATH"):
        return
    for name in ("nvidia-nvjitlink-cu12", "nvidia-nvjitlink-cu11", "nvidia-nvjitlink"):
        if build not in (None, "cpu", "rocm") and facts.fits(name, f"<{build}"):
            yield finding(
                "cuda-library-shadowed",
                facts,
                "The nvJitLink library is older than torch's CUDA.",
                [(name, facts.shown_version(name)), ("PyTorch", f"CUDA {build}")],
            )
            return
    path = (facts.env or {}).get("LD_LIBRARY_PATH", "")
    found = re.search(r"cuda-?(\d+\.\d+)", path)
    toolkit_in_path = found or re.search(r"(?:^|[:/])cuda(?:/|:|$)", path)
    if not toolkit_in_path or wants_gpu(facts) is False or build == "cpu":
        return
    if build in (None, "rocm") or (found and found.group(1) == build):
        return
    yield finding(
        "cuda-library-shadowed",
        facts,
        "LD_LIBRARY_PATH names a CUDA toolkit: its libraries may be loaded instead of torch's own.",
        [("LD_LIBRARY_PATH", path), ("PyTorch", f"CUDA {build}")],
        severity="error" if found and not facts.torch_cuda_available else "warning",
    )


def wsl_loader_path(facts: Facts) -> Iterator[Finding]:
    path = (facts.env or {}).get("LD_LIBRARY_PATH")
    if facts.is_wsl and path and "/wsl/lib" not in path and not facts.torch_cuda_available:
        yield finding(
            "libcuda-not-found",
            facts,
            "LD_LIBRARY_PATH is set without the folder of WSL's driver library.",
            [("LD_LIBRARY_PATH", path)],
            severity="warning",
        )


def old_c_library(facts: Facts) -> Iterator[Finding]:
    """glibc against the wheels: torch from 2.6 on needs 2.28, recent flash-attn wheels 2.32."""
    needs = (("torch", ">=2.6", "2.28"), ("flash-attn", ">=2.7.1", "2.32"), ("vllm", ">=0.9", "2.31"))
    for name, spec, least in needs:
        version = facts.package(name) or (facts.installing or {}).get(name)
        if version and versions.matches(version, spec) and versions.below(facts.glibc, least):
            yield finding(
                "system-library-too-old",
                facts,
                f"The wheels of {name} need glibc {least}; this system has {facts.glibc}.",
                [(name, version), ("glibc", str(facts.glibc))],
            )
            return


def windows_runtime(facts: Facts) -> Iterator[Finding]:
    if facts.is_windows and (facts.package("torch") or "").split("+")[0] == "2.4.0":
        yield finding(
            "windows-vc-runtime-missing",
            facts,
            "torch 2.4.0 for Windows misses a library (libomp140) on most machines.",
            [("PyTorch", facts.shown_version("torch"))],
            severity="warning",
        )


def long_paths(facts: Facts) -> Iterator[Finding]:
    """Where torch is yet to be unpacked: one that is there has fitted."""
    site = facts.site_packages_characters
    if not facts.is_windows or facts.long_paths is not False or facts.installed("torch") or site is None:
        return
    longest = site + 1 + TORCH_PATH_CHARACTERS
    if longest > MOST_PATH_CHARACTERS:
        details = [
            ("site-packages", f"{site} characters"),
            ("torch's longest", f"{longest} of at most {MOST_PATH_CHARACTERS}"),
        ]
        yield finding("windows-path-too-long", facts, details=details)


def runtime_major(facts: Facts) -> Iterator[Finding]:
    """Local tags such as +cu118 beside a torch of another CUDA major version (torchvision has a rule of its own)."""
    build = facts.torch_build
    if build in (None, "cpu", "rocm"):
        return
    for name, version in (facts.packages or {}).items():
        found = re.search(r"(?:^|[+.\-_])cu(\d\d)\d?", (version or "").lower())
        if (
            found
            and name not in ("torch", "torchvision", "xformers", "flash-attn")
            and found.group(1) != build.split(".")[0]
        ):
            yield finding(
                "cuda-runtime-major-mismatch", facts, details=[(name, str(version)), ("PyTorch", f"CUDA {build}")]
            )
            return


def debug_variables(facts: Facts) -> Iterator[Finding]:
    on = debugging(facts)
    if on and not runs_on_cpu(facts):
        values = facts.env or {}
        yield finding("debug-variables-on", facts, details=[(name, values[name]) for name in on])


RULES = (
    c_compiler,
    headers,
    toolkit,
    shadowed_libraries,
    wsl_loader_path,
    runtime_major,
    old_c_library,
    windows_runtime,
    long_paths,
    debug_variables,
)
