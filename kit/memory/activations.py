"""Bytes that come and go within a step: what the backward pass needs, logits, one layer's scratch space.

Each formula follows the operations of the block and what autograd keeps of them: a product keeps both factors that need
a gradient's other side, a frozen linear layer keeps nothing, a norm keeps its input. benchmarks/planner.py compares
them with what autograd really keeps on a CPU (without checkpointing the first norm's input counts here and is not
kept there); Unsloth's kernels, which need a card, have not been measured.
"""

import os

from kit.memory.shape import Shape
from kit.memory.trained import trained_params
from kit.memory.weights import adapter_width_bytes, base_width_bytes, width_bytes
from kit.models.families import MLP
from kit.options import METHODS, Run
from kit.options.methods import IA3_INWARD
from kit.support.environment import logits_chunk_bytes

# Unsloth's loss on a card: tiles of so many tokens and of the vocabulary, in 32 bit; on cards before Ampere, and large
# ones with few tokens, rows of all logits (unsloth_zoo/fused_losses/fused_linear.py).
UNSLOTH_TILE = (4096, 16384)
UNSLOTH_FEWEST_LOGITS, UNSLOTH_FEWEST_ROWS, UNSLOTH_MOST_ROWS = 512 * 151936, 512, 4096
UNSLOTH_CPU_LOGITS = 16 << 20  # logits at once in Unsloth's loss on a CPU
TRL_LOGITS_ROWS = 256  # trained tokens at once in TRL's chunked_nll
EVALUATION_LOGITS_BYTES = 256 << 20  # of a held-out batch where they are computed all at once
OFFLOADED_FROM_LENGTH_TOKENS = 512  # of max_length_tokens; below it Unsloth keeps the blocks' inputs on the card,
OFFLOADED_FROM_BYTES = 2 << 20  # and those of micro-batches of up to so much a block


def is_fused(run: Run) -> bool:
    """Whether Unsloth's own kernels run; on a CPU it uses the layers of transformers and PEFT, as `hf` does."""
    return run.device == "cuda" and run.backend != "hf"


def is_offloaded(shape: Shape, run: Run, tokens: int) -> bool:
    """Whether the blocks' inputs wait in main memory; elsewhere "unsloth" is plain checkpointing."""
    is_worth_it = run.max_length_tokens >= OFFLOADED_FROM_LENGTH_TOKENS
    large = checkpoint_bytes(shape, run, tokens) > OFFLOADED_FROM_BYTES
    return is_fused(run) and run.gradient_checkpointing == "unsloth" and is_worth_it and large


def block_bytes_per_token(shape: Shape, run: Run, length_tokens: int) -> int:
    """What the backward pass keeps of one block for each token of samples of this length."""
    return _fused_block(shape, run) if is_fused(run) else _plain_block(shape, run, length_tokens)


def is_eager(run: Run) -> bool:
    return run.attention == "eager" and not is_fused(run)


def _plain_block(shape: Shape, run: Run, length_tokens: int) -> int:
    """A block of transformers, with what the method adds."""
    width, inner = width_bytes(run), shape.intermediate * shape.experts_per_token
    hidden, query, key = shape.hidden, shape.query, shape.key
    kept = 2 * 4 * (hidden + 1)  # the input of both norms in 32 bit, and 1/rms
    if shape.qk_norm:
        kept += 4 * (query + key + shape.heads + shape.kv_heads)  # the same for the norms of queries and keys
    kept += width * query  # the attention's result
    seen_tokens = length_tokens + prefix_tokens(run)
    if is_eager(run):  # q, k and v for each head, the share of each token in 32 bit and in the arithmetic's
        kept += width * 3 * query + shape.heads * seen_tokens * (4 + (2 if width == 2 else 0))
    else:
        kept += width * (query + 2 * key) + 4 * shape.heads  # q, k, v; log-sum-exp of each head
        kept += width * seen_tokens if prefix_tokens(run) else 0  # behind learnt keys there always is a mask
    kept += width * 3 * inner  # gate before and after SiLU, and up: SiLU and the product need them
    if shape.experts:
        kept += width * 2 * hidden * shape.experts_per_token  # each expert's input and its weighted output
    return kept + _method_block(shape, run)


