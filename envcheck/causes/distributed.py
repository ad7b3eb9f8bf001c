"""Causes: choosing among several GPUs, several processes, MIG."""

from envcheck import wheels
from envcheck.causes._registry import cause
from envcheck.facts import Facts
from envcheck.shell import Shell

CUDA_GUIDE = "CUDA programming guide, environment variables"
LIST_CARDS = "nvidia-smi -L"


def processes(facts: Facts) -> int:
    """How many cards the machine has, as far as known; 1 where it is not."""
    return len(wheels.nvidia_cards(facts)) or facts.gpu_count or 1


@cause(
    "cuda-visible-devices-hides-gpu",
    "error",
    "CUDA_VISIBLE_DEVICES names a card that does not exist, so every GPU is hidden.",
    "CUDA reads the list from left to right and stops at the first number it does not have; an empty value or -1 "
    "hides all cards. "
    "Numbers begin at 0.",
    LIST_CARDS,
    CUDA_GUIDE,
)
def _(shell: Shell, facts: Facts):
    return [
        shell.unset_env("CUDA_VISIBLE_DEVICES"),
        "# or set CUDA_VISIBLE_DEVICES to a number that nvidia-smi -L lists, the first card is 0:",
        shell.set_env("CUDA_VISIBLE_DEVICES", "0"),
        "# no card at all in nvidia-smi: driver, container (--gpus all) or notebook runtime come first",
    ]


@cause(
    "cuda-device-order",
    "warning",
    "CUDA numbers unlike cards fastest-first, nvidia-smi by PCI slot: an index may mean another card.",
    "Without CUDA_DEVICE_ORDER=PCI_BUS_ID the same number selects different cards in nvidia-smi and in torch.",
    'python -c "import torch; print([torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])"',
    CUDA_GUIDE,
)
def _(shell: Shell, facts: Facts):
    return [
        shell.set_env("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        "# then the numbers of CUDA_VISIBLE_DEVICES are those of nvidia-smi; or name the card by its UUID from "
        "nvidia-smi -L:",
        shell.set_env("CUDA_VISIBLE_DEVICES", "GPU-..."),
    ]


@cause(
    "env-var-misspelled",
    "error",
    "An environment variable for the GPU is misspelt, so it has no effect.",
    "Unknown names are ignored without a word: the run then sees other cards or settings than meant.",
    "env | grep -E 'CUDA|NCCL|PYTORCH'",
    "CUDA, NCCL and PyTorch documentation, known/variables.py",
)
def _(shell: Shell, facts: Facts):
    from envcheck.known import variables

    wrong = [(name, variables.meant(name)) for name in sorted(facts.env or {}) if variables.meant(name)]
    lines = []
    for name, right in wrong[:3]:
        lines += [shell.unset_env(name), shell.set_env(str(right), (facts.env or {})[name])]
    return lines or [
        "# use the exact name, before Python starts: CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER, NCCL_P2P_DISABLE, "
        "NCCL_IB_DISABLE",
        shell.set_env("CUDA_VISIBLE_DEVICES", "0"),
    ]


@cause(
    "unsloth-single-gpu-only",
    "error",
    "This Unsloth release trains on one GPU only, but sees or is started on several.",
    "Older releases refuse to run when several cards are visible; launched with several processes each process takes "
    "the wrong card.",
    LIST_CARDS,
    "Unsloth release notes",
)
def _(shell: Shell, facts: Facts):
    return [
        "# one process with one visible GPU (num_processes: 1, no torchrun --nproc_per_node above 1):",
        shell.set_env("CUDA_VISIBLE_DEVICES", "0"),
        "# or a current Unsloth:",
        shell.install("-U", "unsloth", "unsloth_zoo"),
    ]


@cause(
    "more-processes-than-gpus",
    "error",
    "The launcher starts more processes than there are GPUs.",
    "Each process takes the card with its own local rank; a rank without a card fails with 'invalid device ordinal'.",
    LIST_CARDS,
    "torchrun and accelerate documentation",
)
def _(shell: Shell, facts: Facts):
    count = processes(facts)
    return [
        f"# one process per GPU: the number of processes must be the number of visible GPUs, here {count}:",
        f"torchrun --nproc_per_node={count} train.py",
        f"accelerate launch --num_processes {count} train.py",
        "# and CUDA_VISIBLE_DEVICES must list as many cards",
    ]


@cause(
    "quantized-model-wrong-device",
    "error",
    "The quantised model sits on another device than the process that trains it.",
    "4-bit and 8-bit weights cannot be moved afterwards: device_map must place them on the card of this process.",
    'python -c "import torch; print(torch.cuda.current_device(), torch.cuda.device_count())"',
    "transformers and accelerate sources",
)
def _(shell: Shell, facts: Facts):
    return [
        "# in the script: from_pretrained(..., device_map={'': torch.cuda.current_device()}); several processes: "
        "device_map={'': local_rank}",
        "# or show the process one GPU:",
        shell.set_env("CUDA_VISIBLE_DEVICES", "0"),
        "# and an accelerate that knows the case: " + shell.install("-U", "accelerate", "transformers"),
    ]


@cause(
    "nccl-p2p-unsupported",
    "error",
    "These GeForce cards have no peer-to-peer transfer, and NCCL must be told so.",
    "RTX 40 and 50 cards cannot reach each other's memory; accelerate refuses to go on until both variables are set.",
    "nvidia-smi topo -p2p r",
    "accelerate sources, NCCL user guide",
)
def _(shell: Shell, facts: Facts):
    return [
        shell.set_env("NCCL_P2P_DISABLE", "1"),
        shell.set_env("NCCL_IB_DISABLE", "1"),
        "# before Python starts; accelerate launch sets both by itself",
    ]


@cause(
    "nccl-too-old-for-gpu",
    "error",
    "This NCCL is older than the generation of the cards.",
    "sm_120 cards need NCCL 2.26.2 or newer for several GPUs.",
    'python -c "import torch; print(torch.cuda.nccl.version())"',
    "NCCL release notes",
)
def _(shell: Shell, facts: Facts):
    wheel = wheels.same_torch(facts)
    return [
        shell.install("-U", "nvidia-nccl-cu12>=2.26.2"),
        "# or a torch that ships a newer NCCL (cu128 or newer):",
        wheels.install_command(facts, wheel),
    ]


@cause(
    "mig-instance-selection",
    "error",
    "A MIG slice is selected in a way the library cannot use.",
    "One process can use one MIG instance. Some libraries read CUDA_VISIBLE_DEVICES as numbers and fail on a MIG UUID.",
    LIST_CARDS,
    "NVIDIA MIG user guide; vLLM issues",
)
def _(shell: Shell, facts: Facts):
    return [
        "# show exactly one MIG instance to the process, by the UUID that nvidia-smi -L lists:",
        shell.set_env("CUDA_VISIBLE_DEVICES", "MIG-..."),
        "# where the library wants a number (vLLM): start a container with that one instance and use index 0 inside:",
        "docker run --gpus 'device=MIG-...' -e CUDA_VISIBLE_DEVICES=0 IMAGE",
        "# or a newer vLLM that reads the UUID: " + shell.install("-U", "vllm"),
    ]
