"""Bytes that stay from loading to the last step: base weights, what is trained, gradients, optimiser states."""

from kit.memory.shape import Shape
from kit.memory.trained import Trained, trained_params, trained_tensors
from kit.options import METHODS, Run

NF4_BLOCK = 64  # weights that share one scale of one byte; Dettmers et al. 2023, arXiv:2305.14314, section 3
NF4_NESTED_BLOCK = 256  # scales that share one scale of four bytes (double quantisation)
NF4_LEVELS = 16
NF4_TABLES_BYTES = 4 * (NF4_LEVELS + 256 + 1)  # of each layer: the levels, the 256 of the scales, the scales' mean
ADAM_8BIT_SMALLEST = 4096  # weights of a tensor below which bitsandbytes keeps 32-bit moments
ADAM_8BIT_BLOCK = 256  # moments that share one scale of four bytes; Dettmers et al. 2022, arXiv:2110.02861, section 2


def width_bytes(run: Run) -> int:
    """Of a number of the arithmetic."""
    return 4 if run.precision == "fp32" else 2


def base_width_bytes(run: Run) -> int:
    """Of a weight of the model that is not quantised."""
    return adapter_width_bytes(run) if METHODS[run.method].trains_whole_model else width_bytes(run)


def nf4_bytes(weights: int, is_double: bool = True) -> int:
    """One linear layer with its scales; is_double: they are quantised too."""
    scales = -(-weights // NF4_BLOCK)
    if not is_double:
        return -(-weights // 2) + 4 * (scales + NF4_LEVELS)
    return -(-weights // 2) + scales + 4 * -(-scales // NF4_NESTED_BLOCK) + NF4_TABLES_BYTES


def linear_bytes(shape: Shape, run: Run) -> int:
    """The linear layers of the blocks; where they are loaded in 4 bit, those that are in it."""
    if not run.load_in_4bit:
        return base_width_bytes(run) * shape.linear_params
    return sum(
        _nf4_bytes(shape, d_in * d_out) * shape.copies(name) * (shape.layers - shape.kept[name])
        for name, (d_in, d_out) in shape.linears.items()
    )


def kept_bytes(shape: Shape, run: Run) -> int:
    """The linear layers of the blocks that stay in 16 bit where the others are in 4 bit."""
    return base_width_bytes(run) * shape.kept_params if run.load_in_4bit else 0


def head_bytes(shape: Shape, run: Run) -> int:
    """0 where the head is the embedding."""
    if shape.is_head_in_nf4:
        return _nf4_bytes(shape, shape.head_params)
    return base_width_bytes(run) * shape.head_params


def _nf4_bytes(shape: Shape, weights: int) -> int:
    return nf4_bytes(weights, shape.stored is None or shape.stored.is_double)


def can_offload_embedding(tied: bool, run: Run) -> bool:
    """Unsloth can keep the embedding in main memory; tied: where it is no head as well."""
    return not tied and run.device == "cuda" and run.backend != "hf"


def adapter_width_bytes(run: Run) -> int:
    """Of a trained weight, and of its gradient."""
    return {"fp32": 4, "bf16": 2}[run.adapter_precision]


def optimizer_bytes(shape: Shape, run: Run) -> int:
    """Two moments for each trained weight."""
    if "8bit" in run.optimizer:
        return sum(tensor.copies * _adam_8bit_bytes(tensor) for tensor in trained_tensors(shape, run))
    return 2 * adapter_width_bytes(run) * trained_params(shape, run)


def _adam_8bit_bytes(tensor: Trained) -> int:
    """Of one tensor; transformers asks for 32-bit moments of every embedding."""
    if tensor.weights < ADAM_8BIT_SMALLEST or tensor.is_embedding:
        return 2 * 4 * tensor.weights
    return 2 * (tensor.weights + 4 * -(-tensor.weights // ADAM_8BIT_BLOCK))
