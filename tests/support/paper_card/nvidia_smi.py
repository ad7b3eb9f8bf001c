"""What nvidia-smi prints, for the paper cards: the columns that are asked for, or its heading."""

import sys

from tests.support.paper_card import cards

MIB = 1 << 20
DESKTOP_BYTES = 1200 * MIB  # taken by what is on the screen
DRIVER = "581.57"


def columns(card: cards.Card) -> dict[str, str]:
    return {
        "index": str(card.index),
        "name": card.name,
        "compute_cap": "{}.{}".format(*card.capability),
        "memory.total": str(card.total_bytes // MIB),
        "memory.free": str((card.total_bytes - DESKTOP_BYTES) // MIB),
        "driver_version": DRIVER,
        "uuid": card.uuid,
    }


def main(arguments: list[str]) -> None:
    asked = dict(argument.partition("=")[::2] for argument in arguments)
    if fields := asked.get("--query-gpu"):
        for card in cards.installed():
            print(", ".join(columns(card).get(field, "[N/A]") for field in fields.split(",")))
    elif not arguments:
        print(f"| NVIDIA-SMI {DRIVER}   Driver Version: {DRIVER}   CUDA Version: {cards.CUDA} |")


if __name__ == "__main__":
    main(sys.argv[1:])
