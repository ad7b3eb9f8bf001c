"""Rules: the planned run against the machine: precision, data, memory, disk, model."""

import re
from typing import Iterator, List, Optional

from envcheck import known, versions, wheels
from envcheck.causes import finding
from envcheck.facts import Facts, Finding
from envcheck.rules.cards import visible, wants_gpu
from envcheck.shell import Shell

BYTES_OF_4_BIT, BYTES_OF_8_BIT, BYTES_OF_16_BIT = 0.55, 1.0, 2.0  # per parameter, at least; arithmetic
GIB = float(1 << 30)
LITTLE_DISK_GIB = 5.0
FIRST_DRIVER_WITH_FALLBACK = "536.40"
LEAST_COMMIT_GIB = 24.0  # Windows: main memory + page file below which loading a 4-bit 8B model failed in user reports


def billions(model: Optional[str]) -> Optional[float]:
    """Parameters in thousand millions, from the name: "70B" -> 70, "8x7B" -> 46.7, "30B-A3B" -> 30; None where it has
    none.

    >>> billions("unsloth/Meta-Llama-3.1-70B-bnb-4bit"), billions("Mixtral-8x7B"), billions("Mistral")
    (70.0, 46.7, None)
    """
    text = (model or "").lower()
    experts = re.search(r"(?<![a-z0-9])(\d+)x(\d+(?:\.\d+)?)b\b", text)
    if experts:
        count, size = int(experts.group(1)), float(experts.group(2))
        return {(8, 7.0): 46.7, (8, 22.0): 141.0}.get((count, size), 0.85 * count * size)
    found = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z0-9])", re.sub(r"\b\d+[-_ ]?bit|bnb", " ", text))
    if not found:
        return None
    return float(found.group(1)) / (1 if found.group(2) == "b" else 1000)


def bytes_per_parameter(facts: Facts) -> float:
    """The least that is plausible: 4-bit unless the run says otherwise."""
    name = (facts.model or "").lower()
    if facts.run("load_in_4bit") or re.search(r"4-?bit|awq|gptq|int4|mxfp4|nvfp4|gpt-?oss", name):
        return BYTES_OF_4_BIT
    if facts.run("load_in_8bit") or re.search(r"fp8|int8|8-?bit", name):
        return BYTES_OF_8_BIT
    return BYTES_OF_16_BIT if facts.run("load_in_4bit") is False else BYTES_OF_4_BIT


def weights_against_card(facts: Facts) -> Iterator[Finding]:
    size = billions(facts.model)
    cards = [gpu.vram_gib for gpu in visible(facts) if gpu.vram_gib]
    if size is None or not cards or wants_gpu(facts) is False or len(cards) != len(visible(facts)):
        return
    room = (
        sum(cards)
        if len(cards) > 1
        else cards[0] * max(1, facts.run("num_gpus") if isinstance(facts.run("num_gpus"), int) else 1)
    )
    needed = size * 1e9 * bytes_per_parameter(facts) / GIB
    if needed > room:
        yield finding(
            "model-does-not-fit-vram",
            facts,
            details=[("weights", f"at least {needed:.0f} GiB"), ("card", f"{room:g} GiB")],
        )


def bf16_on_old_card(facts: Facts) -> Iterator[Finding]:
    asked = [name for name in ("bf16", "tf32") if facts.run(name) is True]
    if re.search(r"bf(loat)?16", str(facts.run("dtype", "torch_dtype") or "").lower()):
        asked.append("dtype bfloat16")
    cards = sorted(card for card in map(wheels.capability, visible(facts)) if card)
    if asked and cards and cards[0] < (8, 0):
        yield finding("bf16-unsupported", facts, details=[("asked", ", ".join(asked)), ("GPU", "sm_%d%d" % cards[0])])


def flags_disagree(facts: Facts) -> Iterator[Finding]:
    bf16, fp16, dtype = facts.run("bf16"), facts.run("fp16"), str(facts.run("dtype") or "").lower()
    quantized = facts.run("load_in_4bit") or facts.run("load_in_8bit")
    if bf16 is True and fp16 is True:
        yield finding("precision-mismatch", facts, "bf16 and fp16 are both on; only one can be.")
    elif bf16 is False and fp16 is False and (quantized or facts.run("lora")) and wants_gpu(facts) is not False:
        yield finding(
            "precision-mismatch",
            facts,
            "bf16 and fp16 are both off, while the model itself is 16-bit: autocast is missing.",
        )
    elif (bf16 is True and "float16" in dtype and "bfloat16" not in dtype) or (fp16 is True and "bfloat16" in dtype):
        yield finding(
            "precision-mismatch", facts, "The model's dtype and the precision flag disagree.", [("dtype", dtype)]
        )


