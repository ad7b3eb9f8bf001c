"""Symptoms with several causes: each reader looks at the context and at the facts, and decides. Pure."""

import re
from typing import Iterator, Tuple

from envcheck import known, rules, wheels
from envcheck.explain.clues import CERTAIN, DECIDED, HEAD_CHARACTERS, TYPICAL, Clue, Reader, excerpt
from envcheck.facts import Facts
from envcheck.known import variables


# -----------------------------------------------------------------------------------------
def old_or_new_card(text: str, facts: Facts) -> Iterator[Clue]:
    """torch's warnings about a card it has no code for: newer or older than its list?"""
    match = re.search(r"with CUDA capability (sm_\d+a?) is not compatible.{0,400}", text, re.IGNORECASE)
    if match:
        card = known.parse_capability(match.group(1).lower())
        built = [
            found
            for found in map(known.parse_capability, re.findall(r"sm_\d{2,3}", match.group(0)[40:].lower()))
            if found
        ]
        old = card is not None and (card < min(built) if built and min(built) != card else card < (7, 5))
        yield Clue("torch-dropped-gpu-arch" if old else "torch-lacks-gpu-arch", DECIDED, match.group(0)[:160])
    match = re.search(r"cuda capability (\d+\.\d)\..{0,160}?\((\d+\.\d)\) ?- ?\((\d+\.\d)\)", text, re.IGNORECASE)
    if match:
        card, low = known.parse_capability(match.group(1)), known.parse_capability(match.group(2))
        old = bool(card and low and card < low)
        yield Clue("torch-dropped-gpu-arch" if old else "torch-lacks-gpu-arch", DECIDED, match.group(0)[:160])
    elif re.search(r"minimum(?: and maximum)? cuda capability supported", text, re.IGNORECASE):
        newer = max(wheels.capabilities(facts) or [(0, 0)]) >= (10, 0)
        yield Clue(
            "torch-lacks-gpu-arch" if newer else "torch-dropped-gpu-arch",
            CERTAIN,
            "cuda capability supported by this version",
        )


def no_kernel_image(text: str, facts: Facts) -> Iterator[Clue]:
    """'no kernel image is available': which binary lacks the code? The file in the message says it, else the card."""
    match = re.search(r"no kernel image is available", text, re.IGNORECASE)
    if not match:
        return
    around = text[max(0, match.start() - 400) : match.end() + 300].lower()
    said = excerpt(text, match.start(), match.end())
    cards = wheels.capabilities(facts)
    if re.search(r"bitsandbytes|ops\.cu\b|libbitsandbytes", around):
        yield Clue("bnb-no-kernels-for-gpu", DECIDED, said)
    elif re.search(r"hopper|flash_fwd_launch_template|xformers", around):
        yield Clue("xformers-fa3-on-blackwell", DECIDED, said)
    elif re.search(r"flash_attn|flash-attn", around):
        yield Clue(
            "attention-kernel-unsupported" if cards and cards[0] < (8, 0) else "flash-attn-abi-mismatch", CERTAIN, said
        )
    elif "nccl" in around:
        yield Clue("nccl-too-old-for-gpu", CERTAIN, said)
    elif facts.torch_build == "rocm" or re.search(r"\bhip\b", around):
        yield Clue("bnb-no-kernels-for-gpu", TYPICAL, said)
    else:
        old = cards and cards[-1] < (7, 5)
        named_old = re.search(r"\b(?:gtx|tesla [kmp]\d|p100|p40|k80|titan x|quadro [kmp]\d|gt \d{3,4})", text.lower())
        yield Clue(
            "torch-dropped-gpu-arch" if old or (named_old and not cards) else "torch-lacks-gpu-arch", CERTAIN, said
        )


UNSEEN = (
    r"no cuda gpus are available|no cuda-capable device|found no nvidia driver|unsloth currently only works "
    r"on|torch\.cuda\.is_available\(\)|"
    r"no nvidia gpu found|cannot find any torch accelerator|no gpu found|no gpus? (?:were |was "
    r")?(?:found|detected|available)|"
    r"cuda is not available|torch\.cuda\.is_available\(\) is false|cuda unknown error|no accelerator|you need a "
    r"gpu|found no gpu|libnvidia-ml\.so|can only be used on cuda|"
    r"nvidia-smi: command not found|nvidia-smi' is not recognized"
)
SEES_NO_GPU = (
    "driver-library-mismatch",
    "driver-not-loaded",
    "driver-too-old-for-cuda",
    "container-gpu-access-missing",
    "cuda-visible-devices-hides-gpu",
    "torch-cpu-only-build",
    "no-gpu-present",
    "env-var-misspelled",
)


