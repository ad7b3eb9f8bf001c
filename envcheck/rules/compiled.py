"""Rules: compiled packages that must fit torch, CUDA and the card."""

import re
from typing import Iterator, List, Optional, Set

from envcheck import known, versions, wheels
from envcheck.causes import finding
from envcheck.facts import Facts, Finding
from envcheck.rules import companions
from envcheck.rules.cards import visible
from envcheck.rules.system import runs_on_cpu

ROCM_TARGETS_WITHOUT_KERNELS = (
    r"gfx(?:8\d\d|90[06]|1010|1012)|\bmi(?:25|50|60)\b|vega|rx\s?5[0-9]00|rx\s?[45]\d0\b|radeon vii"
)
STABLE_ABI = "0.0.34"  # xformers from here on loads beside later torch releases of the same CUDA major version


def cuda_build(facts: Facts) -> Optional[str]:
    """CUDA version of torch, None for CPU, ROCm and unknown builds."""
    return facts.torch_build if facts.torch_build not in (None, "cpu", "rocm") else None


def _minor(text: Optional[str]) -> Optional[str]:
    return versions.minor_of(text)


def xformers_on_blackwell(facts: Facts) -> Iterator[Finding]:
    cards = [card for card in map(wheels.capability, visible(facts)) if card and card >= (10, 0)]
    if cards and facts.fits("xformers", "<=0.0.32.post2"):
        yield finding(
            "xformers-fa3-on-blackwell",
            facts,
            details=[("GPU", "sm_%d%d" % max(cards)), ("xformers", facts.shown_version("xformers"))],
        )


def xformers_build(facts: Facts) -> Iterator[Finding]:
    """What xformers says it was built for, else what its release pins, against torch and Python."""
    torch, build = facts.package("torch"), facts.torch_build
    built = (facts.built_for or {}).get("xformers", {})
    made_for = str(built.get("torch") or "") or None
    if torch is None or build in ("cpu", "rocm"):
        return
    details = [
        ("xformers", facts.shown_version("xformers")),
        ("built for", made_for or "unknown"),
        ("PyTorch", f"{torch}, CUDA {build or 'unknown'}"),
    ]
    stable = facts.fits("xformers", ">=" + STABLE_ABI) or versions.at_least(made_for, "2.10")
    if made_for:
        same = versions.same_release(made_for, torch)
        local = re.match(r"cu(\d\d)(\d)", getattr(versions.parse(made_for), "local", ""))
        other_cuda = bool(local and build and local.group(1) != build.split(".")[0])
        late_enough = stable and versions.at_least(torch, made_for.split("+")[0])
        if other_cuda or not (same or late_enough):
            yield finding("xformers-built-for-other-torch", facts, details=details)
        elif (
            not stable and built.get("python") and facts.python and _minor(str(built["python"])) != _minor(facts.python)
        ):
            yield finding("xformers-built-for-other-torch", facts, "xformers was compiled for another Python.", details)
        return
    row = next((row for row in known.package_rows("xformers") if row["version"] == facts.package("xformers")), None)
    if row and versions.matches(torch, row["torch"]) is False and not (stable and versions.at_least(torch, "2.10")):
        yield finding("xformers-built-for-other-torch", facts, details=[*details, ("needs", "torch" + row["torch"])])


def cuda_build_on_rocm(facts: Facts) -> Iterator[Finding]:
    if facts.torch_build != "rocm":
        return
    names: List[str] = [name for name in ("flash-attn", "xformers") if name in (facts.installing or {})]
    names += [
        name
        for name, item in (facts.built_for or {}).items()
        if re.search(r"\+cu\d|cuda", str(item).lower()) and name != "bitsandbytes"
    ]
    names += [name for name, version in (facts.packages or {}).items() if re.search(r"\+cu\d", version or "")]
    if names:
        yield finding(
            "cuda-package-on-rocm",
            facts,
            details=[("package", ", ".join(dict.fromkeys(names))), ("PyTorch", facts.shown_version("torch"))],
        )


