"""Causes: the card, its driver and the torch build."""

from envcheck import known, wheels
from envcheck.causes._registry import cause
from envcheck.facts import Facts
from envcheck.shell import Shell

ARCH_LIST = 'python -c "import torch; print(torch.__version__, torch.cuda.get_arch_list())"'
TABLE = "PyTorch release matrix and build scripts, known/torch.json (checked 2026-11-21)"


@cause(
    "torch-lacks-gpu-arch",
    "error",
    "The GPU is newer than this PyTorch build: it has no kernels for the card.",
    "PyTorch ships machine code for a fixed list of GPU generations; the CUDA variant (cu126, cu128, ...) decides "
    "the list, not "
    "only the torch version. Code runs on cards of the same major compute capability and an equal or higher minor "
    "one. RTX 50 "
    "cards (sm_120) are in cu128 from torch 2.7 to 2.11, in cu130 from 2.9 and in cu132 from 2.12; never in cu118 to "
    "cu126.",
    ARCH_LIST + "   # the list must hold the card's own major version",
    TABLE,
)
def _(shell: Shell, facts: Facts):
    wheel = wheels.same_torch(facts)
    if wheel.variant == "cu126":  # the table knows no wheel for all cards: the newest generation goes first
        wheel = wheels.Wheel("2.11.0", "cu128", "")
    lines = [wheels.install_command(facts, wheel)]
    if wheel.variant == "cu128":
        lines.append(
            "# cu128 exists for torch 2.7 to 2.11; for a newer torch use cu130 with NVIDIA driver 580 or newer"
        )
    lines.append(
        "# then reinstall what was compiled against the old torch (xformers, flash-attn, torchaudio) or uninstall it"
    )
    return lines


@cause(
    "torch-dropped-gpu-arch",
    "error",
    "The GPU is older than this PyTorch build still serves.",
    "Each CUDA variant drops old generations: Maxwell and Pascal are only in cu118 to cu126, Volta also in cu128 up "
    "to torch "
    "2.10, CUDA 13 builds begin at Turing (7.5). cu126 is the last one with these cards and is published up to torch "
    "2.14.",
    ARCH_LIST + "   # the lowest entry must not be above the card's compute capability",
    TABLE,
)
def _(shell: Shell, facts: Facts):
    return [
        wheels.install_command(facts, wheels.Wheel(wheels.NEWEST_TORCH_OF["cu126"], "cu126", "")),
        "# cu126 is the last CUDA variant with code for this card (published up to torch 2.14); older ones: cu124, "
        "cu121, cu118",
    ]


@cause(
    "torch-cpu-only-build",
    "error",
    "There is an NVIDIA GPU, but the installed torch has no CUDA in it.",
    "pip takes the CPU build by default on Windows and (before torch 2.11) on ARM, and a package that pins torch can "
    "replace a "
    "CUDA build by it without a word. Torch then cannot see any card, whatever the driver.",
    'python -c "import torch; print(torch.__version__, torch.version.cuda)"   # the second must not be None',
    TABLE,
)
def _(shell: Shell, facts: Facts):
    return [
        shell.pip("uninstall -y torch torchvision torchaudio"),
        wheels.install_command(facts, wheels.same_torch(facts)),
        "# install torch from this CUDA index first and the other packages after it, so that none of them replaces it",
    ]


@cause(
    "no-gpu-present",
    "error",
    "There is no GPU in this machine, but the run wants one.",
    "A notebook on a CPU or TPU runtime, or a machine without a supported card. 4-bit loading, fp16 and 8-bit "
    "optimisers need a GPU.",
    "nvidia-smi -L",
    "CUDA programming guide; Unsloth README",
)
def _(shell: Shell, facts: Facts):
    if "kaggle" in (facts.os or "").lower():
        return ["# Kaggle: Settings > Accelerator > GPU T4 x2, then restart the session and run the cells from the top"]
    if "colab" in (facts.os or "").lower():
        return ["# Colab: Runtime > Change runtime type > GPU (T4, L4 or A100), then run the cells from the top"]
    return [
        "# use a machine with an NVIDIA GPU, or switch a notebook's runtime to a GPU (T4, L4, A100)",
        "# to train a very small model on the CPU on purpose: python -m envcheck install --cpu",
    ]