def no_gpu_seen(text: str, facts: Facts) -> Iterator[Clue]:
    """A program finds no card: what the machine shows decides."""
    match = re.search(UNSEEN, text, re.IGNORECASE)
    if not match:
        return
    said = excerpt(text, match.start(), match.end())
    wrong = [item.id for item in rules.judge(facts) if item.id in SEES_NO_GPU]
    if wrong:
        yield Clue(wrong[0], DECIDED, said)
    elif facts.gpu == ():
        yield Clue("no-gpu-present", DECIDED, said)
    elif re.search(r"\+cpu\b|cpu torch|torch\.version\.cuda[ =:]+none", text.lower()):
        yield Clue("torch-cpu-only-build", DECIDED, said)
    elif facts.is_container:
        yield Clue("container-gpu-access-missing", TYPICAL, said)
    elif facts.is_notebook:
        yield Clue("no-gpu-present", TYPICAL, said)
    elif re.search(r"found no nvidia driver|cuda unknown error", match.group(0).lower()):
        yield Clue("driver-not-loaded", TYPICAL, said)
    elif re.search(r"cuda_visible_devices", text.lower()) or "no cuda gpus" in match.group(0).lower():
        yield Clue("cuda-visible-devices-hides-gpu", TYPICAL, said)


def out_of_memory(text: str, facts: Facts) -> Iterator[Clue]:
    """Out of memory: while loading, training, evaluating or merging; of the card, or of pinned memory in WSL?"""
    match = re.search(
        r"out ?of ?memory(?:error)?|tried to allocate|\bOOM\b|ran out of (?:v?ram|memory)", text, re.IGNORECASE
    )
    if not match:
        return
    said, lowered = excerpt(text, match.start(), match.end()), text.lower()
    before = lowered[max(0, match.start() - 4000) : match.start()]
    both = before + lowered[match.start() : match.end() + 400]
    if re.search(
        r"torch_pad_and_concatenate|nested_concat|prediction_step|evaluation_loop|compute_metrics|trainer\.evaluate\(",
        both,
    ):
        yield Clue("oom-evaluation", DECIDED, said)
    elif re.search(
        r"save_pretrained_merged|push_to_hub_merged|merge_and_unload|unsloth_save_model|merged_16bit|"
        r"save_pretrained_gguf|\bmerging\b|\bwhile merg",
        both,
    ):
        yield Clue("oom-save-merge", DECIDED, said)
    elif re.search(r"pin_memory|pinned|cudahostalloc|cudahostregister|cachinghostallocator", both):
        yield Clue("wsl-pinned-memory", DECIDED if facts.is_wsl else TYPICAL, said)
    elif facts.is_wsl and re.search(r"cuda error: out of memory", lowered) and "tried to allocate" not in lowered:
        yield Clue("wsl-pinned-memory", DECIDED, said)  # the driver's own message, not that of torch's allocator
    elif any(item.id == "model-does-not-fit-vram" for item in rules.judge(facts)):
        yield Clue("model-does-not-fit-vram", DECIDED, said)
    elif re.search(
        r"loading checkpoint shards|load_checkpoint_in_model|_load_pretrained_model|from_pretrained\(|load_state_dict",
        before,
    ) and not re.search(r"trainer\.train|training_step|\.backward\(|compute_loss", both):
        yield Clue("model-does-not-fit-vram", CERTAIN, said)


def too_many_processes(text: str, facts: Facts) -> Iterator[Clue]:
    match = re.search(r"invalid device ordinal", text, re.IGNORECASE)
    if match and (facts.run("use_unsloth") or "unsloth" in text.lower()):
        yield Clue("unsloth-single-gpu-only", DECIDED, excerpt(text, match.start(), match.end()))


def misspelt_variable(text: str, facts: Facts) -> Iterator[Clue]:
    """An assignment of a name that is nearly a variable: NAME=value, or NAME in os.environ."""
    for match in re.finditer(
        r"\b([A-Za-z][A-Za-z0-9_]{6,40})\s?=|environ\['([A-Za-z0-9_]{6,40})'\]|environ(?:\.setdefault|\.get)?\('([A-Za-z0-9_]{6,40})'",
        text[:HEAD_CHARACTERS],
    ):
        name = next(group for group in match.groups() if group)
        right = variables.meant(name) if "_" in name and name.upper() == name else None
        if right:
            yield Clue("env-var-misspelled", DECIDED, f"{name} (did you mean {right}?)")
            return


