"""Rules: the card, its driver and the torch build."""

import re
from typing import Iterator, List, Optional, Tuple

from envcheck import known, other_gpus, versions, wheels
from envcheck import visible as seen
from envcheck.causes import finding
from envcheck.facts import Facts, Finding, Gpu

FIRST_CUDA_OF_MAJOR = {7: "9.0", 8: "11.0", 9: "11.8", 10: "12.8", 11: "13.0", 12: "12.8"}  # NVIDIA CUDA release notes


def wants_gpu(facts: Facts) -> Optional[bool]:
    """Is the planned run meant for a GPU? None where nothing says so."""
    if str(facts.run("device") or "").lower() == "cpu":
        return False
    signs = ("load_in_4bit", "load_in_8bit", "fp16", "bf16", "tf32", "fast_inference", "num_gpus")
    if any(facts.run(name) for name in signs) or "8bit" in str(facts.run("optim") or ""):
        return True
    return True if facts.is_notebook else None


def visible(facts: Facts) -> Tuple[Gpu, ...]:
    """The NVIDIA cards a process can see; where it can see none, those that are there: that is a finding of its own."""
    return seen.cards(facts) or wheels.nvidia_cards(facts)


def _card_lines(facts: Facts) -> List[Tuple[str, str]]:
    names = [
        f"{gpu.name or 'unnamed'} (sm_%d%d)" % wheels.capability(gpu)
        for gpu in visible(facts)
        if wheels.capability(gpu)
    ]
    built = " ".join(facts.torch_arch_list or ())
    torch = facts.shown_version("torch") + (f", CUDA {facts.torch_build}" if facts.torch_build else "")
    return [("GPU", "; ".join(names)), ("PyTorch", torch + (f", built for {built}" if built else ""))]


def compiled_for(facts: Facts) -> Optional[List[str]]:
    """What torch was built for: its own list, else the table's for this release and CUDA variant."""
    if facts.torch_arch_list:
        return list(facts.torch_arch_list)
    build = facts.torch_build
    if build in (None, "cpu", "rocm"):
        return None
    return known.architectures(facts.package("torch"), known.variant_of(build), wheels.platform_of(facts))


def serves(facts: Facts, card: known.Capability) -> str:
    """ "yes", "too new", "too old" or "unknown": what the torch build says to this card."""
    built = compiled_for(facts)
    capabilities = sorted(found for found in map(known.parse_capability, built or ()) if found)
    if not facts.torch_arch_list and _serves_by_version(facts, card) == "too old":
        return "too old"  # some rows for Windows are reported with more cards than the release notes promise
    if capabilities:
        if known.serves(built or [], card):
            return "yes"
        return "too old" if card < capabilities[0] else "too new"
    return _serves_by_version(facts, card)


def _serves_by_version(facts: Facts, card: known.Capability) -> str:
    build, torch = facts.torch_build, versions.parse(facts.package("torch"))
    if card >= (10, 0) and torch and torch.release[:2] < (2, 7) and build not in ("cpu", "rocm"):
        return "too new"
    if build in (None, "cpu", "rocm"):
        return "unknown"
    if versions.below(build, FIRST_CUDA_OF_MAJOR.get(card[0], "0")):
        return "too new"
    late = torch and torch.release[:2] >= (2, 11)
    floor = (
        (7, 5)
        if versions.at_least(build, "13.0") or (late and versions.at_least(build, "12.8"))
        else ((7, 0) if versions.at_least(build, "12.8") else (3, 5))
    )
    return "too old" if card < floor else "yes"


def torch_against_card(facts: Facts) -> Iterator[Finding]:
    cards = sorted({found for found in map(wheels.capability, visible(facts)) if found})
    answers = {card: serves(facts, card) for card in cards}
    bad = {"too new", "too old"} & set(answers.values())
    if not bad or str(facts.run("device")) == "cpu":
        return
    if len(cards) > 1 and not _one_wheel_serves(cards, facts):
        yield finding(
            "mixed-gpu-architectures",
            facts,
            "No single PyTorch build serves all cards that are visible.",
            _card_lines(facts),
            severity="error",
        )
        return
    if "too new" in bad:
        newest = "sm_%d%d" % max(card for card in cards if answers[card] == "too new")
        yield finding(
            "torch-lacks-gpu-arch",
            facts,
            f"Your GPU needs {newest} kernels. This PyTorch build has none.",
            _card_lines(facts),
        )
    if "too old" in bad:
        oldest = "sm_%d%d" % min(card for card in cards if answers[card] == "too old")
        yield finding(
            "torch-dropped-gpu-arch",
            facts,
            f"This PyTorch build no longer serves cards as old as {oldest}.",
            _card_lines(facts),
        )


def _one_wheel_serves(cards: List[known.Capability], facts: Facts) -> bool:
    platform = wheels.platform_of(facts)
    lists = (row.get(platform) for row in known.table("torch")["architectures"])
    return any(built and all(known.serves(built, card) for card in cards) for built in lists)


