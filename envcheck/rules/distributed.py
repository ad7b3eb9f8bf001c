"""Rules: choosing among several GPUs, several processes, MIG."""

import re
from typing import Iterator, Optional

from envcheck import versions, wheels
from envcheck import visible as visible_cards
from envcheck.causes import finding
from envcheck.facts import Facts, Finding
from envcheck.known import variables
from envcheck.rules.cards import visible, wants_gpu


def card_count(facts: Facts) -> Optional[int]:
    """Cards of the machine, None where unknown."""
    if facts.gpu is not None:
        return len(wheels.nvidia_cards(facts)) or len(facts.gpu)
    return facts.gpu_count


def visible_count(facts: Facts) -> Optional[int]:
    """Cards one process can use: what CUDA_VISIBLE_DEVICES lists, at most what is there."""
    chosen = (facts.env or {}).get("CUDA_VISIBLE_DEVICES")
    count = card_count(facts)
    if chosen is None or not chosen.strip():
        return count
    listed = len([item for item in chosen.split(",") if item.strip()])
    return listed if count is None else min(listed, count)


def hidden_cards(facts: Facts) -> Iterator[Finding]:
    """CUDA stops at the first entry it does not know: a wrong first entry hides all cards, a wrong later one the
    rest.
    """
    chosen, count = (facts.env or {}).get("CUDA_VISIBLE_DEVICES"), card_count(facts)
    if chosen is None or not count or wants_gpu(facts) is False or facts.torch_build == "rocm":
        return
    details = [("CUDA_VISIBLE_DEVICES", chosen or "(empty)"), ("cards", f"{count}, numbered 0 to {count - 1}")]
    entries = visible_cards.entries(chosen)
    bad = [number for number, item in enumerate(entries) if _names_no_card(item, count)]
    if bad and bad[0] == 0:
        what = "CUDA_VISIBLE_DEVICES is empty or -1: every GPU is hidden." if entries[0] in ("", "-1") else ""
        yield finding("cuda-visible-devices-hides-gpu", facts, what, details)
    elif bad:
        yield finding(
            "cuda-visible-devices-hides-gpu",
            facts,
            "CUDA_VISIBLE_DEVICES lists a card that does not exist; it and those after it are hidden.",
            details,
            severity="warning",
        )


def _names_no_card(entry: str, count: int) -> bool:
    if re.match(r"^(GPU|MIG)-", entry):
        return False
    return not entry.isdigit() or int(entry) >= count


def misspelt_variables(facts: Facts) -> Iterator[Finding]:
    wrong = [(name, variables.meant(name)) for name in sorted(facts.env or {}) if variables.meant(name)]
    if wrong:
        yield finding("env-var-misspelled", facts, details=[(name, f"did you mean {right}?") for name, right in wrong])


def unlike_cards(facts: Facts) -> Iterator[Finding]:
    """Order and mixture of unlike cards, where the process may see more than one of them."""
    cards, env = visible(facts), facts.env or {}
    chosen = env.get("CUDA_VISIBLE_DEVICES", "")
    if len({gpu.name for gpu in cards}) < 2 or re.match(r"^(GPU|MIG)-[^,]+$", chosen):
        return
    names = [("cards", "; ".join(f"{number}: {gpu.name}" for number, gpu in enumerate(cards)))]
    majors = {capability[0] for capability in wheels.capabilities(facts)}
    order = "CUDA_DEVICE_ORDER" not in env
    if len(majors) > 1 and not re.match(r"^\d+$", chosen):
        needs_same = facts.run("load_in_8bit") or facts.run("load_in_4bit")
        weak = wheels.capabilities(facts)[0] < (7, 5)
        yield finding(
            "mixed-gpu-architectures", facts, details=names, severity="error" if needs_same and weak else "warning"
        )
    if order:
        yield finding("cuda-device-order", facts, details=names, severity="warning" if chosen else "note")


def processes(facts: Facts) -> Iterator[Finding]:
    """Processes of the launcher against the cards they can see."""
    asked = facts.run("nproc_per_node", "num_processes")
    count = visible_count(facts)
    if isinstance(asked, int) and count is not None and asked > max(count, 0) and count > 0:
        yield finding(
            "more-processes-than-gpus", facts, details=[("processes", str(asked)), ("visible cards", str(count))]
        )


