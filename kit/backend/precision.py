"""Number formats in torch's words: of the arithmetic, and of a base in 4 bit."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig


def torch_dtype(precision: str) -> "torch.dtype":
    """Of bf16, fp16 or fp32."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def nf4_config(compute: "torch.dtype") -> "BitsAndBytesConfig":
    """Weights in 4-bit NF4 with double quantisation, multiplied in the format `compute` (Dettmers et al. 2023, QLoRA,
    arXiv:2305.14314)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