def workers_on_windows(text: str, facts: Facts) -> Iterator[Clue]:
    match = re.search(
        r"subprocesses has abruptly died|dataloader worker.{0,60}exited unexpectedly|process pool was terminated",
        text,
        re.IGNORECASE,
    )
    if match and facts.is_windows:
        yield Clue("windows-multiprocessing-spawn", CERTAIN, excerpt(text, match.start(), match.end()))


def wrong_copy(text: str, facts: Facts) -> Iterator[Clue]:
    """The message finds a version that pip does not report: another copy is imported."""
    for match in re.finditer(r"but found ([\w-]+)==([\d.]+)", text):
        there = facts.package(match.group(1))
        if there is not None and there != match.group(2):
            yield Clue("environment-mixup", DECIDED, match.group(0))
            return


def named_symbol(text: str, facts: Facts) -> Iterator[Clue]:
    """bitsandbytes: 'named symbol not found' on one of several unlike cards is the mixture, not the library."""
    match = re.search(r"named symbol not found", text, re.IGNORECASE)
    if match and len({card[0] for card in wheels.capabilities(facts)}) > 1:
        yield Clue("mixed-gpu-architectures", DECIDED, excerpt(text, match.start(), match.end()))


def other_machine_kinds(text: str, facts: Facts) -> Iterator[Clue]:
    """A compiled package beside a CPU or ROCm torch: the build of torch is the cause."""
    match = re.search(r"you have \d[\w.]*\+(cpu|rocm)", text, re.IGNORECASE)
    if match:
        yield Clue(
            "torch-cpu-only-build" if match.group(1).lower() == "cpu" else "cuda-package-on-rocm",
            DECIDED,
            excerpt(text, match.start(), match.end()),
        )
    elif facts.torch_build == "rocm":
        asked = re.search(r"flash[-_]attn|xformers", text, re.IGNORECASE)
        if asked and re.search(r"nvcc|cuda_home|libcud|\+cu\d", text, re.IGNORECASE):
            yield Clue("cuda-package-on-rocm", DECIDED, excerpt(text, asked.start(), asked.end()))


def trainer_argument(text: str, facts: Facts) -> Iterator[Clue]:
    """An unexpected argument: did the user's script pass it, or one library to another?"""
    match = re.search(r"got an unexpected keyword argument '(\w+)'", text)
    if not match:
        return
    before = text[max(0, match.start() - 500) : match.start()]
    called = re.search(r"(\w{1,60})(?:\.__init__)?(?:\(\))? ?$", before)
    said, before = excerpt(text, match.start() - 40, match.end()), before.lower()
    if called and called.group(1) == "Trainer" and re.search(r"trl[/\\]trainer", before):
        yield Clue("package-set-out-of-step", DECIDED, said)
    elif re.search(r"unsloth[/\\]|unsloth_zoo", before) and match.group(1) not in (
        "tokenizer",
        "max_seq_length",
        "dataset_text_field",
    ):
        yield Clue("newer-than-unsloth-supports", CERTAIN, said)


def several_cards(text: str, facts: Facts) -> Iterator[Clue]:
    """NCCL fails with an unhandled CUDA error or a timeout: too old for the cards, or no peer-to-peer between them."""
    match = re.search(
        r"ncclunhandledcudaerror|nccl.{0,80}unhandled cuda error|collective operation timeout", text.lower()
    )
    if not match:
        return
    said = excerpt(text, match.start(), match.end())
    cards = wheels.capabilities(facts)
    if len([card for card in cards if card[0] == 12]) > 1 and "timeout" not in match.group(0):
        yield Clue("nccl-too-old-for-gpu", CERTAIN, said)
    elif any(item.id == "nccl-p2p-unsupported" for item in rules.judge(facts)):
        yield Clue("nccl-p2p-unsupported", CERTAIN, said)


def old_system_library(text: str, facts: Facts) -> Iterator[Clue]:
    """A missing symbol version of libstdc++ or glibc is the cause, whatever package asks for it."""
    match = re.search(r"(?:GLIBCXX|CXXABI|GLIBC)_[\d.]+' not found", text)
    if match:
        yield Clue("system-library-too-old", DECIDED, excerpt(text, match.start(), match.end()))


READERS: Tuple[Reader, ...] = (
    old_or_new_card,
    no_kernel_image,
    no_gpu_seen,
    out_of_memory,
    too_many_processes,
    misspelt_variable,
    workers_on_windows,
    wrong_copy,
    named_symbol,
    other_machine_kinds,
    trainer_argument,
    several_cards,
    old_system_library,
)