@cause(
    "driver-too-old-for-cuda",
    "error",
    "The NVIDIA driver is too old for the CUDA version torch (or the image) was built with.",
    "A driver runs CUDA up to its own major version: 11.x needs 450, 12.x needs 525 (an RTX 50 card 570), 13.x needs "
    "580. Inside one "
    "major version an older driver is enough. GeForce cards cannot use the forward-compatibility package (error 804).",
    "nvidia-smi   # driver version and the highest CUDA version it can run",
    "NVIDIA CUDA compatibility guide, known/drivers.json",
)
def _(shell: Shell, facts: Facts):
    least = "580" if (facts.torch_build or "").startswith("13") else "570"
    if facts.is_windows or facts.is_wsl:
        update = [
            f"# install NVIDIA driver {least} or newer (driver >= {least}) on Windows from "
            "https://www.nvidia.com/drivers and restart"
        ]
        if facts.is_wsl:
            update.append(
                "# the Windows driver counts: do not install a Linux driver inside WSL; afterwards run in Windows: "
                "wsl --shutdown"
            )
    elif facts.is_container:
        update = [
            f"# on the host, not in the container: update the NVIDIA driver to {least} or newer (driver >= {least}), "
            "then reboot"
        ]
    else:
        system = (facts.os or "").lower()
        kind = "-open" if (wheels.capabilities(facts) or [(7, 5)])[0] >= (7, 5) else ""
        command = f"sudo apt-get install nvidia-driver-{least}{kind}" if "buntu" in system or "mint" in system else ""
        update = [f"# update the NVIDIA driver to {least} or newer (driver >= {least}), then reboot"] + [
            command
        ] * bool(command)
    return [*update, *_older_torch(facts)]


def _older_torch(facts: Facts):
    floor = {"11": "cu118", "12": "cu126"}.get((facts.driver_cuda or "").split(".")[0])
    if floor is None:
        return [
            "# or, where the driver must stay: a torch build or image for an older CUDA (torch from the cu126 or "
            "cu118 index)"
        ]
    release = known.torch_release(facts.package("torch"))
    same = release["torch"] if release and floor in release["variants"] else wheels.NEWEST_TORCH_OF[floor]
    wheel = wheels.Wheel(same, floor, "")
    return ["# or, where the driver must stay, a torch build for an older CUDA:", wheels.install_command(facts, wheel)]


@cause(
    "driver-library-mismatch",
    "error",
    "The NVIDIA driver was updated while the old kernel module is still loaded.",
    "The user-space library and the loaded kernel module are of different versions, usually after an unattended "
    "upgrade.",
    "cat /proc/driver/nvidia/version   # against: nvidia-smi --version",
    "NVIDIA driver message, general knowledge",
)
def _(shell: Shell, facts: Facts):
    if facts.is_container:
        return ["# on the host: reboot (it loads the new kernel module), then start the container again"]
    if facts.is_windows or facts.is_wsl:
        return [
            "# restart Windows (a full restart, not sleep): the new driver is loaded then; in WSL also: wsl --shutdown"
        ]
    return [
        "sudo reboot",
        "# or without a reboot, when nothing uses the card: sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia "
        "&& sudo modprobe nvidia",
        "# against the next surprise: sudo apt-mark hold 'nvidia-*'",
    ]


@cause(
    "driver-not-loaded",
    "error",
    "The NVIDIA driver is not loaded, so no program can reach the card.",
    "nvidia-smi cannot talk to the kernel module: it is not built for this kernel, not installed, or Secure Boot "
    "rejects it "
    "because it is not signed.",
    "lsmod | grep nvidia; sudo dmesg | grep -i nvidia; mokutil --sb-state",
    "NVIDIA driver README, general knowledge",
)
def _(shell: Shell, facts: Facts):
    if facts.is_windows or facts.is_wsl:
        return [
            "# install the current NVIDIA driver on Windows from https://www.nvidia.com/drivers and restart",
            "# in WSL: no Linux driver inside; afterwards run in Windows: wsl --update; wsl --shutdown",
        ]
    if facts.is_container:
        return [
            "# on the host: sudo modprobe nvidia; if that fails install the driver again there and reboot, then "
            "restart the container"
        ]
    sign = [
        "# Secure Boot is on: enrol the signing key of the module and confirm it in the blue screen at the next start,",
        "# or disable Secure Boot in the firmware settings",
        "sudo mokutil --import /var/lib/shim-signed/mok/MOK.der"
        if "buntu" in (facts.os or "").lower()
        else "sudo mokutil --import /var/lib/dkms/mok.pub",
    ]
    plain = [
        "sudo modprobe nvidia",
        "# if that fails: install the driver again for the running kernel (with its headers) and reboot;",
        "# with Secure Boot on, enrol a MOK key (mokutil --import) or disable Secure Boot",
    ]
    return [*sign, "# then install the driver again and reboot"] if facts.secure_boot else plain