def flash_attn_build(facts: Facts) -> Iterator[Finding]:
    """The tags inside a flash-attn version (torch2.2, cxx11abiTRUE, cu12, cp312) against what is here."""
    version, torch = (facts.package("flash-attn") or ""), facts.package("torch")
    built = str((facts.built_for or {}).get("flash-attn", {}).get("torch") or "")
    tagged = re.search(r"torch(\d+\.\d+)", version)
    wanted = tagged.group(1) if tagged else _minor(built)
    details = [
        ("flash-attn", version + (f", built for torch {built}" if built else "")),
        ("PyTorch", torch or "unknown"),
    ]
    abi = re.search(r"cxx11abi(true|false)", version.lower())
    wrong_abi = (
        abi
        and torch
        and (
            (abi.group(1) == "true" and versions.below(torch, "2.6"))
            or (abi.group(1) == "false" and versions.at_least(torch, "2.7"))
        )
    )
    python = re.search(r"cp(3)(\d+)", version)
    wrong_python = python and facts.python and _minor(facts.python) != f"{python.group(1)}.{python.group(2)}"
    if (wanted and torch and _minor(torch) != wanted) or wrong_abi or wrong_python:
        yield finding("flash-attn-abi-mismatch", facts, details=details)
        return
    cuda, build = re.search(r"cu(\d\d)", version), cuda_build(facts)
    if cuda and build and cuda.group(1) != build.split(".")[0]:
        yield finding(
            "cuda-runtime-major-mismatch", facts, "flash-attn was built for another CUDA major version.", details
        )


def flash_attn_on_blackwell(facts: Facts) -> Iterator[Finding]:
    """flash-attn before 2.7.3 has no kernels for sm_100 and sm_120. From there on it depends on the toolkit of the
    build, and the reports differ, so the smoke test decides. Only those who use it (unsloth does by itself) fail.
    """
    cards = [card for card in map(wheels.capability, visible(facts)) if card and card >= (10, 0)]
    version = facts.package("flash-attn")
    tested = ((facts.smoke or {}).get("flash-attn") or {}).get("verdict") == "ok"
    if not cards or tested or facts.fits("flash-attn", ">=2.0") is not True:
        return
    details = [("GPU", "sm_%d%d" % max(cards)), ("flash-attn", facts.shown_version("flash-attn"))]
    asked = "flash" in str(facts.run("attn_implementation", "attention") or "").lower()
    row = known.row_for("flash-attn", version)
    if facts.fits("flash-attn", "<2.7.3"):
        used = asked or facts.installed("unsloth") is True
        yield finding(
            "attention-kernel-unsupported",
            facts,
            "flash-attn before 2.7.3 has no kernels for this generation of cards (sm_100, sm_120).",
            details,
            severity="error" if used else "warning",
        )
    elif row and row["blackwell"] == "by build":
        yield finding(
            "attention-kernel-unsupported",
            facts,
            "This flash-attn has kernels for the card only if it was built with CUDA 12.8 or newer; reports differ.",
            details,
            severity="note",
        )


def attention_kernel(facts: Facts) -> Iterator[Finding]:
    asked = str(facts.run("attn_implementation", "attention") or "").lower().replace("-", "_")
    cards = sorted(card for card in map(wheels.capability, visible(facts)) if card)
    details = [("attention", asked), ("GPU", "sm_%d%d" % cards[0] if cards else "none")]
    if "flash" in asked and cards and cards[0] < (8, 0):
        yield finding(
            "attention-kernel-unsupported",
            facts,
            "FlashAttention 2 needs compute capability 8.0 (Ampere) or newer.",
            details,
        )
    elif re.search(r"flash_?(attention|attn)_?3|fa3", asked) and cards and not set(cards) & flash_attn_3_targets():
        yield finding(
            "attention-kernel-unsupported",
            facts,
            "FlashAttention 3 is compiled for 8.0 and 9.0 (A100, H100) only.",
            details,
        )
    elif "flash" in asked and facts.gpu == ():
        yield finding("attention-kernel-unsupported", facts, "FlashAttention needs a GPU.", details)


def flash_attn_3_targets() -> Set[Optional[known.Capability]]:
    """Compute capabilities that any release of it was compiled for."""
    return {known.parse_capability(item) for row in known.package_rows("flash-attn-3") for item in row["targets"]}


