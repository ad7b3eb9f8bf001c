"""Compare packages.json and torch.json with the metadata of the packages installed here.

    python -m envcheck.known.check_tables

Prints one line for each difference and how many bounds were compared; exit status 1 where something differs. A release
that is not in the table is named, not guessed.
"""

import re
import sys
from importlib import metadata
from typing import Dict, Iterator, Tuple

from envcheck import known

PACKAGES = ("unsloth", "unsloth_zoo", "trl", "peft", "transformers", "accelerate")


def stated(distribution: str) -> Dict[str, str]:
    """Requirement name -> sorted specifier, of the requirements without an extra."""
    found: Dict[str, str] = {}
    for line in metadata.requires(distribution) or []:
        requirement, _, marker = line.partition(";")
        match = re.match(r"^\s*([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*\(?([^)]*)\)?\s*$", requirement)
        if match and "extra" not in marker:
            name = re.sub(r"[-_.]+", "-", match.group(1)).lower()
            found[name] = ordered(match.group(2)) or found.get(name, "")
    return found


def ordered(spec: str) -> str:
    return ",".join(sorted(part.strip() for part in spec.split(",") if part.strip() not in ("", "*")))


def differences(distribution: str) -> Iterator[Tuple[str, str, str]]:
    """(requirement, what the table says, what the metadata says), equal ones too."""
    version = metadata.version(distribution)
    row = next((row for row in known.package_rows(distribution) if row["version"] == version), None)
    if row is None:
        return
    said = stated(distribution)
    for name, spec in row["requires"].items():
        yield name, ordered(spec), said.get(re.sub(r"[-_.]+", "-", name).lower(), "not required")


def torch_differences() -> Iterator[Tuple[str, str, str]]:
    """The Python range cannot be read from a wheel's name here; triton is what torch's metadata pins on Linux."""
    row = known.torch_release(metadata.version("torch"))
    said = stated("torch").get("triton")
    if row and said and row["torch"] == metadata.version("torch").split("+")[0]:
        yield "triton", ordered(row["triton"] or ""), said


def main() -> int:
    compared = 0
    wrong = []
    for distribution in (*PACKAGES, "torch"):
        try:
            version = metadata.version(distribution)
            rows = list(torch_differences() if distribution == "torch" else differences(distribution))
        except metadata.PackageNotFoundError:
            print(f"{distribution}: not installed here")
            continue
        if not rows:
            print(f"{distribution} {version}: nothing in the table to compare")
        compared += len(rows)
        wrong += [
            f"{distribution} {version}: {name} is {there} in the table, {here} in the metadata"
            for name, there, here in rows
            if there != here
        ]
    print("\n".join([*wrong, f"{compared} bounds compared, {len(wrong)} differ"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
