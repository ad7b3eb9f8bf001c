"""base weight + what an adapter changes of it, in float32, one tensor at a time, from the 16-bit base or the NF4 base
of training. The formulas are those of PEFT's merge_and_unload."""

import contextlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kit.backend.device import has_card
from kit.backend.precision import torch_dtype
from kit.backend.silence import silence
from kit.models.adapters import BlockSum, Factors, TokenRows
from kit.models.change import STATES, Combination, Update, Weight

if TYPE_CHECKING:
    import torch
    from safetensors import safe_open

Piece: TypeAlias = "torch.Tensor"  # a merged weight, or a block of its rows, in float32 on the CPU
PIECE_WEIGHTS = 1 << 25  # of a tensor that no update changes: 128 MiB in float32


def pieces(weight: Weight, combination: Combination) -> Iterator[Piece]:
    """The merged weight in float32 on the CPU, whole or in blocks of rows."""
    import torch

    with torch.no_grad():
        if weight.four_bit or weight.saved_in_four_bit or weight.changes:
            yield _changed(_base(weight), weight, combination)
            return
        if not weight.shape:
            yield _read(weight.file, weight.name)
            return
        rows = weight.shape[0]
        step = max(1, PIECE_WEIGHTS * rows // max(1, math.prod(weight.shape)))
        for start in range(0, rows, step):
            with _opened(weight.file) as file:  # anew each time: what is mapped counts as memory
                yield file.get_slice(weight.name)[start : start + step].float()


@contextlib.contextmanager
def _opened(path: Path) -> "Iterator[safe_open]":
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        yield file


def _base(weight: Weight) -> "torch.Tensor":
    """In float32. Through NF4 it passes in the precision of training, to which the loader dequantises it too."""
    import torch

    with _opened(weight.file) as file:
        saved = file.get_tensor(weight.name)
        if weight.saved_in_four_bit:
            states = {f"{weight.name}.{name}" for name in STATES} & set(file.keys())
            return _dequantised(saved, {name: file.get_tensor(name) for name in states}, weight)
    if not weight.four_bit:
        return saved.float().clone()
    with silence():
        import bitsandbytes
    loaded = saved.to(torch_dtype(weight.loaded_as)).contiguous()
    small: Any = bitsandbytes.nn.Params4bit(loaded, requires_grad=False, compress_statistics=True, quant_type="nf4")
    with silence():  # it looks for faster kernels and says what it lacks
        small = small.to(_device())
        back = bitsandbytes.functional.dequantize_4bit(small.data, small.quant_state)
    return back.reshape(loaded.shape).to("cpu", torch.float32)


def _dequantised(data: "torch.Tensor", states: "dict[str, torch.Tensor]", weight: Weight) -> "torch.Tensor":
    """A weight that lies on the disk in NF4, in float32."""
    import torch

    with silence():
        from bitsandbytes.functional import QuantState, dequantize_4bit
    device = _device()
    state = QuantState.from_dict(states, device=device)
    state.dtype = torch_dtype(weight.loaded_as)  # as training had it
    with silence():
        return dequantize_4bit(data.to(device), state).reshape(weight.shape).to("cpu", torch.float32)


def _device() -> "torch.device":
    """Where training quantised it: bitsandbytes has kernels of its own for each."""
    import torch

    return torch.device("cuda" if has_card() else "cpu")


def _changed(base: "torch.Tensor", weight: Weight, combination: Combination) -> "torch.Tensor":
    if not weight.changes:
        return base
    change, _ = weight.changes[0]
    if isinstance(change, Factors):
        return base.mul_(_read(change.vector.file, change.vector.name))
    if isinstance(change, TokenRows):
        base[list(change.tokens)] = _read(change.rows.file, change.rows.name)
        return base
    if isinstance(change, BlockSum):
        block = _read(change.block.file, change.block.name).T
        return base.add_(block.repeat(1, -(-base.shape[1] // block.shape[1]))[:, : base.shape[1]])
    deltas = [delta(update) for update, _ in weight.changes if isinstance(update, Update)]
    base.add_(combined(deltas, [share for _, share in weight.changes], weight.name, combination))
    return _with_lengths(base, _read(change.file, change.magnitude)) if change.magnitude else base


def _with_lengths(weight: "torch.Tensor", lengths: "torch.Tensor") -> "torch.Tensor":
    """The rows of a weight at other lengths."""
    import torch

    return weight.mul_((lengths / torch.linalg.norm(weight, dim=1)).view(-1, 1))


def _read(path: Path, name: str) -> "torch.Tensor":
    with _opened(path) as file:
        return file.get_tensor(name).float()


def combined(deltas: "list[torch.Tensor]", shares: list[float], name: str, combination: Combination) -> "torch.Tensor":
    """One update of several, as PEFT computes it; name: of the weight that it is added to."""
    import torch

    if combination.way == "linear" and len(deltas) == 1 and shares[0] == 1:
        return deltas[0]
    from peft.utils import merge_utils

    weights = torch.tensor(shares)
    if combination.way == "linear":
        return merge_utils.task_arithmetic(deltas, weights)
    torch.manual_seed(zlib.crc32(f"{combination.seed} {name}".encode()))  # what DARE drops is its own in each
    combine = {"ties": merge_utils.ties, "dare": merge_utils.dare_linear}[combination.way]
    return combine(deltas, weights, combination.density)


def delta(update: Update) -> "torch.Tensor":
    """Scale * B A in float32 (out, in)."""
    return (_read(update.file, update.b) @ _read(update.file, update.a)) * update.scale


def is_finite(piece: Piece) -> bool:
    """Whether every number of it is."""
    import torch

    return bool(torch.isfinite(piece).all())


def as_bytes(piece: Piece, dtype: str) -> memoryview:
    """Cast once, as the bytes of a file; dtype as safetensors writes it."""
    import torch

    kind = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[dtype]
    return piece.to(kind).contiguous().view(torch.uint8).numpy().data.cast("B")


def overflows(piece: Piece, dtype: str) -> bool:
    """Whether a number of it is beyond the largest of the dtype."""
    import torch

    return dtype == "F16" and bool((piece.abs() > torch.finfo(torch.float16).max).any())
