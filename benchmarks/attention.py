"""Attention of a CPU, forward and backward: torch's fused kernel against the plain products, by sample length.

python -m benchmarks.attention [--repeats 5]
"""

import argparse
import statistics
import time
from types import SimpleNamespace

from benchmarks import measure

SHAPES = {"J1: 8 heads of 32": (8, 4, 32), "Qwen3-0.6B: 16 heads of 128": (16, 8, 128)}  # heads, of keys, width
LENGTHS = (64, 128, 256, 384, 512, 1024)
TOKENS = 1024  # computed at once


def seconds(kernel: str, heads: int, kv_heads: int, width: int, length: int) -> float:
    """One pass forward and backward through transformers' own function, in bf16."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.models.qwen3.modeling_qwen3 import eager_attention_forward

    samples = max(1, TOKENS // length)
    query, key, value = (
        torch.randn(samples, count, length, width, dtype=torch.bfloat16, requires_grad=True)
        for count in (heads, kv_heads, kv_heads)
    )
    keep = torch.ones(length, length, dtype=torch.bool).tril().expand(samples, 1, -1, -1)
    minus = torch.zeros(keep.shape, dtype=torch.bfloat16).masked_fill(~keep, torch.finfo(torch.bfloat16).min)
    module = SimpleNamespace(num_key_value_groups=heads // kv_heads, training=True, is_causal=True)
    attend, mask = {"sdpa": (sdpa_attention_forward, keep), "eager": (eager_attention_forward, minus)}[kernel]
    start_s = time.perf_counter()
    attend(module, query, key, value, mask, scaling=width**-0.5)[0].sum().backward()
    return time.perf_counter() - start_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = []
    for name, shape in SHAPES.items():
        for length in LENGTHS:
            ratios = []
            for _ in range(args.repeats + 1):
                fused, plain = (seconds(kernel, *shape, length) for kernel in ("sdpa", "eager"))
                ratios.append(round(fused / plain, 2))
            kept = ratios[1:]  # the first pass warms up
            rows.append({"shape": name, "tokens": length, "eager_speed": statistics.median(kept), "each": kept})
    measure.write("attention", {"what": "time of sdpa / time of eager, forward and backward, CPU, bf16", "rows": rows})


if __name__ == "__main__":
    main()
