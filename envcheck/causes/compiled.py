"""Causes: compiled Python packages that must fit torch, CUDA and the card."""

from envcheck import known, versions, wheels
from envcheck.causes._registry import cause
from envcheck.causes.system import triton_for
from envcheck.facts import Facts
from envcheck.shell import WHEELS, Shell

XFORMERS = "xformers tags and metadata, known/packages.json (checked 2026-11-21)"


def index_of(facts: Facts) -> str:
    """The wheel index of the installed torch, "" where it is unknown."""
    build = facts.torch_build
    variant = build if build == "cpu" else known.variant_of(build)
    return f" --index-url {WHEELS}{variant}" if variant else ""


def xformers_for(facts: Facts) -> str:
    pair = known.pair_of_torch(facts.package("torch")) or {}
    version = (pair.get("xformers") or "").split(" ")[0]
    return f"xformers=={version}" if version else "xformers"


@cause(
    "xformers-fa3-on-blackwell",
    "error",
    "This xformers sends Blackwell cards to FlashAttention-3 kernels made for Hopper only.",
    "xformers 0.0.30 to 0.0.32.post2 picks Flash-3 on every card from 8.0 up; on RTX 50 that ends in 'no kernel "
    "image' or 'invalid "
    "argument'. Fixed in 0.0.33. Torch's own attention (SDPA) needs no xformers.",
    "python -m xformers.info",
    XFORMERS,
)
def _(shell: Shell, facts: Facts):
    lines = [shell.pip("uninstall -y xformers"), "# SDPA of torch takes over; nothing is lost on this card"]
    if not versions.below(facts.package("torch"), "2.9"):
        return [
            *lines,
            "# or upgrade to xformers 0.0.33 or later, built for this torch (2.9 or newer), or build xformers from "
            "source",
        ]
    return [*lines, "# xformers 0.0.33 or later is fixed, but needs torch 2.9 or newer; or build xformers from source"]


@cause(
    "xformers-built-for-other-torch",
    "error",
    "xformers was compiled for another torch version or CUDA variant.",
    "Its compiled extension only loads beside the torch it was built with; otherwise memory-efficient attention is "
    "missing or crashes.",
    "python -m xformers.info",
    XFORMERS,
)
def _(shell: Shell, facts: Facts):
    return [
        shell.pip(f"install --force-reinstall --no-deps {xformers_for(facts)}{index_of(facts)}"),
        "# the xformers of the installed torch, from the same index (--no-deps so that torch stays); or do without, "
        "SDPA takes over:",
        shell.pip("uninstall -y xformers"),
    ]


@cause(
    "cuda-package-on-rocm",
    "error",
    "A package built for CUDA meets a ROCm build of torch.",
    "xformers and flash-attn from the package index are CUDA binaries; on AMD cards they cannot load or be built "
    "that way.",
    'python -c "import torch; print(torch.version.hip)"',
    "ROCm documentation; flash-attn README",
)
def _(shell: Shell, facts: Facts):
    return [
        shell.pip("uninstall -y xformers flash-attn"),
        "# use SDPA on ROCm (attn_implementation='sdpa'), it needs no extra package",
        "# flash-attn on ROCm only in its own variant, built with:",
        shell.set_env("FLASH_ATTENTION_TRITON_AMD_ENABLE", "TRUE"),
    ]


@cause(
    "flash-attn-abi-mismatch",
    "error",
    "The flash-attn binary was built for another torch version or C++ ABI.",
    "An undefined symbol in flash_attn_2_cuda means that the wheel and the installed torch do not belong together: "
    "version, CUDA, "
    "Python and the C++ ABI (cxx11abiTRUE or FALSE) must all agree.",
    'python -c "import torch; print(torch.__version__, torch.version.cuda, torch._C._GLIBCXX_USE_CXX11_ABI)"',
    "flash-attn README",
)
def _(shell: Shell, facts: Facts):
    if facts.is_windows:
        return [
            shell.pip("uninstall -y flash-attn"),
            "# attn_implementation='sdpa' takes over. The package index has no Windows wheel of flash-attn: build it",
            "# (nvcc and MSVC, --no-build-isolation), or take a wheel of exactly this torch, CUDA, Python and ABI",
            "# (cxx11abiTRUE/FALSE) from whom you trust",
        ]
    return [
        shell.pip("uninstall -y flash-attn"),
        shell.pip("install flash-attn --no-build-isolation --no-cache-dir"),
        "# the second line takes the wheel of exactly this torch, CUDA, Python and ABI (cxx11abiTRUE/FALSE), or "
        "builds it from source",
        "# or do without: attn_implementation='sdpa'",
    ]


