"""Which torch wheel fits a card and a driver, and the command that installs it. Pure; imports facts, known, shell."""

from typing import List, NamedTuple, Optional, Tuple

from envcheck import known, versions
from envcheck.facts import Facts, Gpu
from envcheck.shell import WHEELS, Shell

FIRST_DRIVER_OF_CUDA_13 = "580"
NEWEST_TORCH_OF = {
    "cu118": "2.7.1",
    "cu121": "2.5.1",
    "cu124": "2.6.0",
    "cu126": "2.14.1",
    "cu128": "2.11.0",
    "cu129": "2.8.0",
    "cu130": "2.14.1",
    "cu132": "2.14.1",
}  # below 2.15: see known/packages.json, unsloth


class Wheel(NamedTuple):
    """`variant`: cpu, cu126, cu128, cu130; `reason`: why this one, in half a sentence."""

    torch: str
    variant: str
    reason: str


def capability(gpu: Gpu) -> Optional[known.Capability]:
    return known.capability(gpu.name, gpu.compute_capability) if gpu.vendor in (None, "nvidia") else None


def nvidia_cards(facts: Facts) -> Tuple[Gpu, ...]:
    """Cards that are NVIDIA's or may be: a card of unknown maker with a compute capability is one of theirs."""
    return tuple(gpu for gpu in facts.gpu or () if gpu.vendor == "nvidia")


def capabilities(facts: Facts) -> List[known.Capability]:
    """Of all NVIDIA cards, oldest first."""
    return sorted(found for found in map(capability, nvidia_cards(facts)) if found)


def platform_of(facts: Facts) -> str:
    """The key of known/torch.json."""
    if facts.is_windows:
        return "windows_amd64"
    return "linux_aarch64" if facts.is_arm else "linux_x86_64"


def driver_takes_cuda_13(facts: Facts) -> Optional[bool]:
    """None where neither the driver nor its CUDA version is known."""
    if facts.driver:
        return versions.at_least(facts.driver, FIRST_DRIVER_OF_CUDA_13)
    return versions.at_least(facts.driver_cuda, "13.0") if facts.driver_cuda else None


def choose(facts: Facts) -> Wheel:
    """The wheel for a new installation: the kit's own three sets, and cu126 for cards older than Turing."""
    cards = capabilities(facts)
    if cards and cards[0] < (7, 5):
        return Wheel(
            NEWEST_TORCH_OF["cu126"], "cu126", "the last CUDA variant with code for cards before Turing (sm_75)"
        )
    takes_13 = driver_takes_cuda_13(facts)
    if facts.is_arm and not facts.is_macos and cards:
        return Wheel(NEWEST_TORCH_OF["cu130"], "cu130", "the variant for ARM machines with an NVIDIA card")
    if takes_13:
        return Wheel(NEWEST_TORCH_OF["cu130"], "cu130", "the driver takes CUDA 13 (580 or newer)")
    if takes_13 is None:
        return Wheel(
            NEWEST_TORCH_OF["cu128"], "cu128", "works with every driver from 570 on; the driver's version is not known"
        )
    return Wheel(NEWEST_TORCH_OF["cu128"], "cu128", "the driver is older than 580, so CUDA 13 builds cannot run")


def same_torch(facts: Facts) -> Wheel:
    """A CUDA wheel of the installed torch release where that serves the card, else the one for a new installation."""
    fresh = choose(facts)
    release = known.torch_release(facts.package("torch"))
    cards = capabilities(facts)
    if release is None or not cards:
        return fresh
    for variant in (fresh.variant, "cu130", "cu128", "cu126"):
        built = known.architectures(release["torch"], variant, platform_of(facts))
        if variant == "cu130" and driver_takes_cuda_13(facts) is not True:
            continue
        if variant in release["variants"] and built and all(known.serves(built, card) for card in cards):
            return Wheel(release["torch"], variant, "the same torch release, built for this card")
    return fresh


def companions(torch: str) -> List[str]:
    """torch with the torchvision of the same release: "torch==2.11.0", "torchvision==0.26.0"."""
    release = known.torch_release(torch)
    return [f"torch=={torch}"] + ([f"torchvision=={release['torchvision']}"] if release else [])


def install_command(facts: Facts, wheel: Wheel) -> str:
    packages = " ".join(companions(wheel.torch))
    return Shell(facts).pip(f"install --force-reinstall {packages} --index-url {WHEELS}{wheel.variant}")