@cause(
    "gpu-hardware-fault",
    "error",
    "The card fails as hardware: it falls off the bus or reports an error of its own.",
    "Xid 79 and its kin mean that the driver lost the card: power supply, cable, riser or external dock, PCIe link, "
    "heat, or a defect.",
    "sudo dmesg | grep -i xid",
    "NVIDIA Xid catalogue",
)
def _(shell: Shell, facts: Facts):
    lines = [
        "# reboot; seat the card and its power cable again, without riser, dock or adapter where that can be tried",
        "# set the PCIe generation of the slot one lower (Gen4 or Gen3) in the firmware settings; try another slot, "
        "cable or supply",
    ]
    return [
        *lines,
        "# lower the power limit and test again:",
        shell.run("nvidia-smi -pl 300" if facts.is_windows else "sudo nvidia-smi -pl 300"),
    ]


@cause(
    "container-gpu-access-missing",
    "error",
    "The container cannot see the GPU.",
    "Docker hands GPUs to a container only through the NVIDIA Container Toolkit and only when asked with --gpus.",
    "docker run --rm --gpus all ubuntu nvidia-smi",
    "NVIDIA Container Toolkit installation guide",
)
def _(shell: Shell, facts: Facts):
    if facts.is_windows or facts.is_wsl:
        return [
            "# Docker Desktop: Settings > General > Use the WSL 2 based engine; then start the container with the GPU:",
            "docker run --gpus all IMAGE",
            "# Docker inside WSL without Docker Desktop: install nvidia-container-toolkit there",
        ]
    return [
        "# on the host (NVIDIA's package repository must be set up: its install guide names the two commands):",
        "sudo apt-get install -y nvidia-container-toolkit",
        "sudo nvidia-ctk runtime configure --runtime=docker",
        "sudo systemctl restart docker",
        "# then start the container with the GPU:",
        "docker run --gpus all IMAGE",
    ]


@cause(
    "gpu-too-old-for-feature",
    "error",
    "The card is below what this library or weight format needs.",
    "vLLM needs compute capability 7.0, FP8 arithmetic 8.9 (some kernels 9.0), MXFP4 kernels depend on the release.",
    "nvidia-smi --query-gpu=name,compute_cap --format=csv",
    "vLLM and transformers checks, general knowledge",
)
def _(shell: Shell, facts: Facts):
    return [
        "# FP8 or MXFP4 weights: take another variant of the model: bf16 (dequantised), bnb 4-bit "
        "(load_in_4bit=True) or int4;",
        "# FP8 itself needs an Ada or Hopper card (RTX 40, L4, H100)",
        "# vLLM (compute capability 7.0 or newer): train without it, FastLanguageModel.from_pretrained(..., "
        "fast_inference=False),",
        "# or try a newer vLLM release that covers the card: " + shell.install("-U", "vllm"),
    ]


@cause(
    "mixed-gpu-architectures",
    "warning",
    "GPUs of different generations are visible to one process.",
    "A compiled package that fits one of them fails on the other, and the slower card sets the pace.",
    "nvidia-smi --query-gpu=index,name,compute_cap --format=csv",
    "CUDA programming guide",
)
def _(shell: Shell, facts: Facts):
    best = max(enumerate(facts.gpu or ()), key=lambda pair: wheels.capability(pair[1]) or (0, 0), default=(0, None))[0]
    return [
        "# show the process one GPU only (a single GPU, or only equal ones); the numbers are those of nvidia-smi -L:",
        shell.set_env("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        shell.set_env("CUDA_VISIBLE_DEVICES", str(best)),
    ]