@cause(
    "attention-kernel-unsupported",
    "error",
    "The chosen attention kernel cannot run on this GPU or with this head size.",
    "FlashAttention 2 needs compute capability 8.0 (Ampere) and 16-bit inputs; xformers wants head sizes divisible "
    "by 8; newer "
    "kernels drop older cards, and flash-attn before 2.7.3 has none for RTX 50 (sm_120).",
    "nvidia-smi --query-gpu=name,compute_cap --format=csv",
    "flash-attn and xformers READMEs; known/packages.json, flash_attn",
)
def _(shell: Shell, facts: Facts):
    return [
        "# in the script: attn_implementation='sdpa' (or 'eager'), and switch flash attention and xformers off in "
        "the config;",
        "# where a library picks them by itself, uninstall them:",
        shell.pip("uninstall -y flash-attn xformers"),
    ]


@cause(
    "bnb-missing-cuda-binary",
    "error",
    "bitsandbytes has no library for this CUDA version or operating system.",
    "It ships one library for each CUDA version of torch. Releases before 0.43 have none for Windows; cu130 needs "
    "0.48, cu132 0.50.",
    "python -m bitsandbytes",
    "bitsandbytes release builds, known/packages.json",
)
def _(shell: Shell, facts: Facts):
    least = bnb_floor(facts.torch_build, facts)
    fallback = {"13": "130", "12": "128", "11": "118"}.get((facts.torch_build or "").split(".")[0], "128")
    return [
        shell.install("-U", f"bitsandbytes>={least}"),
        "# or point it at a library of the same CUDA major version that it ships:",
        shell.set_env("BNB_CUDA_VERSION", fallback),
    ]


def bnb_floor(cuda: object, facts: Facts) -> str:
    """First bitsandbytes with a library for this CUDA version: 0.43 for Windows, 0.48 for 13.0, 0.50 for other 13.x."""
    if isinstance(cuda, str) and cuda.startswith("13"):
        return "0.48.0" if cuda == "13.0" else "0.50.0"
    return {"12.9": "0.47.0", "12.8": "0.45.3"}.get(str(cuda), "0.43.0" if facts.is_windows else "0.45.0")


@cause(
    "bnb-no-kernels-for-gpu",
    "error",
    "bitsandbytes has no usable kernels for this GPU.",
    "Official builds begin at Pascal (6.0), in the CUDA 12.8 and 13 builds at Volta or Turing; AMD cards are covered "
    "only for a few "
    "targets; unofficial Windows builds lack many cards.",
    "python -m bitsandbytes",
    "bitsandbytes build targets, known/packages.json",
)
def _(shell: Shell, facts: Facts):
    amd = any(gpu.vendor == "amd" for gpu in facts.gpu or ()) or facts.torch_build == "rocm"
    if amd:
        return [
            "# build bitsandbytes from source for this target (cmake -DCOMPUTE_BACKEND=hip -DBNB_ROCM_ARCH=gfx...), "
            "or avoid it:",
            "# 16-bit LoRA (load_in_4bit=False) with optim='adamw_torch'",
        ]
    return [
        shell.pip("uninstall -y bitsandbytes bitsandbytes-windows"),
        shell.install("-U", "bitsandbytes>=0.45.5"),
        "# the official release covers this card, or build it for the card from source",
        "# or avoid it: 16-bit LoRA (load_in_4bit=False) with optim='adamw_torch' instead of adamw_8bit",
    ]


@cause(
    "triton-missing",
    "error",
    "There is no Triton in this environment.",
    "Unsloth's kernels and torch.compile are written in Triton. On Linux it comes with torch; on Windows it is a "
    "package of its own.",
    'python -c "import triton; print(triton.__version__)"',
    "Triton and triton-windows READMEs",
)
def _(shell: Shell, facts: Facts):
    if facts.is_windows:
        return [
            shell.install(triton_for(facts)),
            "# in the version that belongs to torch; or work in WSL2, where triton comes with torch",
        ]
    if facts.os:
        return [shell.install(triton_for(facts)), "# on Windows the package is called triton-windows"]
    return [
        shell.install("triton"),
        "# that is for Linux; on Windows: python -m pip install triton-windows, or work in WSL2",
    ]


@cause(
    "triton-torch-mismatch",
    "error",
    "This Triton is not the one that torch expects.",
    "Each torch minor release belongs to one Triton minor release (2.6-3.2, 2.7-3.3, 2.8-3.4, 2.9-3.5, 2.10 and "
    "2.11-3.6, 2.12 and "
    "2.13-3.7, 2.14-3.8). Plain triton has no Windows build; there it is triton-windows.",
    'python -c "import torch, triton; print(torch.__version__, triton.__version__)"',
    "torch metadata, known/torch.json",
)
def _(shell: Shell, facts: Facts):
    wanted = triton_for(facts)
    remove = [shell.pip("uninstall -y triton")] if facts.is_windows else []
    other = (
        "# on Windows the package is triton-windows, in the minor version that matches torch"
        if not facts.os
        else (
            "# the Triton that matches torch; Unsloth must be current too: "
            + shell.install("-U", "unsloth", "unsloth_zoo")
        )
    )
    return [*remove, shell.install("-U", wanted), other]