def _method_block(shape: Shape, run: Run) -> int:
    """What the method keeps of a block for each token, beyond the block's own."""
    method, width = METHODS[run.method], width_bytes(run)
    sides = _adapted(shape, run)
    if method.kind == "LORA":  # x A, which B multiplies; DoRA: the results of the base and of the update
        ranks = sum(run.other_ranks.get(name, run.lora_rank) for name in run.target_modules)
        kept = width * (shape.experts_per_token * ranks + _adapter_inputs(shape, run))
        return kept + (2 * width * sum(d_out * copies for _, _, d_out, copies in sides) if method.has_lengths else 0)
    if method.kind == "MISS":  # x folded to the rank, and which numbers of it were dropped
        return width * sum(run.lora_rank * copies for *_, copies in sides) + _dropped_bytes(shape, run)
    if method.kind == "IA3":  # what is multiplied, which PEFT's 4-bit layers have in 32 bit on a CPU
        scaled = sum((d_in if name == IA3_INWARD else d_out) * copies for name, d_in, d_out, copies in sides)
        return (4 if run.load_in_4bit and run.device == "cpu" else width) * scaled
    if method.trains_whole_model:
        return _full_block(shape, run)
    return 0


def _adapted(shape: Shape, run: Run) -> list[tuple[str, int, int, int]]:
    """Of each adapted layer of a block its name, what goes in, what comes out, and how many of them a token meets."""
    return [
        (name, d_in, d_out, shape.experts_per_token if name in MLP else 1)
        for name, (d_in, d_out) in shape.linears.items()
        if name in run.target_modules
    ]


def _dropped_bytes(shape: Shape, run: Run) -> int:
    """Which of its inputs each adapter has dropped, a byte each."""
    return sum(d_in * copies for _, d_in, _, copies in _adapted(shape, run)) if run.lora_dropout else 0


def _full_block(shape: Shape, run: Run) -> int:
    """Every weight has a gradient: each product keeps its own x, each norm what it multiplies. Weights in 32 bit leave
    what goes from block to block in 32 bit."""
    width, inner = width_bytes(run), shape.intermediate * shape.experts_per_token
    own = adapter_width_bytes(run)
    converted = is_converted(run)  # a copy for each product; else products of one x share it
    products = shape.hidden * (3 + 2 if converted else 1 + 1) + inner
    norms = own * 2 * shape.hidden + (own * (shape.query + shape.key) if shape.qk_norm else 0)
    return width * products + norms


def _adapter_inputs(shape: Shape, run: Run) -> int:
    """Numbers kept as x of x A: layers with the same x share it, and o_proj's is kept by the attention already."""
    inner = shape.intermediate * shape.experts_per_token
    targets = set(run.target_modules)
    attention_in, mlp_in = targets & {"q_proj", "k_proj", "v_proj"}, targets & {"gate_proj", "up_proj"}
    product = inner * ("down_proj" in targets)
    if run.lora_dropout:  # each adapter drops others, and keeps which
        return 2 * (shape.hidden * (len(attention_in) + len(mlp_in)) + shape.query * ("o_proj" in targets) + product)
    return shape.hidden * (bool(attention_in) + bool(mlp_in)) + product


def _fused_block(shape: Shape, run: Run) -> int:
    """A block of Unsloth: norms keep their input as it is, adapters share it, SiLU and the product are done again."""
    width, inner = width_bytes(run), shape.intermediate * shape.experts_per_token
    kept = 2 * (2 * width * shape.hidden + 4)  # input and output of both norms, 1/rms
    if shape.qk_norm:
        kept += width * (shape.query + shape.key) + 4 * (shape.heads + shape.kv_heads)
    kept += width * (2 * shape.query + 2 * shape.key) + 4 * shape.heads  # q, k, v, their result; log-sum-exp
    return kept + width * 2 * inner + _dropped_bytes(shape, run)  # gate and up; their kernels compute dropout too


