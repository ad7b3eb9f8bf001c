"""A torch that only says what it was told: for tests of what happens before and as the libraries are imported."""

import os
from types import SimpleNamespace

NAMES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "UNSLOTH_BLOCK_COMPILE", "UNSLOTH_LOGPROB_CHUNK_GB",
         "UNSLOTH_COMPILE_LOCATION", "UNSLOTH_DISABLE_STATISTICS")  # fmt: skip
SEEN = {name: os.environ.get(name) for name in NAMES}  # as it was imported
CARD = SimpleNamespace(
    name=os.environ.get("SPY_NAME", "NVIDIA GeForce RTX 5080"),
    uuid=os.environ.get("SPY_UUID", ""),
    total_memory=16 << 30,
)
told: list[float | str] = []
version = SimpleNamespace(hip=None)
cuda = SimpleNamespace(
    is_available=lambda: os.environ.get("CUDA_VISIBLE_DEVICES") != "",
    get_device_properties=lambda _: CARD,
    mem_get_info=lambda: (int(float(os.environ.get("SPY_FREE_GIB", "15")) * 2**30), CARD.total_memory),
    memory_reserved=lambda: 0,
    reset_peak_memory_stats=lambda: told.append("peak"),
    set_per_process_memory_fraction=told.append,
)
