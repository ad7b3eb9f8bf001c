"""Causes that are not a broken machine: what envcheck itself could not do, and what an installation lacks."""

from typing import List

from envcheck.causes._registry import cause
from envcheck.facts import Facts
from envcheck.shell import WHEELS, Shell

OWN = "envcheck"


@cause(
    "torch-missing",
    "error",
    "PyTorch is not installed in this Python environment.",
    "Nothing can train without it. envcheck knows which build fits the card and the driver.",
    'python -c "import torch"',
    OWN,
)
def _(shell: Shell, facts: Facts):
    return [shell.run("python -m envcheck install --dry-run"), shell.run("python -m envcheck install")]


@cause(
    "gpu-not-nvidia",
    "note",
    "The kit does not use this GPU: it trains, answers and merges on the CPU.",
    "Its kernels (bitsandbytes, Triton, Unsloth) are meant for NVIDIA cards. What nobody has tried could come out "
    "wrong in silence, so an AMD, Intel or Apple GPU is left alone, also where a build of torch for it (ROCm, XPU, "
    "MPS) is installed.",
    'python -c "import torch; print(torch.__version__, torch.version.hip)"',
    "the kit's own tests; PyTorch, Unsloth and bitsandbytes READMEs",
)
def _(shell: Shell, facts: Facts):
    return [
        "# train here: --preset cpu; the built-in model takes seconds, one of 0.6B weights an evening; --plan says "
        "what fits into main memory",
        "# answer with this GPU: kit merge RUN -o FOLDER --to gguf, then llama.cpp or Ollama, which do use it",
        *_torch_for(facts),
    ]


def _torch_for(facts: Facts) -> List[str]:
    """Comments: other programs can train on these GPUs."""
    vendors = {gpu.vendor for gpu in facts.gpu or ()}
    builds = [("amd", "rocm6.4", "ROCm"), ("intel", "xpu", "XPU")]
    return [
        f"# other programs may train on it with the {kind} build of torch, from {WHEELS}{index}"
        for vendor, index, kind in builds
        if vendor in vendors and not (vendor == "amd" and facts.is_windows)
    ]


@cause(
    "rule-crashed",
    "warning",
    "A check of envcheck failed by itself; the other checks ran.",
    "This is a defect of envcheck, not of the machine: what the check looks at is unknown.",
    "python -m envcheck --save machine.json",
    OWN,
)
def _(shell: Shell, facts: Facts):
    return [
        "# save the machine (no names, no tokens in it) and attach it to a bug report:",
        shell.run("python -m envcheck --save machine.json"),
    ]


@cause(
    "text-not-recognised",
    "note",
    "No known cause was found in this text.",
    "The table of error texts has nothing for it; the cause may still be in the machine's facts.",
    "python -m envcheck",
    OWN,
)
def _(shell: Shell, facts: Facts):
    return [
        "# check the machine itself:",
        shell.run("python -m envcheck"),
        "# or give a longer part of the text, from the first line of the traceback on",
    ]


@cause(
    "smoke-test-failed",
    "error",
    "A small test on this machine failed.",
    "The versions agree on paper, but the operation itself does not work here.",
    "python -m envcheck",
    OWN,
)
def _(shell: Shell, facts: Facts):
    return ["# explain the whole message of the failing test:", shell.run("python -m envcheck --log error.txt")]


@cause(
    "smoke-test-hung",
    "error",
    "A small test did not end within its time limit.",
    "A driver in a bad state, a card that other programs keep busy, or a compiler that waits.",
    "nvidia-smi",
    OWN,
)
def _(shell: Shell, facts: Facts):
    return [
        "# close programs that use the card (nvidia-smi lists them), reboot if the test still hangs, then:",
        shell.run("python -m envcheck"),
    ]


@cause(
    "package-metadata-broken",
    "warning",
    "The records of an installed package are damaged or are there twice.",
    "pip was interrupted or two tools installed into one environment: versions read from there may be wrong.",
    "python -m pip check",
    OWN,
)
def _(shell: Shell, facts: Facts):
    names = " ".join(facts.broken_packages or ()) or "PACKAGE"
    return [shell.pip(f"install --force-reinstall --no-deps {names}")]


@cause(
    "install-python-too-old",
    "error",
    "The kit needs Python 3.11 or newer; this one is older.",
    "envcheck itself runs on 3.8, but the training stack has no wheels for Pythons that old.",
    "python --version",
    "requires-python of this project",
)
def _(shell: Shell, facts: Facts):
    return [shell.new_venv("3.12"), shell.run("python -m envcheck install --venv .venv")]


@cause(
    "install-no-venv-module",
    "error",
    "This Python cannot make a virtual environment.",
    "Debian and Ubuntu ship the venv module and its pip in a package of their own.",
    "python3 -m venv --help",
    "Python packaging guide",
)
def _(shell: Shell, facts: Facts):
    minor = ".".join((facts.python or "3").split(".")[:2])
    if facts.is_windows:
        return [
            "# install Python 3.12 from https://www.python.org (with pip); the embeddable package cannot make "
            "environments",
            "py -3.12 -m envcheck install",
        ]
    if facts.is_macos:
        return ["brew install python@3.12", "python3.12 -m envcheck install"]
    return [shell.apt(f"python{minor}-venv", "python3"), "python3 -m envcheck install"]


@cause(
    "install-network",
    "error",
    "The package index could not be reached.",
    "No network, a proxy that pip does not know, or a firewall. What is installed so far stays and is not fetched "
    "again.",
    "python -m pip download --no-deps six -d .",
    "pip documentation",
)
def _(shell: Shell, facts: Facts):
    return [
        "# behind a proxy, with its address:",
        shell.set_env("HTTPS_PROXY", "http://PROXY:PORT"),
        "# then the same command again, it goes on where it stopped:",
        shell.run("python -m envcheck install"),
    ]


@cause(
    "install-disk-full",
    "error",
    "The disk is full: the packages do not fit.",
    "The GPU set needs about 12 GiB with pip's cache, the CPU set about 3 GiB.",
    "df -h .",
    OWN,
)
def _(shell: Shell, facts: Facts):
    return [
        shell.pip("cache purge"),
        "# or put the environment on a larger disk:",
        shell.run("python -m envcheck install --venv DIR"),
    ]


@cause(
    "install-no-such-version",
    "error",
    "pip found no wheel of a pinned package for this Python and system.",
    "Wrong Python version or platform (32 bit, musl, an old macOS), or an index that lacks the file.",
    "python -m pip debug --verbose",
    "pip documentation",
)
def _(shell: Shell, facts: Facts):
    return [
        shell.new_venv("3.12"),
        "# a 64-bit CPython 3.11 to 3.13 has every wheel; then:",
        "python -m envcheck install --venv .venv",
    ]


@cause(
    "install-cuda-build-on-cpu",
    "error",
    "A CUDA build of torch came where the CPU build was asked for.",
    "The extra index was not reachable and pip took the default build of the package index: several GB that do "
    "nothing here.",
    'python -c "import torch; print(torch.__version__, torch.version.cuda)"',
    "known/torch.json",
)
def _(shell: Shell, facts: Facts):
    return [shell.pip("install --force-reinstall -r requirements-cpu.txt")]


@cause(
    "install-step-failed",
    "error",
    "A step of the installation failed.",
    "The last lines of its output are shown; what is installed so far stays.",
    "python -m envcheck install --dry-run",
    OWN,
)
def _(shell: Shell, facts: Facts):
    return [
        "# the same command again goes on where it stopped; the output of the failing step says why:",
        shell.run("python -m envcheck install"),
    ]