def padding_bytes_per_token(shape: Shape, run: Run, length_tokens: int) -> int:
    """What one block keeps in addition where a batch is padded: the mask as numbers, keys and values for each head."""
    without = is_eager(run) or prefix_tokens(run)
    return 0 if without else width_bytes(run) * (length_tokens + 2 * (shape.query - shape.key))


def block_bytes(shape: Shape, run: Run, tokens: int, length_tokens: int) -> int:
    """The same for all tokens of a micro-batch, the block's trained factors in 16 bit, as autocast converts them, and
    the learnt keys and values in front of each sample's own."""
    method = METHODS[run.method]
    factors = shape.linear_params if method.trains_whole_model else 0
    if "lora_rank" in method.options:  # adapters multiply as matrices
        factors = trained_params(shape, run)
    kept = tokens * block_bytes_per_token(shape, run, length_tokens)
    kept += width_bytes(run) * factors // shape.layers if is_converted(run) else 0
    return kept + tokens // length_tokens * prefix_tokens(run) * 2 * shape.key * width_bytes(run)


def prefix_tokens(run: Run) -> int:
    """Learnt keys and values in front of every layer's own."""
    return run.virtual_tokens if METHODS[run.method].learns_prefix else 0


def is_converted(run: Run) -> bool:
    """Whether autocast makes copies in 16 bit of what is trained."""
    return run.adapter_precision == "fp32" and run.precision != "fp32" and not is_fused(run)


def outside_bytes(shape: Shape, run: Run, tokens: int) -> int:
    """Kept outside of the blocks: the last norm's input, and the gradient of the head's; of every weight, as in a
    block; of prefix tuning, what makes the keys and values."""
    method, width = METHODS[run.method], width_bytes(run)
    norm = (2 * width if is_fused(run) else 4) * shape.hidden + 4
    if method.trains_whole_model:
        norm += (adapter_width_bytes(run) + (width if is_converted(run) else 0)) * shape.hidden
    makers = width * trained_params(shape, run) if method.projects_prefix and is_converted(run) else 0
    return tokens * (norm + width * shape.hidden) + makers


def saved_bytes(shape: Shape, run: Run, tokens: int, length_tokens: int) -> int:
    """What autograd keeps between the passes on the device, of batches without padding."""
    outside = outside_bytes(shape, run, tokens)
    if run.gradient_checkpointing == "off":
        return shape.layers * block_bytes(shape, run, tokens, length_tokens) + outside
    blocks = min(2, shape.layers) if is_offloaded(shape, run, tokens) else shape.layers  # two on their way, or all
    return blocks * checkpoint_bytes(shape, run, tokens) + outside


def checkpoint_bytes(shape: Shape, run: Run, tokens: int) -> int:
    """A block's input."""
    return tokens * max(width_bytes(run), base_width_bytes(run)) * shape.hidden


def offloaded_bytes(shape: Shape, run: Run, tokens: int) -> tuple[int, int]:
    """(low, high) of the blocks' inputs in main memory. High: pinned, as a card copies from them fastest; torch rounds
    each such block up to a power of two (CachingHostAllocator)."""
    if not is_offloaded(shape, run, tokens):
        return 0, 0
    block = checkpoint_bytes(shape, run, tokens)
    return shape.layers * block, shape.layers * (1 << (block - 1).bit_length())


