"""GPUs that are not NVIDIA's, which the kit leaves alone: which, and in which words it says so. Pure; imports facts.

>>> notes(Facts.from_json({"gpu": [{"name": "Apple M4 Pro"}]}))[0].split(":")[0]
'This GPU (Apple M4 Pro) is not used'
"""

from typing import Tuple

from envcheck.facts import Facts

OTHERS = ("amd", "intel", "apple")
HIDDEN = {  # so that the libraries of a process leave them alone
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "-1",  # AMD's, with a torch for ROCm, where nothing named is no list
    "UNSLOTH_FORCE_CPU": "1",  # else Unsloth takes Intel's, with a torch for XPU
    "UNSLOTH_FORCE_GPU_PATH": "1",  # and Apple's, where MLX is installed; its path for GPUs then finds the CPU
}


def names(facts: Facts) -> str:
    """Of the GPUs that are not used; "" where there is none, or an NVIDIA card beside it."""
    gpus = facts.gpu or ()
    if any(gpu.vendor == "nvidia" for gpu in gpus):
        return ""
    return "; ".join(gpu.name or "?" for gpu in gpus if gpu.vendor in OTHERS)


def notes(facts: Facts) -> Tuple[str, ...]:
    """What the user of such a machine should know before anything runs; () elsewhere."""
    found = names(facts)
    if not found:
        return ()
    return (
        f"This GPU ({found}) is not used: the kit knows NVIDIA cards only, and runs on the CPU, where a model of 0.6B "
        "weights takes an evening (--preset cpu). What can be done here: python -m envcheck --explain gpu-not-nvidia",
    )
