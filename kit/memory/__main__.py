"""The command kit.models; its examples and exit status stand with its options."""

import json
import sys
from dataclasses import asdict

from kit.memory.fitting import CARDS_GIB, RANK, FittingModel, fitting_models
from kit.memory.options import ModelsCommand
from kit.options.command_line import parse, typed_as
from kit.support import console


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: command_line(sys.argv[1:] if argv is None else argv))


def command_line(argv: list[str]) -> int:
    command = parse(ModelsCommand, argv)
    found = list(fitting_models())
    if command.json_output:
        print(json.dumps([asdict(model) for model in found], ensure_ascii=False, indent=1))
        return 0
    rows = [HEADS, *map(cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(_aligned(index, cell, widths[index]) for index, cell in enumerate(row)))
    print(f"\n{ABOUT}\nAnother model, or more of one: {typed_as('train')} --model NAME --plan")
    return 0


HEADS = ("name", "licence", "parameters", "download", *(f"{gib} GiB" for gib in CARDS_GIB), "here")
ON_THE_LEFT = 2  # columns of words
ABOUT = (
    "Under GiB: thousands of tokens of the longest sample that the plan lets fit on such a card beside a desktop (LoRA "
    f"of rank {RANK} on 4-bit weights, one sample at a time, main memory enough for its activations); –: none."
)


def _aligned(index: int, cell: str, width: int) -> str:
    return cell.ljust(width) if index < ON_THE_LEFT else cell.rjust(width)


def cells(model: FittingModel) -> tuple[str, ...]:
    """A row under HEADS."""
    size = f"{model.parameters / 1e9:.2f} B" if model.parameters >= 1e9 else f"{model.parameters / 1e6:.0f} M"
    download = f"{model.download_bytes / 1e9:.1f} GB" if model.download_bytes else "–"
    longest = (f"{tokens // 100 / 10:.1f}" if tokens else "–" for tokens in model.longest_tokens.values())
    return (model.name, model.licence, size, download, *longest, "yes" if model.is_here else "no")


if __name__ == "__main__":
    sys.exit(main())