def float16_range(facts: Facts) -> Iterator[Finding]:
    """Gemma and pure half weights overflow float16; Unsloth from 2025.3 on keeps Gemma in float32 where needed."""
    gemma = re.search(r"gemma", (facts.model or "").lower())
    half = facts.run("fp16") is True or re.match(r"^(float16|fp16|half)$", str(facts.run("dtype") or "").lower())
    if facts.run("model_half") is True:
        what = "The model was cast with .half(): weights, gradients and updates are all float16."
        yield finding("fp16-overflow", facts, what, severity="error")
    elif half and gemma:
        handled = facts.fits("unsloth", ">=2025.3")
        yield finding(
            "fp16-overflow",
            facts,
            "Gemma models leave the range of float16.",
            severity="warning" if handled else "error",
        )


def response_markers(facts: Facts) -> Iterator[Finding]:
    model = (facts.model or "").lower()
    row = next((row for row in known.table("models")["templates"] if re.search(row["pattern"], model)), None)
    given = [str(facts.run(name)) for name in ("instruction_part", "response_part") if facts.run(name)]
    if row is None:
        return
    wrong = [text for text in given if not any(token in text for token in row["tokens"])]
    if wrong:
        yield finding(
            "all-labels-masked",
            facts,
            "The markers of train_on_responses_only are not those of this model's chat template.",
            [("given", " ".join(wrong)), (f"the {row['name']} template writes", " ".join(row["tokens"]))],
        )


def base_model_with_chat(facts: Facts) -> Iterator[Finding]:
    model = (facts.model or "").lower()
    tuned = re.search(
        r"instruct|chat|[-_]it\b|[-_]it-|assistant|thinking|hermes|zephyr|r1|gpt-?oss|vicuna|qwen-?3(?!.*base)|-base-chat",
        model,
    )
    if (
        facts.run("apply_chat_template") is True
        and model
        and not tuned
        and re.search(r"llama|mistral|gemma|qwen|phi|base", model)
    ):
        yield finding(
            "chat-template-missing",
            facts,
            "The model looks like a base model, and base models have no chat template.",
            [("model", str(facts.model))],
            severity="warning" if "base" not in model else "error",
        )


def target_modules(facts: Facts) -> Iterator[Finding]:
    given = facts.run("target_modules", "lora_target")
    names: List[str] = [str(item) for item in given] if isinstance(given, (list, tuple)) else []
    if not names or "all-linear" in names or "all" in names:
        return
    patterns = [name for name in names if re.search(r"[*\\^$|()?+\[\]]", name)]
    if patterns:
        yield finding(
            "lora-target-modules-not-found",
            facts,
            "A regular expression inside a list is taken as a literal name.",
            [("given", " ".join(patterns))],
        )
        return
    row = next(
        (row for row in known.table("models")["modules"] if re.search(row["pattern"], (facts.model or "").lower())),
        None,
    )
    if row and not any(name.split(".")[-1] in row["modules"] for name in names):
        yield finding(
            "lora-target-modules-not-found",
            facts,
            details=[("given", " ".join(names)), ("this model has", " ".join(row["modules"]))],
        )


# --- memory, disk, workers --------------------------------------------------------------------------------------------
def pinned_memory_in_wsl(facts: Facts) -> Iterator[Finding]:
    if facts.is_wsl and facts.run("use_gradient_checkpointing") == "unsloth":
        yield finding("wsl-pinned-memory", facts, severity="warning")


def borrowed_memory(facts: Facts) -> Iterator[Finding]:
    """Nothing tells how the driver is set; without the setting it fills main memory when the card is full."""
    has_fallback = not versions.below(facts.driver, FIRST_DRIVER_WITH_FALLBACK)
    if (facts.is_windows or facts.is_wsl) and visible(facts) and wants_gpu(facts) is not False and has_fallback:
        yield finding("windows-sysmem-fallback", facts)


def evaluation_logits(facts: Facts) -> Iterator[Finding]:
    if facts.run("compute_metrics") is True:
        yield finding("oom-evaluation", facts, severity="warning")


def windows_workers(facts: Facts) -> Iterator[Finding]:
    """Workers on Windows; Unsloth before 2026.4 starts one per core by itself when the run does not say otherwise."""
    if not facts.is_windows:
        return
    counts = [
        facts.run(name)
        for name in ("dataset_num_proc", "dataloader_num_workers", "preprocessing_num_workers", "num_proc")
    ]
    started = [count for count in counts if isinstance(count, int)]
    if any(count > 1 for count in started) or (
        isinstance(facts.run("dataloader_num_workers"), int) and facts.run("dataloader_num_workers") > 0
    ):
        yield finding("windows-multiprocessing-spawn", facts)
    elif not started and facts.fits("unsloth", "<2026.4"):
        yield finding(
            "windows-multiprocessing-spawn",
            facts,
            "This Unsloth starts dataset workers by itself, which Windows cannot fork.",
            [("unsloth", facts.shown_version("unsloth"))],
            severity="warning",
        )


