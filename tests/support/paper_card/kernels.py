"""Unsloth's kernels as formulas of torch: what each computes, its gradients with it."""

from types import ModuleType
from typing import Any

import torch


def no_compiled_kernels(module: ModuleType) -> None:
    """Unsloth looks whether its own compiled kernels start; there are none to look at."""
    module.native_kernels_ready = lambda *_: True
    module.check_native_kernels = lambda *_: None


def rms_layernorm(module: ModuleType) -> None:
    def fast_rms_layernorm(layer: torch.nn.Module, hidden: torch.Tensor, gemma: bool = False, **_: Any) -> torch.Tensor:
        epsilon = layer.variance_epsilon if hasattr(layer, "variance_epsilon") else layer.eps
        values = hidden.float()
        values = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + epsilon)
        return values.to(hidden.dtype) * layer.weight.to(hidden.dtype)

    module.fast_rms_layernorm = fast_rms_layernorm


def rope(module: ModuleType) -> None:
    def fast_rope_embedding(
        query: torch.Tensor,
        key: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        rope_embedding_indices: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """query, key: (samples, heads, tokens, width); indices: the position of each token, else it counts from 0."""

        def turned(values: torch.Tensor) -> torch.Tensor:
            tokens, width = values.shape[2:]
            tables = [torch.cat((table, table), -1)[..., :width] for table in (cos.squeeze(), sin.squeeze())]
            if rope_embedding_indices is None:
                cosine, sine = (table[:tokens] for table in tables)
            else:
                at = rope_embedding_indices.reshape(-1, tokens)
                cosine, sine = (table[at].unsqueeze(1) for table in tables)
            half = torch.cat((-values[..., width // 2 :], values[..., : width // 2]), -1)
            return (values * cosine + half * sine).to(values.dtype)

        return turned(query), turned(key)

    module.fast_rope_embedding = fast_rope_embedding


def swiglu(module: ModuleType) -> None:
    def swiglu_fg_kernel(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(gate.float()).to(gate.dtype) * up

    def swiglu_DWf_DW_dfg_kernel(
        gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The product, and the gradients of up and gate, in place of what was given, as the kernel does."""
        values = gate.float()
        share = torch.sigmoid(values)
        silu = (share * values).to(gate.dtype)
        product, of_up, of_silu = silu * up, gradient * silu, gradient * up
        of_gate = of_silu.float() * share * (1 + values * (1 - share))
        return gradient.copy_(product), gate.copy_(of_up), up.copy_(of_gate.to(up.dtype))

    module.swiglu_fg_kernel, module.swiglu_DWf_DW_dfg_kernel = swiglu_fg_kernel, swiglu_DWf_DW_dfg_kernel


def nf4(module: ModuleType) -> None:
    def fast_dequantize(weight: torch.Tensor, quant_state: Any = None, out: Any = None, *_: Any, **__: Any) -> Any:
        from bitsandbytes.functional import dequantize_4bit

        if quant_state is None:
            return weight
        turned = weight.shape[0] == 1  # the packed form of a transposed weight
        values = dequantize_4bit(weight.t() if turned else weight, quant_state)
        values = values if out is None else out.copy_(values)
        return values.t() if turned else values

    def fast_gemv(row: torch.Tensor, weight: torch.Tensor, quant_state: Any, out: Any = None) -> torch.Tensor:
        values = fast_dequantize(weight, quant_state)
        return row @ (values if weight.shape[0] == 1 else values.t())

    module.fast_dequantize, module.fast_gemv = fast_dequantize, fast_gemv
    module._USE_NF4_KERNELS = False
    module._gemv_rows = lambda *_, **__: None
    no_compiled_kernels(module)


CHANGES = {
    "unsloth.bnb_availability": no_compiled_kernels,
    "unsloth.kernels.rms_layernorm": rms_layernorm,
    "unsloth.kernels.rope_embedding": rope,
    "unsloth.kernels.swiglu": swiglu,
    "unsloth.kernels.utils": nf4,
}
