"""Which card torch may use: the one place that asks, for everything that is not told its device."""


def has_card() -> bool:
    """Whether torch sees an NVIDIA card. A ROCm build of torch answers in CUDA's name for AMD's, which the kit leaves
    alone: nothing here was tried on one."""
    import torch

    return torch.version.hip is None and torch.cuda.is_available()