def page_file(facts: Facts) -> Iterator[Finding]:
    if (
        facts.is_windows
        and facts.swap_gib is not None
        and facts.ram_gib is not None
        and facts.swap_gib + facts.ram_gib < LEAST_COMMIT_GIB
    ):
        what = "Main memory and page file together are small: loading a large model can end in WinError 1455."
        yield finding(
            "windows-pagefile-too-small",
            facts,
            what,
            details=[("RAM", f"{facts.ram_gib:g} GiB"), ("page file", f"{facts.swap_gib:g} GiB")],
            severity="warning",
        )


def allocator_option(facts: Facts) -> Iterator[Finding]:
    env = facts.env or {}
    names = [
        name
        for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
        if re.search(r"expandable_segments\s*:\s*true", env.get(name, "").lower())
    ]
    sleeping = facts.run("vllm_enable_sleep_mode") is True
    if names and (sleeping or facts.is_windows):
        yield finding(
            "expandable-segments-conflict",
            facts,
            details=[(name, env[name]) for name in names],
            severity="error" if sleeping else "warning",
        )


def disk_for_merge(facts: Facts) -> Iterator[Finding]:
    size, free = billions(facts.model), facts.disk_free_gib
    merging = str(facts.run("save_method") or "").startswith("merged_16bit")
    if merging and size and free is not None:
        needed = size * 1e9 * BYTES_OF_16_BIT / GIB
        if 2 * needed > free:
            severity = "error" if needed > free else "warning"
            yield finding(
                "disk-full",
                facts,
                "Merging needs twice the 16-bit size of the model.",
                severity=severity,
                details=[("needed", f"{2 * needed:.0f} GiB"), ("free", f"{free:g} GiB")],
            )
            return
    if free is not None and free < LITTLE_DISK_GIB:
        yield finding(
            "disk-full",
            facts,
            "There is hardly any free disk space.",
            [("free", f"{free:g} GiB")],
            severity="warning" if free > 0.5 else "error",
        )


def memory_for_merge(facts: Facts) -> Iterator[Finding]:
    size, ram = billions(facts.model), facts.ram_gib
    if str(facts.run("save_method") or "").startswith("merged_16bit") and size and ram is not None:
        needed = size * 1e9 * BYTES_OF_16_BIT / GIB
        if needed > ram + sum(gpu.vram_gib or 0 for gpu in visible(facts)):
            yield finding(
                "oom-save-merge",
                facts,
                details=[("16-bit model", f"{needed:.0f} GiB"), ("RAM", f"{ram:g} GiB")],
                severity="warning",
            )


# --- model and hub ----------------------------------------------------------------------------------------------------
def gated_model(facts: Facts) -> Iterator[Finding]:
    row = next(
        (row for row in known.table("models")["gated"] if re.search(row["pattern"], facts.model or "", re.IGNORECASE)),
        None,
    )
    if row and facts.hf_logged_in is False:
        yield finding("model-gated", facts, details=[("model", str(facts.model))], severity=row["severity"])


def merge_of_4bit_base(facts: Facts) -> Iterator[Finding]:
    quantized = re.search(r"bnb|4-?bit|gptq|awq", (facts.model or "").lower())
    if (
        str(facts.run("save_method") or "") == "merged_16bit"
        and quantized
        and not (facts.model or "").lower().startswith("unsloth/")
    ):
        yield finding("merge-needs-16bit-base", facts, details=[("model", str(facts.model))])


def hub_unreachable(facts: Facts) -> Iterator[Finding]:
    if facts.hub_reachable is False:
        fix = (
            "# models must be in a local folder or in the cache; with everything in the cache no connection is tried:",
            Shell(facts).set_env("HF_HUB_OFFLINE", "1"),
        )
        yield finding(
            "hub-download-failed", facts, "The model hub cannot be reached from here.", severity="note", fix=fix
        )


RULES = (
    bf16_on_old_card,
    weights_against_card,
    target_modules,
    response_markers,
    flags_disagree,
    float16_range,
    base_model_with_chat,
    merge_of_4bit_base,
    gated_model,
)
MEMORY = (
    allocator_option,
    disk_for_merge,
    memory_for_merge,
    pinned_memory_in_wsl,
    windows_workers,
    page_file,
    evaluation_logits,
    borrowed_memory,
)
HUB = (hub_unreachable,)