def bitsandbytes_library(facts: Facts) -> Iterator[Finding]:
    """Is there a native library for torch's CUDA version and this system? Below 0.50 it must match exactly."""
    build = cuda_build(facts)
    details = [("bitsandbytes", facts.shown_version("bitsandbytes")), ("PyTorch", f"CUDA {build or 'unknown'}")]
    if facts.is_windows and facts.fits("bitsandbytes", "<0.43"):
        yield finding("bnb-missing-cuda-binary", facts, "bitsandbytes before 0.43 has no library for Windows.", details)
        return
    shipped = str((facts.built_for or {}).get("bitsandbytes", {}).get("cuda") or "").split()
    if build is None or (facts.env or {}).get("BNB_CUDA_VERSION"):
        return
    if shipped:
        wanted = build.replace(".", "")
        falls_back = facts.fits("bitsandbytes", ">=0.50") and any(item[:2] == wanted[:2] for item in shipped)
        lacking = wanted not in shipped and not falls_back
    else:
        lacking = bool(facts.fits("bitsandbytes", "<" + _first_with(build)))
    if lacking:
        yield finding("bnb-missing-cuda-binary", facts, details=details)


def _first_with(build: str) -> str:
    """First bitsandbytes release with a library for this CUDA version; "0" where every release in use has one."""
    for row in known.package_rows("bitsandbytes"):
        if re.search(rf"(?<![\d.]){re.escape(build)}\.", row["cuda"]) or (
            versions.at_least(row["version"], "0.50") and re.search(rf"(?<![\d.]){build.split('.')[0]}\.", row["cuda"])
        ):
            return "0" if row["version"] in ("0.44.1", "0.45.0") else str(row["version"])
    return "0"


def bitsandbytes_kernels(facts: Facts) -> Iterator[Finding]:
    """Cards older (or newer) than the targets of the installed build; AMD cards without one."""
    names = " ".join(gpu.name or "" for gpu in facts.gpu or ()).lower()
    details = [
        ("GPU", "; ".join(gpu.name or "?" for gpu in facts.gpu or ())),
        ("bitsandbytes", facts.shown_version("bitsandbytes")),
    ]
    amd = facts.torch_build == "rocm" or any(gpu.vendor == "amd" for gpu in facts.gpu or ())
    needed = facts.installed("bitsandbytes") or facts.run("load_in_4bit") or facts.run("load_in_8bit")
    if amd and needed:
        if re.search(ROCM_TARGETS_WITHOUT_KERNELS, names) or facts.fits("bitsandbytes", "<0.48"):
            yield finding("bnb-no-kernels-for-gpu", facts, "bitsandbytes has no kernels for this AMD target.", details)
        return
    cards = sorted(card for card in map(wheels.capability, visible(facts)) if card)
    if not cards or facts.installed("bitsandbytes") is not True:
        return
    if cards[0] < bitsandbytes_floor(facts) or (cards[0] < (7, 5) and facts.run("load_in_8bit")):
        yield finding("bnb-no-kernels-for-gpu", facts, details=details)
    elif cards[-1] >= (10, 0) and facts.fits("bitsandbytes", "<0.45.3"):
        yield finding(
            "bnb-no-kernels-for-gpu", facts, "bitsandbytes has kernels for this generation from 0.45.3 on.", details
        )


def bitsandbytes_floor(facts: Facts) -> known.Capability:
    """Least compute capability of the build (known/packages.json); the oldest one where the version is not known."""
    build = cuda_build(facts) or "12.6"
    if versions.at_least(build, "13.0"):
        return (7, 5)
    if versions.at_least(build, "12.8"):
        return (7, 5) if facts.fits("bitsandbytes", "==0.46.*") else (7, 0)
    return (6, 0) if facts.fits("bitsandbytes", ">=0.48") else (5, 0)


def triton_missing(facts: Facts) -> Iterator[Finding]:
    if (
        facts.installed("triton") is not False
        or facts.installed("torch") is False
        or facts.is_macos
        or runs_on_cpu(facts)
    ):
        return
    others = (
        "triton-windows",
        "triton-xpu",
        "pytorch-triton-xpu",
        "pytorch-triton-rocm",
        "triton-rocm",
        "pytorch-triton",
    )
    if not any(facts.installed(name) for name in others):
        yield finding("triton-missing", facts)