def cpu_only_torch(facts: Facts) -> Iterator[Finding]:
    """A CPU build although an NVIDIA card, a driver or a CUDA package says that a GPU is meant."""
    if facts.is_macos or wants_gpu(facts) is False or facts.torch_build == "rocm":
        return
    cards = wheels.nvidia_cards(facts)
    if facts.torch_build == "cpu":
        others = (str((facts.package(name) or "")) for name in ("torchvision", "torchaudio", "xformers", "flash-attn"))
        built = (str(item.get("torch", "")) for item in (facts.built_for or {}).values())
        meant = cards or (
            facts.gpu is None
            and (
                facts.driver
                or facts.driver_cuda
                or wants_gpu(facts)
                or any("+cu" in text for text in (*others, *built))
            )
        )
        if meant:
            yield finding(
                "torch-cpu-only-build",
                facts,
                details=_card_lines(facts) if cards else [("PyTorch", facts.shown_version("torch"))],
            )
    elif facts.torch_build is None and facts.torch_cuda_available is False and cards and not _other_reason(facts):
        yield finding(
            "torch-cpu-only-build",
            facts,
            "There is an NVIDIA GPU, but torch sees no CUDA: very likely a build without it.",
            _card_lines(facts),
        )


def _other_reason(facts: Facts) -> bool:
    """Something else already explains why torch sees no GPU."""
    hidden = "CUDA_VISIBLE_DEVICES" in (facts.env or {})
    return bool(facts.nvidia_smi) or hidden or facts.is_container or any(driver_too_old(facts))


def no_gpu(facts: Facts) -> Iterator[Finding]:
    if facts.gpu != () and facts.gpu_count != 0:
        return
    if wants_gpu(facts) is False or facts.is_macos:
        return
    cuda_build = facts.torch_build not in (None, "cpu", "rocm")
    if facts.is_container and (cuda_build or wants_gpu(facts)):
        yield finding("container-gpu-access-missing", facts)
    elif (
        wants_gpu(facts)
        or cuda_build
        or (facts.installed("unsloth") and facts.torch_build is None and facts.training is None)
    ):
        yield finding("no-gpu-present", facts)


def container_without_gpu(facts: Facts) -> Iterator[Finding]:
    """A CUDA build in a container, the card belongs to the machine, yet torch sees nothing."""
    cuda_build = facts.torch_build not in (None, "cpu", "rocm")
    blind = facts.is_container and facts.torch_cuda_available is False and cuda_build and facts.gpu != ()
    if (
        blind
        and "CUDA_VISIBLE_DEVICES" not in (facts.env or {})
        and not any(driver_too_old(facts))
        and not facts.nvidia_smi
    ):
        yield finding("container-gpu-access-missing", facts)


def not_nvidia(facts: Facts) -> Iterator[Finding]:
    """AMD, Intel and Apple: the GPU is named, and that it idles; also where torch is built for it."""
    names = other_gpus.names(facts)
    if names:
        what = f"The kit does not use this GPU ({names}): it trains, answers and merges on the CPU."
        build = {"rocm": "a ROCm build, which the kit tells to leave the card alone"}.get(facts.torch_build or "")
        torch = [("PyTorch", f"{facts.shown_version('torch')}, {build}")] if build else []
        yield finding("gpu-not-nvidia", facts, what, details=torch)


def torch_missing(facts: Facts) -> Iterator[Finding]:
    if facts.installed("torch") is False:
        yield finding("torch-missing", facts)


# --- driver -----------------------------------------------------------------------------------------------------------
def driver_too_old(facts: Facts) -> Iterator[Finding]:
    """The driver's version against what torch's CUDA and the card need; a torch that works proves it new enough."""
    if facts.torch_cuda_available or facts.is_macos:
        return
    build = facts.torch_build
    cuda = build if build not in (None, "cpu", "rocm") else None
    details = [
        ("driver", f"{facts.driver or 'unknown'}, runs CUDA up to {facts.driver_cuda or 'unknown'}"),
        ("PyTorch", f"built for CUDA {cuda}"),
    ]
    if cuda:
        floor = known.floor_of_cuda(cuda, facts.is_windows)
        lower_major = facts.driver_cuda and versions.below(facts.driver_cuda.split(".")[0], cuda.split(".")[0])
        if lower_major or (floor and versions.below(facts.driver, floor)):
            yield finding("driver-too-old-for-cuda", facts, details=details)
            return
    for card in map(wheels.capability, visible(facts)):
        first = known.first_driver_of_card(card, facts.is_windows) if card else None
        if first and versions.below(facts.driver, first.split(".")[0]):
            what = (
                "The NVIDIA driver is older than the card: its generation needs driver %s or newer."
                % first.split(".")[0]
            )
            yield finding("driver-too-old-for-cuda", facts, what, details[:1])
            return


SMI_SAYS = (
    ("driver-library-mismatch", r"version mismatch"),
    ("gpu-hardware-fault", r"gpu is lost|fallen off the bus|unable to determine the device handle"),
    (
        "driver-not-loaded",
        r"couldn'?t communicate with the nvidia driver|driver not loaded|blocked by the operating system|"
        r"no devices were found|nvidia-smi has failed|command not found|not recognized|driver is not loaded",
    ),
)


def nvidia_smi_message(facts: Facts) -> Iterator[Finding]:
    """What nvidia-smi itself says when it fails."""
    said = (facts.nvidia_smi or "").lower()
    if facts.is_container and re.search(r"not found|unknown error|not recognized|no such file", said):
        yield finding("container-gpu-access-missing", facts, details=[("nvidia-smi", said)])
        return
    for cause_id, pattern in SMI_SAYS:
        if re.search(pattern, said):
            yield finding(cause_id, facts, details=[("nvidia-smi", (facts.nvidia_smi or "").strip())])
            return


DRIVER = (nvidia_smi_message, driver_too_old, container_without_gpu)
TORCH = (torch_missing, cpu_only_torch, torch_against_card, no_gpu, not_nvidia)
