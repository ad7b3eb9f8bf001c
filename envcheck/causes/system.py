"""Causes: system libraries, compilers, the CUDA toolkit."""

from typing import Tuple

from envcheck import known, wheels
from envcheck.causes._registry import cause
from envcheck.facts import Facts
from envcheck.shell import WHEELS, Shell

GENERAL = "general knowledge of the CUDA and Linux loaders, user reports"
TORCH_PATH_CHARACTERS = 173  # longest name below site-packages: a licence in torch-2.14.1+cu130.dist-info


@cause(
    "cuda-library-shadowed",
    "error",
    "Another CUDA library is loaded than the one torch brings.",
    "LD_LIBRARY_PATH (a CUDA toolkit, a conda lib folder) or a stale nvidia-* wheel comes before torch's own "
    "libraries, and their "
    "versions do not fit each other.",
    "echo $LD_LIBRARY_PATH; python -m pip list | grep nvidia",
    GENERAL,
)
def _(shell: Shell, facts: Facts):
    wheel = "nvidia-nvjitlink" if (facts.torch_build or "12").startswith("13") else "nvidia-nvjitlink-cu12"
    keep = "/usr/lib/wsl/lib" if facts.is_wsl else ""
    return [
        shell.set_env("LD_LIBRARY_PATH", keep) if keep else shell.unset_env("LD_LIBRARY_PATH"),
        "# so that torch's own libraries are found; where the variable is needed, put "
        "site-packages/nvidia/nvjitlink/lib first in it",
        "# if it stays, repair the library itself:",
        shell.install("-U", wheel),
    ]


@cause(
    "cuda-runtime-major-mismatch",
    "error",
    "A compiled package wants the CUDA runtime of another major version than torch brings.",
    "libcudart.so.11, .12 and .13 belong to CUDA 11, 12 and 13. A package built for one cannot load beside a torch "
    "of another.",
    'python -c "import torch; print(torch.version.cuda)"',
    GENERAL,
)
def _(shell: Shell, facts: Facts):
    build = facts.torch_build
    major = build.split(".")[0] if build not in (None, "cpu", "rocm") else ""
    words = (
        f"CUDA {major} (cu{major}x wheels)" if major else "torch's CUDA (for example cu12 wheels beside a cu128 torch)"
    )
    return [
        f"# install the build of that package for {words}; flash-attn: the wheel or a build from source for this "
        "torch:",
        shell.pip("uninstall -y flash-attn"),
        shell.pip("install flash-attn --no-build-isolation --no-cache-dir"),
        "# bitsandbytes, xformers, vllm: reinstall the release made for this torch; or move torch to the CUDA "
        "version the package wants:",
        shell.pip(f"install --force-reinstall torch --index-url {WHEELS}cu128") + "  # CUDA 12; CUDA 13: cu130",
    ]


@cause(
    "cuda-toolkit-missing",
    "error",
    "A package is being built from source, but the CUDA compiler is not there.",
    "pip found no wheel and compiles: that needs nvcc of the CUDA version torch was built with, and CUDA_HOME must "
    "name one folder.",
    "nvcc --version; echo $CUDA_HOME",
    "flash-attn and torch.utils.cpp_extension sources",
)
def _(shell: Shell, facts: Facts):
    build = facts.torch_build if facts.torch_build not in (None, "cpu", "rocm") else "12.8"
    lines = [
        "# flash-attn is optional: skip it and use SDPA (attn_implementation='sdpa'), or install a prebuilt wheel "
        "for exactly this",
        "# torch, CUDA and Python from the releases page of the package",
    ]
    if facts.is_windows:
        return [
            *lines,
            f"# else install the CUDA Toolkit {build} (nvcc) and Visual Studio Build Tools, then:",
            shell.set_env("CUDA_HOME", f"C:\\Program Files\\NVIDIA GPU Computing Toolkit\\CUDA\\v{build}"),
            "# or work in WSL2",
        ]
    return [
        *lines,
        f"# else install the CUDA toolkit {build} (nvcc) and name its folder, one folder and no colon:",
        shell.set_env("CUDA_HOME", f"/usr/local/cuda-{build}"),
        shell.set_env("PATH", "$CUDA_HOME/bin:$PATH"),
    ]


