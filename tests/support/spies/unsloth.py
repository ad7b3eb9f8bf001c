"""An Unsloth that imports torch, as the real one does, and nothing else."""

import torch  # noqa: F401