def logits_bytes(shape: Shape, run: Run, tokens: int) -> tuple[int, int]:
    """(low, high) of the loss, which is computed over a part of the tokens at a time."""
    width, vocab = width_bytes(run), shape.vocab
    if run.backend == "hf":  # logits, in 32 bit, their log-softmax; its gradient and the entropy that TRL logs
        rows = min(tokens, TRL_LOGITS_ROWS)
        return rows * vocab * (width + 8), rows * vocab * (width + 24)
    if run.device == "cpu":  # logits and, in 32 bit, their gradient
        rows = min(tokens, max(16, UNSLOTH_CPU_LOGITS // vocab))
        return rows * vocab * (width + 4), rows * vocab * (width + 4)
    rows = unsloth_logits_rows(tokens, shape.hidden, vocab, logits_chunk_bytes(os.environ))
    tile_rows, tile_vocab = UNSLOTH_TILE
    tile = min(tokens, tile_rows) * min(vocab, tile_vocab) * 4
    return min(tile, rows * vocab * 4), max(tile, rows * vocab * 8)  # twice where Triton is missing


def unsloth_logits_rows(tokens: int, hidden: int, vocab: int, chunk_bytes: int) -> int:
    """Tokens whose logits Unsloth's loss computes at once, where it has all of a token's, in 32 bit."""
    fewest = min(max(_power_of_two(UNSLOTH_FEWEST_LOGITS // vocab), UNSLOTH_FEWEST_ROWS), UNSLOTH_MOST_ROWS)
    rows = min(max(_power_of_two(tokens * hidden // vocab), fewest), UNSLOTH_MOST_ROWS)
    return max(1, min(rows, max(2, chunk_bytes // (4 * vocab)), tokens))


def _power_of_two(number: int) -> int:
    """The largest one that is not above it."""
    return 1 << max(0, number.bit_length() - 1)


def evaluation_tokens(vocab: int, run: Run) -> int | None:
    """Most tokens of a held-out batch, None for no limit: on a CPU Unsloth computes all its logits at once."""
    if run.device == "cuda" or run.backend == "hf":
        return None
    return EVALUATION_LOGITS_BYTES // (vocab * _evaluated_width_bytes(run))


def _evaluated_width_bytes(run: Run) -> int:
    """Of a logit in an evaluation: as it is computed, in 32 bit for the loss, and its log-softmax."""
    width = width_bytes(run)
    return width + 4 + (4 if width == 2 else 0)


def evaluation_bytes(shape: Shape, run: Run, tokens: int, length_tokens: int) -> int:
    """Of a held-out batch: its logits; on a card, if that is more, Unsloth's pass without gradients. length_tokens: of
    one sample, which is never split."""
    most = evaluation_tokens(shape.vocab, run)
    if most is None:
        logits = logits_bytes(shape, run, tokens)[1]
        return max(logits, _fused_forward_bytes(shape, run, tokens, length_tokens)) if is_fused(run) else logits
    return min(tokens, max(length_tokens, most)) * shape.vocab * _evaluated_width_bytes(run)


def _fused_forward_bytes(shape: Shape, run: Run, tokens: int, length_tokens: int) -> int:
    """Of Unsloth's pass without gradients: one layer's, and where several samples are padded the mask of each pair of
    tokens, which it builds of every token's and which the attention's kernel may copy."""
    width = width_bytes(run)
    pairs = tokens * length_tokens if tokens > length_tokens else 0
    layer = _dequantised_bytes(shape, run) + tokens * width * 3 * (
        shape.intermediate * shape.experts_per_token + shape.hidden
    )
    return max(pairs * (3 * width + 1), pairs * 2 * width + layer)


def _dequantised_bytes(shape: Shape, run: Run) -> int:
    """Of the largest layer."""
    largest = max(d_in * d_out for d_in, d_out in shape.linears.values())
    return width_bytes(run) * largest if run.load_in_4bit else 0


def scratch_bytes(shape: Shape, run: Run, tokens: int, length_tokens: int) -> tuple[int, int]:
    """(low, high) of one layer's workspace: its weights dequantised, the gradients within a block, and what the
    backward pass keeps of a block that is computed again."""
    width, inner = width_bytes(run), shape.intermediate * shape.experts_per_token
    largest = _dequantised_bytes(shape, run)
    if METHODS[run.method].trains_whole_model:  # the head as autocast converts it, and its gradient
        largest = width * shape.embedding_params
    again = block_bytes(shape, run, tokens, length_tokens) if run.gradient_checkpointing != "off" else 0
    low = largest + again + tokens * width * inner  # at least the gradient of the product
    gradients = width * (3 * inner + 2 * shape.hidden) + 4 * (inner + 2 * shape.hidden)  # and of gate, up; in 32 bit
    if is_eager(run):
        gradients += shape.heads * length_tokens * (3 * width + 8)  # of the shares, and on the way to them
    return low, 2 * largest + again + tokens * gradients