@cause(
    "libcuda-not-found",
    "error",
    "The driver's library libcuda.so is not where the loader or linker looks.",
    "The driver installs libcuda.so.1; in WSL2 it lies in /usr/lib/wsl/lib. Without an entry in the loader's cache or "
    "LD_LIBRARY_PATH it is not found.",
    "ldconfig -p | grep libcuda; ls /usr/lib/wsl/lib",
    "NVIDIA CUDA on WSL user guide; Triton sources",
)
def _(shell: Shell, facts: Facts):
    if facts.is_windows:
        return [
            "# on Windows the driver brings nvcuda.dll: install the current NVIDIA driver and restart;",
            "# libcuda.so itself belongs to WSL and Linux; inside WSL: sudo ldconfig, LD_LIBRARY_PATH=/usr/lib/wsl/lib",
        ]
    if facts.is_wsl or not facts.os:
        return [
            shell.set_env("LD_LIBRARY_PATH", "/usr/lib/wsl/lib:$LD_LIBRARY_PATH"),
            "sudo ldconfig",
            "# that is the folder of WSL2; for Triton also:",
            shell.set_env("TRITON_LIBCUDA_PATH", "/usr/lib/wsl/lib"),
        ]
    folder = "/usr/lib/aarch64-linux-gnu" if facts.is_arm else "/usr/lib/x86_64-linux-gnu"
    return [
        "sudo ldconfig",
        shell.set_env("LD_LIBRARY_PATH", f"{folder}:$LD_LIBRARY_PATH"),
        "# on WSL2 the folder is /usr/lib/wsl/lib; for Triton:",
        shell.set_env("TRITON_LIBCUDA_PATH", folder),
        "# in a container the library comes from the host: docker run --gpus all IMAGE",
    ]


@cause(
    "no-c-compiler",
    "error",
    "Triton compiles at run time and finds no C compiler.",
    "torch.compile and Unsloth's kernels build a small C module on first use. triton-windows brings a compiler of "
    "its own for NVIDIA "
    "cards since 3.2.0.post13.",
    "gcc --version",
    "Triton and triton-windows READMEs",
)
def _(shell: Shell, facts: Facts):
    if facts.is_windows:
        intel = any(gpu.vendor == "intel" for gpu in facts.gpu or ())
        newer = (
            []
            if intel
            else [
                "# or for an NVIDIA card: a triton-windows that brings its own compiler",
                shell.install("-U", triton_for(facts)),
            ]
        )
        return [
            "# a C compiler: Visual Studio Build Tools with the C++ workload (MSVC), then a new terminal:",
            'winget install Microsoft.VisualStudio.2022.BuildTools --override "--wait --add '
            "Microsoft.VisualStudio.Workload.VCTools "
            '--includeRecommended"',
            *newer,
        ]
    if facts.is_macos:
        return ["xcode-select --install"]
    return ["# a C compiler (gcc):", shell.apt("build-essential", "gcc"), shell.set_env("CC", "gcc")]


def triton_for(facts: Facts) -> str:
    """The triton requirement that belongs to the installed torch: "triton-windows<3.7" or "triton==3.5.1"."""
    pair = known.pair_of_torch(facts.package("torch")) or {}
    if facts.is_windows:
        minor = (pair.get("triton_windows") or "").replace(".*", "")
        return f"triton-windows=={minor}.*" if minor else "triton-windows"
    return "triton" + (pair.get("triton") or "")


@cause(
    "python-headers-missing",
    "error",
    "The C headers of this Python (Python.h) are missing.",
    "Triton compiles a module against them at run time. Distributions ship them in a package of their own; the "
    "embeddable Windows "
    "Python has none.",
    "python -c \"import sysconfig; print(sysconfig.get_path('include'))\"",
    "Python packaging of Debian and Fedora; triton-windows README",
)
def _(shell: Shell, facts: Facts):
    minor = ".".join((facts.python or "3.x").split(".")[:2])
    if facts.is_windows:
        return [
            "# use a full Python from python.org (or conda, uv) in a venv; the embeddable one has no headers",
            shell.new_venv("3.12"),
            "# or copy the folders include and libs of the same Python version next to the embedded python.exe",
        ]
    if facts.is_macos:
        return ["xcode-select --install", f"brew install python@{minor}"]
    return [
        "# the headers of the Python in use (python3-dev, in Fedora python3-devel):",
        shell.apt(f"python{minor}-dev", "python3-devel"),
        "# a Python without headers (pyenv, uv and conda Pythons bring them): make the environment with another one",
    ]


