"""Put the card into this Python, before anything that looks for one is imported."""

from types import ModuleType

from tests.support.paper_card import triton_names
from tests.support.paper_card.imports import change_when_imported


def install() -> None:
    triton_names.install()
    change_when_imported({"torch": _with_card})


def _with_card(_: ModuleType) -> None:
    """As soon as there is a torch."""
    from tests.support.paper_card import device, kernels, placement, quantising

    change_when_imported(kernels.CHANGES | quantising.CHANGES)
    device.install()
    placement.install()