@cause(
    "torchvision-mismatch",
    "error",
    "torchvision does not belong to this torch.",
    "Each torch release has its torchvision (2.7-0.22, 2.8-0.23, 2.9-0.24, ...), of the same variant (both +cpu or "
    "both +cu128). "
    "Otherwise its compiled operators are missing: 'operator torchvision::nms does not exist'.",
    'python -c "import torch, torchvision; print(torch.__version__, torchvision.__version__)"',
    "torchvision metadata, known/torch.json",
)
def _(shell: Shell, facts: Facts):
    release = known.torch_release(facts.package("torch"))
    torch = str(facts.package("torch") or "").split("+")[0]
    if release and torch and "dev" not in torch:
        exact = wheels.companions(torch if torch.count(".") == 2 else release["torch"])
        return [
            shell.pip(f"install --force-reinstall {' '.join(exact)}{index_of(facts)}"),
            "# torch and torchvision together, from one index",
        ]
    return [
        shell.pip(f"install --force-reinstall torch torchvision --index-url {WHEELS}{wheels.choose(facts).variant}"),
        "# torch and torchvision together, from one index, so that they match",
    ]


@cause(
    "torchaudio-mismatch",
    "error",
    "torchaudio does not belong to this torch.",
    "Up to torch 2.11 each release has its torchaudio of the same number. Another one cannot load its compiled "
    "library. An Unsloth or transformers that moves torch leaves the old torchaudio behind.",
    'python -c "import torch, torchaudio; print(torch.__version__, torchaudio.__version__)"',
    "torchaudio metadata, known/torch.json",
)
def _(shell: Shell, facts: Facts):
    release = known.torch_release(facts.package("torch"))
    version = f"=={release['torchaudio']}" if release and release["torchaudio"] else ""
    return [
        shell.pip(f"install --force-reinstall --no-deps torchaudio{version}{index_of(facts)}"),
        "# the torchaudio of the installed torch, from the same index (--no-deps so that torch stays);",
        "# or remove it, as training on text does not need it: " + shell.pip("uninstall -y torchaudio"),
    ]


@cause(
    "torchao-incompatible",
    "error",
    "torchao is too old for peft, or made for another torch.",
    "peft from 0.18.1 refuses torchao below 0.16. The compiled parts of torchao load only beside the torch they were "
    "built with (0.14 "
    "and 0.15 for 2.9, 0.16 for 2.10, 0.17 for 2.11 and later); otherwise they are skipped with a message, which is "
    "harmless.",
    'python -c "import torch, torchao; print(torch.__version__, torchao.__version__)"',
    "torchao compatibility table; peft sources",
)
def _(shell: Shell, facts: Facts):
    pair = (known.pair_of_torch(facts.package("torch")) or {}).get("torchao")
    old_for_peft = facts.fits("peft", ">=0.18.1") and (not pair or versions.below(pair, "0.16.0"))
    wanted = f"torchao=={pair}" if pair and not old_for_peft else "torchao>=0.16.0"
    return [
        shell.install("-U", wanted),
        "# the torchao of this torch (0.16 for torch 2.10, 0.17 and later for torch 2.11 and newer);",
        "# or, where it is not used, remove it (uninstall torchao): training does not need it",
        shell.pip("uninstall -y torchao"),
    ]


@cause(
    "vllm-version-mismatch",
    "error",
    "This vLLM does not fit the installed torch or Unsloth.",
    "vLLM is compiled for exactly one torch release; Unsloth supports certain vLLM releases only.",
    "python -m pip show vllm torch",
    "vLLM metadata; Unsloth documentation",
)
def _(shell: Shell, facts: Facts):
    fitting = VLLM_OF_TORCH.get(versions.minor_of(facts.package("torch")) or "")
    command = shell.install(f"vllm=={fitting}.*") if fitting else shell.install("-U", "vllm", "unsloth", "unsloth_zoo")
    return [
        "# the vLLM release that matches this torch (it brings the torch it was built for):",
        command,
        "# or upgrade unsloth, or train without vLLM: FastLanguageModel.from_pretrained(..., fast_inference=False)",
    ]


VLLM_OF_TORCH = {"2.5": "0.6", "2.6": "0.8", "2.7": "0.9", "2.8": "0.11", "2.9": "0.12", "2.10": "0.18", "2.11": "0.20"}


@cause(
    "numpy-abi-mismatch",
    "error",
    "A package compiled for NumPy 1 meets NumPy 2.",
    "Modules built against NumPy 1.x cannot be loaded by 2.x. torch itself works with NumPy 2 from 2.3 on.",
    'python -c "import numpy; print(numpy.__version__)"',
    "NumPy 2 migration guide",
)
def _(shell: Shell, facts: Facts):
    return [
        shell.install("numpy<2"),
        "# or a newer release of the compiled package; upgrade torch to 2.3 or newer if that is the one",
    ]
