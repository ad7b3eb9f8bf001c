"""The tensors that a run trains, by method, exactly: as PEFT makes them, or every weight of the model."""

from typing import NamedTuple

from kit.memory.shape import Shape
from kit.options import METHODS, Run
from kit.options.methods import IA3_INWARD


class Trained(NamedTuple):
    """Tensors of one size. is_embedding: an optimiser in 8 bit keeps their moments in 32."""

    weights: int
    copies: int
    is_embedding: bool = False


def trained_tensors(shape: Shape, run: Run) -> list[Trained]:
    method = METHODS[run.method]
    if method.trains_whole_model:
        return _all_weights(shape)
    if method.learns_virtual_tokens:
        return _virtual_tokens(shape, run)
    names = [name for name in run.target_modules if name in shape.linears]
    layers = [
        Trained(weights, shape.layers * shape.copies(name))
        for name in names
        for weights in _of_layer(run, name, *shape.linears[name])
    ]
    return layers + _added_rows(shape, run)


def trained_params(shape: Shape, run: Run) -> int:
    return sum(tensor.weights * tensor.copies for tensor in trained_tensors(shape, run))


def _added_rows(shape: Shape, run: Run) -> list[Trained]:
    """Of the embedding, and of a head that is another."""
    tokens = len(set(run.train_added_tokens))
    return [Trained(tokens * shape.hidden, 1 if shape.tied else 2)] if tokens else []


def _of_layer(run: Run, name: str, d_in: int, d_out: int) -> tuple[int, ...]:
    """Sizes of the tensors that a linear layer gets."""
    method = METHODS[run.method]
    if method.kind == "LORA":  # A (rank, d_in), B (d_out, rank); DoRA: a length for each row of the sum
        rank = run.other_ranks.get(name, run.lora_rank)
        return (rank * d_in, rank * d_out, *((d_out,) if method.has_lengths else ()))
    if method.kind == "MISS":
        return (run.lora_rank * d_out,)
    return (d_in if name == IA3_INWARD else d_out,)


def _virtual_tokens(shape: Shape, run: Run) -> list[Trained]:
    """prompt: vectors as the embedding's. p-tuning-v2: keys and values of each layer. prefix: one vector for each
    token, and two layers that make keys and values of it."""
    tokens, made = run.virtual_tokens, shape.layers * 2 * shape.key
    if METHODS[run.method].kind == "PROMPT_TUNING":
        return [Trained(tokens * shape.hidden, 1, True)]
    if not METHODS[run.method].projects_prefix:
        return [Trained(tokens * made, 1, True)]
    linears = ((shape.key * shape.key, shape.key), (shape.key * made, made))  # weights and biases
    return [Trained(tokens * shape.key, 1, True), *(Trained(size, 1) for linear in linears for size in linear)]


def _all_weights(shape: Shape) -> list[Trained]:
    sides = shape.linears.items()
    linears = [Trained(d_in * d_out, shape.layers * shape.copies(name)) for name, (d_in, d_out) in sides]
    norms = [Trained(shape.hidden, 2 * shape.layers + 1), Trained(shape.head_dim, 2 * shape.layers * shape.qk_norm)]
    biases = [Trained(shape.linears[name][1], shape.layers) for name in shape.biased]
    router = Trained(shape.experts * shape.hidden, shape.layers)
    ends = [Trained(shape.embedding_params, 1, True), Trained(shape.head_params, 1)]
    return [tensor for tensor in (*ends, *linears, *biases, *norms, router) if tensor.weights * tensor.copies]
