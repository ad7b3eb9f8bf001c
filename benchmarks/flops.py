"""Operations that a training step needs, and what a card can do of them at most."""

import re

from kit.memory import Shape

# Operations a clock of one SM: bf16 products (fp16 before Ampere), sums in 32 bit, no sparsity. From the tables of peak
# rates in NVIDIA's architecture papers (Volta, Turing, A100, GA102, Ada, Hopper, Blackwell), over SMs and boost clock.
FLOP_PER_SM_CLOCK = {
    (7, 0): 1024, (7, 5): 1024, (8, 0): 2048, (8, 6): 1024, (8, 9): 1024, (9, 0): 4096, (10, 0): 8192, (10, 3): 8192,
    (12, 0): 1024,
}  # fmt: skip
GEFORCE_FLOP_PER_SM_CLOCK = 512  # sums in 32 bit at half rate: 3090 71.2, 4090 165.2, 5080 112.6, 5090 209.5 TFLOPS


def peak_flops(name: str, capability: tuple[int, int], sms: int, clock_mhz: float) -> float | None:
    """Operations a second of a card at this clock, None where its rate is not known."""
    rate = FLOP_PER_SM_CLOCK.get(capability)
    if rate and re.search("geforce|titan", name, re.IGNORECASE) and capability > (7, 0):
        rate = min(rate, GEFORCE_FLOP_PER_SM_CLOCK)
    return rate * sms * clock_mhz * 1e6 if rate else None


def needed_flops_per_token(shape: Shape, adapter_params: int, length_tokens: float, trained_share: float) -> float:
    """Of a LoRA step, forward and back; activations that are computed again are not needed and do not count.

    trained_share: of the tokens, those that the loss is computed of.
    """
    linear = 2 * 2 * shape.linear_params  # forward, and back to the input: the weights have no gradient
    head = 2 * 2 * shape.embedding_params * trained_share
    lora = 3 * 2 * adapter_params
    attention = 3 * 4 * shape.layers * shape.query * length_tokens / 2
    return linear + head + lora + attention
