"""Environment variables that decide what a run sees, and the misspelt ones. Imports nothing of ours.

Source: CUDA programming guide (CUDA_*), NCCL user guide (NCCL_*), PyTorch, Hugging Face hub and bitsandbytes
documentation; checked 2026-11-21.
"""

from typing import Optional

GPU_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "ZE_AFFINITY_MASK",
    "NCCL_P2P_DISABLE",
    "NCCL_IB_DISABLE",
    "NCCL_SHM_DISABLE",
    "NCCL_DEBUG",
    "NCCL_SOCKET_IFNAME",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_HIP_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TORCH_CUDA_ARCH_LIST",
    "BNB_CUDA_VERSION",
    "TORCHDYNAMO_DISABLE",
    "TORCH_COMPILE_DISABLE",
    "TRITON_LIBCUDA_PATH",
    "TRITON_CACHE_DIR",
)
OTHER_VARIABLES = (
    "CUDA_HOME",
    "CUDA_PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "CC",
    "CXX",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONNOUSERSITE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_TOKEN",
    "HF_HUB_DISABLE_XET",
    "HF_HUB_ENABLE_HF_TRANSFER",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "OMP_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "ACCELERATE_USE_FSDP",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "RANK",
)
KNOWN = frozenset(GPU_VARIABLES + OTHER_VARIABLES)
_WORDS = ("CUDA", "VISIBLE", "NCCL", "PYTORCH", "HF_HUB")


def meant(name: str) -> Optional[str]:
    """The variable this name is a misspelling of: other case, or up to two letters wrong; None where it is right or
    unrelated.

    >>> meant("CUDA_VISIBILE_DEVICES"), meant("CUDA_VISIBLE_DEVICES"), meant("CUDA_PATH_V12_8")
    ('CUDA_VISIBLE_DEVICES', None, None)
    """
    upper = name.upper().replace("-", "_")
    if name in KNOWN or len(name) > 60:
        return None
    if upper in GPU_VARIABLES or upper in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "LD_LIBRARY_PATH"):
        return upper
    if not any(word[:4] in upper for word in _WORDS):
        return None
    squeezed = upper.replace("_", "")
    for known in (*GPU_VARIABLES, "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET"):
        limit = 2 if len(known) >= 12 else 1
        if known.replace("_", "") == squeezed or (upper not in KNOWN and _distance(upper, known, limit) <= limit):
            return known
    shortened = {
        "CUDA_VISIBLE_DEVICE",
        "CUDA_VISIBLE_GPUS",
        "VISIBLE_DEVICES",
        "CUDA_DEVICES",
        "CUDA_VISIBLE",
        "VISIBLE_CUDA_DEVICES",
        "CUDA_DEVICE",
        "CUDA_VISIBLE_DEVICES_",
        "GPU_VISIBLE_DEVICES",
    }
    if upper in shortened:
        return "CUDA_VISIBLE_DEVICES"
    return {
        "NCCL_DISABLE_P2P": "NCCL_P2P_DISABLE",
        "NCCL_P2P_DISABLED": "NCCL_P2P_DISABLE",
        "NCCL_DISABLE_IB": "NCCL_IB_DISABLE",
        "CUDA_DEVICE_ORDERING": "CUDA_DEVICE_ORDER",
    }.get(upper)


def _distance(one: str, other: str, limit: int) -> int:
    """Edit distance, counting no further than limit + 1."""
    if abs(len(one) - len(other)) > limit:
        return limit + 1
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]
