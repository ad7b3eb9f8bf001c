"""Rules: torchvision and torchaudio, which belong to one release of torch each."""

from typing import Iterator

from envcheck import known, versions
from envcheck.causes import finding
from envcheck.facts import Facts, Finding


def torchvision_pair(facts: Facts) -> Iterator[Finding]:
    torch = versions.parse(facts.package("torch"))
    vision = versions.parse(facts.package("torchvision"))
    if torch is None:
        return
    release = known.torch_release(facts.package("torch"))
    wanted = (
        versions.minor_of(release["torchvision"])
        if release
        else f"0.{torch.release[1] + 15}"
        if torch.release[0] == 2 and len(torch.release) > 1
        else None
    )
    details = [
        ("PyTorch", str(facts.package("torch"))),
        ("torchvision", facts.shown_version("torchvision")),
        ("wanted", f"{wanted}.x"),
    ]
    if wanted and facts.fits("torchvision", f"=={wanted}.*") is False:
        yield finding("torchvision-mismatch", facts, details=details)
    elif vision and torch.local and vision.local and torch.local[:4] != vision.local[:4]:
        yield finding(
            "torchvision-mismatch",
            facts,
            "torch and torchvision are builds of different kinds (CPU, CUDA versions).",
            details,
        )


def torchaudio_pair(facts: Facts) -> Iterator[Finding]:
    """From torch 2.12 on torchaudio is bound to no release."""
    release = known.torch_release(facts.package("torch"))
    wanted = versions.minor_of(release["torchaudio"]) if release else None
    if wanted and facts.fits("torchaudio", f"=={wanted}.*") is False:
        details = [
            ("PyTorch", str(facts.package("torch"))),
            ("torchaudio", facts.shown_version("torchaudio")),
            ("wanted", f"{wanted}.x"),
        ]
        yield finding("torchaudio-mismatch", facts, details=details)


RULES = (torchvision_pair, torchaudio_pair)
