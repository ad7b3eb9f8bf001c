"""Seconds until the commands that promise to be quick have answered, and proof that they import no heavy library.

python -m benchmarks.startup [--repeats 10]
"""

import argparse

from benchmarks import measure

COMMANDS = {
    "help": ("-m", "kit.train", "--help"),
    "plan": ("-m", "kit.train", "--preset", "cpu", "--data", "examples/identity.jsonl", "--plan"),
    "envcheck": ("-m", "envcheck", "--no-smoke"),
    "envcheck_facts": ("-m", "envcheck", "--facts", "tests/envcheck/machines/rtx5080-linux.json"),
}
HEAVY = ("torch", "transformers", "unsloth")


def imported(command: tuple[str, ...]) -> list[str]:
    """Which of HEAVY the command imports, by Python's own account (-X importtime)."""
    log = measure.must(measure.run("-X", "importtime", *command)).stderr
    modules = {line.rsplit("|", 1)[-1].strip() for line in log.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in modules]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    figures = {}
    for name, command in COMMANDS.items():
        walls = [measure.must(measure.run(*command)).wall_s for _ in range(repeats + 1)][
            1:
        ]  # the first warms the file cache
        figures[name] = {
            "command": "python " + " ".join(command),
            "wall_s": measure.spread(walls),
            "imports": imported(command),
        }
    measure.write("startup", figures)


if __name__ == "__main__":
    main()
