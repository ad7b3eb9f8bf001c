"""Facts -> how to train on this machine: each value with its reason. Pure; imports facts, visible, wheels.

>>> choose(Facts(gpu=())).precision.value
'fp32'
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Optional

from envcheck import visible, wheels
from envcheck.facts import Facts, Gpu

GIB = 1 << 30
FREE_SHARE = 0.97  # of free card memory a run may plan with: the allocator's own blocks and fragments need the rest
DISPLAY_GIB = 0.6  # for what a desktop on the card may still take; twice where the free memory, without it, is unknown
CUDA_CONTEXT_GIB = 0.5  # what a CUDA process takes before its first tensor (measured 0.3 to 0.6 by torch users)
CPU_SHARE = 0.8  # of free main memory, the rest stays for the system
PINNED_SHARE = 0.7  # of free main memory that a run on a card may fill with what it offloads: its process and the
# system need the rest, and pinned pages cannot be swapped out


class Choice(NamedTuple):
    value: Any
    reason: str


@dataclass(frozen=True)
class Settings:
    """What `python -m envcheck --settings` prints and kit.train takes as defaults.

    memory_bytes: card memory (main memory on a CPU) the run may take, None = unknown. main_memory_bytes: what a run on
    a card may offload to main memory, None = unknown. workers: data loader processes. dataset_workers: processes of
    datasets.map, None = in this process.
    """

    requirements: Choice
    precision: Choice
    attention: Choice
    load_in_4bit: Choice
    optimizer: Choice
    memory_bytes: Choice
    main_memory_bytes: Choice
    gradient_checkpointing: Choice
    pin_memory: Choice
    workers: Choice
    dataset_workers: Choice
    compile: Choice


def choose(facts: Facts) -> Settings:
    """Settings for the best visible NVIDIA card, or for the CPU where there is none that this stack can use."""
    card = best_card(facts)
    return Settings(
        requirements=_requirements(facts, card),
        precision=_precision(facts, card),
        attention=_attention(card),
        load_in_4bit=_four_bit(card),
        optimizer=Choice("adamw_8bit", "8-bit optimiser states take a quarter of the memory")
        if card
        else Choice("adamw_torch_fused", "8-bit optimisers need a GPU"),
        memory_bytes=_memory(facts, card),
        main_memory_bytes=_main_memory(facts, card),
        gradient_checkpointing=_checkpointing(facts, card),
        pin_memory=_pin_memory(facts, card),
        workers=_workers(facts),
        dataset_workers=_dataset_workers(facts),
        compile=_compile(facts, card),
    )


def best_card(facts: Facts) -> Optional[Gpu]:
    """Of the NVIDIA cards that CUDA_VISIBLE_DEVICES leaves, as nvidia-smi counts them, the one with the most memory of
    compute capability 6.0 or newer; None: train on the CPU.
    """
    if str(facts.run("device") or "").lower() == "cpu":
        return None
    seen = visible.cards(facts, visible.BY_BUS)
    cards = [gpu for gpu in seen if (wheels.capability(gpu) or (9, 9)) >= (6, 0)]
    return max(cards, key=lambda gpu: (gpu.vram_gib or 0, wheels.capability(gpu) or (0, 0)), default=None)


def _requirements(facts: Facts, card: Optional[Gpu]) -> Choice:
    if card is None:
        return Choice("requirements-cpu.txt", "no NVIDIA card that this stack can use")
    if (wheels.capability(card) or (7, 5)) < (7, 5):
        return Choice(
            "requirements-cpu.txt", "the card is older than Turing (sm_75): the CUDA sets have no code for it"
        )
    wheel = wheels.choose(facts)
    variant = wheel.variant if wheel.variant in ("cu128", "cu130") else "cu128"
    return Choice(f"requirements-{variant}.txt", wheel.reason)


def _precision(facts: Facts, card: Optional[Gpu]) -> Choice:
    if card is None:
        fast = set(facts.cpu_flags or ()) & {"avx512_bf16", "amx_bf16"}
        if fast:
            return Choice("bf16", "this CPU computes in bf16 (" + ", ".join(sorted(fast)) + ")")
        return Choice("fp32", "no bf16 instructions found in this CPU")
    capability = wheels.capability(card)
    if capability is None:
        return Choice("fp16", "the compute capability of the card is unknown: fp16 runs on every card")
    if capability >= (8, 0):
        return Choice("bf16", "the card computes in bf16 (compute capability 8.0 or newer)")
    return Choice("fp16", "the card is older than Ampere (compute capability 8.0) and has no bf16")


def _attention(card: Optional[Gpu]) -> Choice:
    return Choice(
        "sdpa",
        "part of torch: right on every card; xformers and flash-attn add a binary that must match"
        if card
        else "part of torch; the other kernels need a GPU",
    )


def _four_bit(card: Optional[Gpu]) -> Choice:
    if card is None:
        return Choice(False, "4-bit training needs a GPU")
    if (wheels.capability(card) or (7, 5)) < (7, 5):
        return Choice(False, "bitsandbytes has no full support for cards older than Turing")
    if card.vram_gib is None:
        return Choice(True, "the memory of the card is unknown: 4-bit takes a quarter of the 16-bit weights")
    return (
        Choice(True, f"{card.vram_gib:g} GiB: 4-bit weights take a quarter of 16-bit ones")
        if card.vram_gib < 40
        else Choice(False, f"{card.vram_gib:g} GiB hold 16-bit weights of the usual models, which train faster")
    )


def _memory(facts: Facts, card: Optional[Gpu]) -> Choice:
    if card is None:
        return _share_of_main_memory(facts, CPU_SHARE)
    shown = _has_desktop(facts, card)
    if card.vram_free_gib is not None:
        kept = CUDA_CONTEXT_GIB + (DISPLAY_GIB if shown else 0)
        size, words = card.vram_free_gib, f"{card.vram_free_gib:g} GiB free"
    elif card.vram_gib is not None:
        kept = CUDA_CONTEXT_GIB + (2 * DISPLAY_GIB if shown else 0)
        size, words = card.vram_gib, f"{card.vram_gib:g} GiB in all (free memory unknown)"
    else:
        return Choice(None, "the memory of the card could not be read")
    words += f", less {kept:g} for the CUDA context" + (" and the desktop" if shown else "")
    return Choice(max(0, int((size * FREE_SHARE - kept) * GIB)), words)


def _has_desktop(facts: Facts, card: Gpu) -> bool:
    """Whether a desktop draws with it; in WSL that of the Windows around it, of which nvidia-smi may know nothing."""
    return card.display if card.display is not None else facts.is_windows or facts.is_wsl


def _main_memory(facts: Facts, card: Optional[Gpu]) -> Choice:
    if card is None:
        return Choice(0, "nothing is offloaded where there is no card")
    return _share_of_main_memory(facts, PINNED_SHARE)


def _share_of_main_memory(facts: Facts, share: float) -> Choice:
    """Of what is free; of all where that alone is known; of a container's limit where that is less."""
    free = facts.ram_free_gib if facts.ram_free_gib is not None else facts.ram_gib
    limits = [size for size in (free, facts.memory_limit_gib) if size is not None]
    if not limits:
        return Choice(None, "the main memory could not be read")
    size = min(limits)
    return Choice(int(size * share * GIB), f"{share:.0%} of the {size:.1f} GiB of main memory that are free")