@cause(
    "system-library-too-old",
    "error",
    "A prebuilt wheel needs a newer system library (glibc or libstdc++) than there is.",
    "Wheels are built on a certain system; older distributions, or an old libstdc++ in a conda environment that "
    "comes first, lack the "
    "symbols (GLIBC_2.32, GLIBCXX_3.4.30, CXXABI_...).",
    "ldd --version; strings /lib/x86_64-linux-gnu/libstdc++.so.6 | grep GLIBCXX | tail -3",
    GENERAL,
)
def _(shell: Shell, facts: Facts):
    if facts.is_windows or facts.is_macos:
        return [
            "# glibc and libstdc++ belong to Linux: this wheel is not for this system; reinstall the package here:",
            shell.pip("install --force-reinstall --no-cache-dir PACKAGE"),
        ]
    return [
        "# GLIBCXX / CXXABI (libstdc++), in a conda environment: conda install -c conda-forge libstdcxx-ng",
        "# GLIBCXX on the system's own Python: a release of that package (bitsandbytes, flash-attn, triton) built "
        "for this system, or",
        shell.apt("libstdc++6", "libstdc++"),
        "# GLIBC: glibc itself cannot be updated: a newer distribution or container (Ubuntu 22.04 or later), or "
        "build the package from "
        "source: pip install --no-binary :all: --no-build-isolation PACKAGE",
    ]


@cause(
    "windows-vc-runtime-missing",
    "error",
    "A DLL that torch for Windows needs is missing (Visual C++ runtime, OpenMP).",
    "WinError 126, 127, 182, 193 or 1114 while loading a DLL of torch: the Visual C++ runtime is missing or old; "
    "torch 2.4.0 in "
    "particular misses libomp140.x86_64.dll.",
    "Get-ItemProperty HKLM:\\SOFTWARE\\Microsoft\\VisualStudio\\14.0\\VC\\Runtimes\\x64",
    "PyTorch issues on fbgemm.dll and c10.dll",
)
def _(shell: Shell, facts: Facts):
    return [
        "# the current Visual C++ Redistributable x64 (vc_redist.x64.exe), then restart:",
        "winget install Microsoft.VCRedist.2015+.x64",
        "# torch 2.4.0 also misses libomp140.x86_64.dll: upgrade torch to 2.4.1 or later",
        wheels.install_command(facts, wheels.choose(facts)),
    ]


@cause(
    "windows-path-too-long",
    "error",
    "The folder lies so deep that torch's files pass the 260 characters of a Windows path.",
    "Without long paths Windows takes 259 characters, and the longest name inside torch has "
    f"{TORCH_PATH_CHARACTERS}. pip then ends in 'No such file or directory', after gigabytes of download.",
    "Get-ItemProperty HKLM:\\SYSTEM\\CurrentControlSet\\Control\\FileSystem -Name LongPathsEnabled",
    "Microsoft: Maximum Path Length Limitation; file names of the torch 2.13 wheel; checked 2026-11-28",
)
def _(shell: Shell, facts: Facts):
    return [
        "# either allow long paths, in a PowerShell that runs as administrator, then open a new terminal:",
        "# New-ItemProperty -Path HKLM:\\SYSTEM\\CurrentControlSet\\Control\\FileSystem -Name LongPathsEnabled "
        "-Value 1 -PropertyType DWORD -Force",
        "# or move the project to a short path such as C:\\kit, or put the environment into one:",
        shell.run("python -m envcheck install --venv C:\\venvs\\kit") if facts.is_windows else "# only on Windows",
    ]


@cause(
    "debug-variables-on",
    "warning",
    "Environment variables for hunting errors are on: every step is slower for nothing.",
    "CUDA_LAUNCH_BLOCKING=1 makes the processor wait for every kernel; PYTORCH_NO_CUDA_MEMORY_CACHING=1 asks the "
    "driver for each tensor's memory. They help to find an error, protect against none, and stay until they are unset.",
    "python -c \"import os; print([name for name in os.environ if name.startswith(('CUDA_', 'PYTORCH_'))])\"",
    "CUDA programming guide and PyTorch documentation, CUDA environment variables, checked 2026-11-21",
)
def _(shell: Shell, facts: Facts):
    names = debugging(facts) or DEBUGGING
    return [
        *map(shell.unset_env, names),
        "# then start the program again: they are read once. If they come back, take them out of the place that sets "
        "them:",
        "# Windows: Settings, System, About, Advanced system settings; else ~/.bashrc, ~/.profile or the script",
    ]


DEBUGGING = ("CUDA_LAUNCH_BLOCKING", "PYTORCH_NO_CUDA_MEMORY_CACHING")


def debugging(facts: Facts) -> Tuple[str, ...]:
    """Those of DEBUGGING that are on."""
    return tuple(name for name in DEBUGGING if (facts.env or {}).get(name, "") not in ("", "0"))