def triton_version(facts: Facts) -> Iterator[Finding]:
    """Plain triton on Windows, or another minor version than the one of this torch."""
    plain, windows = facts.package("triton"), facts.package("triton-windows")
    if facts.is_windows and plain and not windows:
        yield finding(
            "triton-torch-mismatch",
            facts,
            "Plain triton does not work on Windows; the package there is triton-windows.",
            [("triton", plain)],
        )
        return
    name, here = ("triton-windows", windows) if facts.is_windows and windows else ("triton", plain)
    pair = known.pair_of_torch(facts.package("torch"))
    wanted = re.search(r"\d+\.\d+", pair["triton"] or "") if pair else None
    if here and wanted and _minor(here) != wanted.group(0) and not runs_on_cpu(facts) and facts.torch_build != "rocm":
        yield finding(
            "triton-torch-mismatch",
            facts,
            details=[(name, here), ("PyTorch", f"{facts.package('torch')} wants triton {wanted.group(0)}")],
        )


def torchao_version(facts: Facts) -> Iterator[Finding]:
    torch = facts.package("torch")
    details = [
        ("torchao", facts.shown_version("torchao")),
        ("peft", facts.shown_version("peft")),
        ("PyTorch", torch or "unknown"),
    ]
    if facts.fits("peft", ">=0.18.1") and facts.fits("torchao", "<0.16"):
        yield finding("torchao-incompatible", facts, "This peft refuses torchao below 0.16.", details)
        return
    row = known.row_for("torchao", facts.package("torchao"))
    wanted = re.search(r"\d+\.\d+", row["torch"]) if row else None
    if not wanted or torch is None:
        return
    open_ended = row["torch"].startswith(">=") if row else False
    fits = versions.at_least(torch, wanted.group(0)) if open_ended else _minor(torch) == wanted.group(0)
    if not fits and runs_on_cpu(facts) is False:
        yield finding(
            "torchao-incompatible",
            facts,
            "torchao skips its compiled parts: it was made for another torch. Training works without them.",
            details,
            severity="warning",
        )


def vllm_release(facts: Facts) -> Iterator[Finding]:
    """vLLM against torch (known/models.json, its later rows unsure, hence a warning) and against the card."""
    row = next((row for row in known.table("models")["vllm"] if row["vllm"] == _minor(facts.package("vllm"))), None)
    torch = _minor(facts.package("torch"))
    if row and torch and torch not in row["torch"]:
        yield finding(
            "vllm-version-mismatch",
            facts,
            details=[
                ("vllm", facts.shown_version("vllm")),
                ("PyTorch", str(facts.package("torch"))),
                ("made for", "torch " + " or ".join(row["torch"])),
            ],
            severity="warning",
        )


def too_old_for_library(facts: Facts) -> Iterator[Finding]:
    """vLLM needs 7.0; FP8 weights 8.9, MXFP4 in vLLM 8.0, NVFP4 10.0."""
    cards = sorted(card for card in map(wheels.capability, visible(facts)) if card)
    if not cards:
        return
    model, best = (facts.model or "").lower(), cards[-1]
    line = [("GPU", "sm_%d%d" % best), ("model", facts.model or "unknown")]
    vllm = facts.installed("vllm") or facts.run("fast_inference")
    if vllm and best < (7, 0) and facts.run("fast_inference") is not False:
        yield finding("gpu-too-old-for-feature", facts, "vLLM needs compute capability 7.0 or newer.", line)
    elif re.search(r"\bfp8\b|[-_ ]fp8", model) and best < (8, 9):
        yield finding("gpu-too-old-for-feature", facts, "FP8 weights need compute capability 8.9 (Ada) or newer.", line)
    elif "nvfp4" in model and best < (10, 0):
        yield finding("gpu-too-old-for-feature", facts, "NVFP4 weights need a Blackwell card.", line)
    elif re.search(r"mxfp4|gpt-?oss", model) and vllm and best < (8, 0):
        yield finding("gpu-too-old-for-feature", facts, "MXFP4 weights in vLLM need a newer card.", line)


def numpy_abi(facts: Facts) -> Iterator[Finding]:
    if facts.fits("numpy", ">=2") and facts.fits("torch", "<2.3"):
        yield finding(
            "numpy-abi-mismatch",
            facts,
            details=[("numpy", facts.shown_version("numpy")), ("PyTorch", facts.shown_version("torch"))],
        )


RULES = (
    cuda_build_on_rocm,
    *companions.RULES,
    xformers_on_blackwell,
    xformers_build,
    flash_attn_build,
    flash_attn_on_blackwell,
    too_old_for_library,
    attention_kernel,
    bitsandbytes_kernels,
    bitsandbytes_library,
    triton_missing,
    triton_version,
    vllm_release,
    torchao_version,
    numpy_abi,
)