def _checkpointing(facts: Facts, card: Optional[Gpu]) -> Choice:
    if card is None:
        return Choice(False, "main memory is large enough for small models; recomputing costs a third more time")
    if facts.is_wsl or facts.is_windows:
        return Choice(True, "kept on the card: offloading needs pinned host memory, which Windows and WSL2 limit")
    return Choice("unsloth", "activations are offloaded to main memory: the longest rows fit")


def _pin_memory(facts: Facts, card: Optional[Gpu]) -> Choice:
    if card is None:
        return Choice(False, "pinned memory only helps copies to a GPU")
    if facts.is_windows or facts.is_wsl:
        return Choice(False, "Windows and WSL2 limit pinned memory; running into it looks like 'out of memory'")
    return Choice(True, "faster copies to the card")


def _workers(facts: Facts) -> Choice:
    if facts.is_windows:
        return Choice(0, "Windows starts worker processes by importing the script again")
    return Choice(0, "rows are tokenised before training: one process feeds the card")


def _dataset_workers(facts: Facts) -> Choice:
    if facts.is_windows or facts.is_macos:
        return Choice(None, "worker processes import the script again here; the tokenizer itself uses all cores")
    cores = facts.cpu_count or 1
    ram = min(size for size in (facts.ram_free_gib, facts.ram_gib, facts.memory_limit_gib, 1024.0) if size is not None)
    count = max(1, min(cores, int(ram // 2), 8))
    return Choice(count if count > 1 else None, f"{cores} cores, {ram:.0f} GiB of main memory, 2 GiB for each process")


def _compile(facts: Facts, card: Optional[Gpu]) -> Choice:
    if card is None:
        return Choice(False, "compiling takes longer than it saves on short CPU runs")
    if facts.is_windows and facts.installed("triton-windows") is not True:
        return Choice(False, "torch.compile needs Triton; triton-windows was not found")
    if not facts.is_windows and (facts.c_compiler is False or facts.python_headers is False):
        return Choice(False, "Triton needs a C compiler and the Python headers, and one of them is missing")
    return Choice(True, "Triton can compile kernels on this machine")


def to_toml(settings: Settings) -> str:
    """One `key = value  # reason` line for each setting; a value that is not known is left out, its reason stays."""
    lines = []
    for item in fields(settings):
        value, reason = getattr(settings, item.name)
        lines.append(f"# {item.name}: {reason}" if value is None else f"{item.name} = {_toml(value)}  # {reason}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