def unsloth_on_several(facts: Facts) -> Iterator[Finding]:
    """Unsloth before 2025.3 refuses several visible cards; several processes fail in every release run by another
    framework.
    """
    version = facts.package("unsloth")
    old = facts.fits("unsloth", "<2025.3")
    started = facts.run("num_processes", "nproc_per_node")
    several = isinstance(started, int) and started > 1
    seen = visible_count(facts) or 0
    if (old and (seen > 1 or several)) or (
        facts.run("use_unsloth") and several and not versions.at_least(version, "2025.3")
    ):
        yield finding(
            "unsloth-single-gpu-only",
            facts,
            details=[
                ("unsloth", version or "unknown"),
                ("visible cards", str(seen or "unknown")),
                ("processes", str(started or 1)),
            ],
        )


def quantized_over_several(facts: Facts) -> Iterator[Finding]:
    quantized = facts.run("load_in_4bit") or facts.run("load_in_8bit")
    started = facts.run("num_processes", "nproc_per_node") or 1
    several = str(facts.run("distributed_type") or "").upper() == "MULTI_GPU" or (
        isinstance(started, int) and started > 1
    )
    if (
        quantized
        and (several or ((visible_count(facts) or 0) > 1 and not facts.installed("unsloth")))
        and not facts.run("use_unsloth")
    ):
        yield finding(
            "quantized-model-wrong-device",
            facts,
            "A 4-bit or 8-bit model must be loaded onto the card of its own process.",
            severity="warning",
        )


def peer_to_peer(facts: Facts) -> Iterator[Finding]:
    cards = [
        gpu
        for gpu in visible(facts)
        if re.search(r"RTX\s*(40|50)[5-9]0|RTX (40|50) series|RTX (4000|5000) series", gpu.name or "")
    ]
    if len(cards) < 2 or "NCCL_P2P_DISABLE" in (facts.env or {}) or (visible_count(facts) or 2) < 2:
        return
    started = facts.run("num_processes", "nproc_per_node", "num_gpus")
    severity = "error" if isinstance(started, int) and started > 1 else "warning"
    yield finding(
        "nccl-p2p-unsupported",
        facts,
        details=[("cards", "; ".join(gpu.name or "?" for gpu in cards))],
        severity=severity,
    )


def nccl_version(facts: Facts) -> Iterator[Finding]:
    blackwell = [card for card in map(wheels.capability, visible(facts)) if card and card[0] == 12]
    if len(blackwell) < 2:
        return
    for name in ("nvidia-nccl-cu12", "nvidia-nccl", "nvidia-nccl-cu13", "nccl"):
        if facts.fits(name, "<2.26.2"):
            yield finding(
                "nccl-too-old-for-gpu",
                facts,
                details=[(name, facts.shown_version(name)), ("needed", "2.26.2 for sm_120")],
            )
            return


def mig(facts: Facts) -> Iterator[Finding]:
    chosen = (facts.env or {}).get("CUDA_VISIBLE_DEVICES", "")
    slices = [gpu for gpu in wheels.nvidia_cards(facts) if re.search(r"\bMIG\b", gpu.name or "")]
    details = [
        ("CUDA_VISIBLE_DEVICES", chosen or "not set"),
        ("slices", "; ".join(gpu.name or "" for gpu in slices) or "unknown"),
    ]
    if chosen.startswith("MIG-") and "," in chosen:
        yield finding(
            "mig-instance-selection",
            facts,
            "Several MIG instances are listed; one process can use only the first.",
            details,
        )
    elif chosen.startswith("MIG-") and (facts.installed("vllm") or facts.run("fast_inference")):
        yield finding(
            "mig-instance-selection",
            facts,
            "CUDA_VISIBLE_DEVICES is a MIG UUID, which vLLM reads as a number.",
            details,
        )
    elif len(slices) > 1 and not chosen:
        yield finding(
            "mig-instance-selection", facts, "Several MIG instances are visible; one process can use only one.", details
        )


RULES = (
    misspelt_variables,
    hidden_cards,
    mig,
    unsloth_on_several,
    processes,
    nccl_version,
    peer_to_peer,
    quantized_over_several,
    unlike_cards,
)
