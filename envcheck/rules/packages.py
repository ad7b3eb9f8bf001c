"""Rules: the Python itself and the versions of pure Python packages."""

import re
from typing import Any, Dict, Iterator, List, Optional, Tuple

from envcheck import known, versions
from envcheck.causes import finding
from envcheck.facts import Facts, Finding, normal_name

FIRST_UNSLOTH_FOR_TRANSFORMERS_5 = "2026.3"  # known/packages.json: earlier releases state no cap, or one below 5
BROKEN_PYTHONS = {
    "3.13.8": "Python 3.13.8 itself is broken: import torch fails in the inspect module. 3.13.9 repairs it."
}


def python_version(facts: Facts) -> Iterator[Finding]:
    python = facts.python
    if python in BROKEN_PYTHONS:
        yield finding("python-version-unsupported", facts, BROKEN_PYTHONS[python], [("Python", python)])
    elif (
        python
        and facts.requires_python
        and versions.matches(_full(python, facts.requires_python), facts.requires_python) is False
    ):
        yield finding(
            "python-version-unsupported", facts, details=[("Python", python), ("needed", facts.requires_python)]
        )
    else:
        yield from _without_wheels(facts)


def _full(python: str, spec: str) -> str:
    """ "3.12" against ">=3.10.2" cannot be decided: the newest patch release is meant."""
    return python if python.count(".") > 1 or spec.count(".") < 2 else python + ".99"


def _without_wheels(facts: Facts) -> Iterator[Finding]:
    """torch and Unsloth publish for certain Pythons only."""
    minor = versions.minor_of(facts.python)
    for name in ("torch", "unsloth"):
        version = (facts.installing or {}).get(name) or facts.package(name)
        row = known.torch_release(version) if name == "torch" else _exact("unsloth", version)
        if not row or not minor or (name == "torch" and not versions.same_release(version, row["torch"])):
            continue
        fits = minor in row["python"] if name == "torch" else versions.matches(minor, row["python"])
        if not fits:
            yield finding(
                "python-version-unsupported",
                facts,
                f"{name} {version} is not published for Python {minor}.",
                [("Python", str(facts.python))],
            )
            return


def _exact(package: str, version: Optional[str]) -> Optional[Dict[str, Any]]:
    return next((row for row in known.package_rows(package) if row["version"] == version), None)


def two_copies(facts: Facts) -> Iterator[Finding]:
    pairs = [(name, version, facts.package(name)) for name, version in (facts.imported_versions or {}).items()]
    wrong = [
        (name, f"pip says {pip}, import finds {version}")
        for name, version, pip in pairs
        if version and pip and pip != version
    ]
    if wrong:
        yield finding("environment-mixup", facts, details=wrong)


def broken_metadata(facts: Facts) -> Iterator[Finding]:
    if facts.broken_packages:
        yield finding("package-metadata-broken", facts, details=[("packages", ", ".join(facts.broken_packages))])


# --- Unsloth ----------------------------------------------------------------------------------------------------------
def unsloth_and_zoo(facts: Facts) -> Iterator[Finding]:
    unsloth, zoo = facts.package("unsloth"), facts.package("unsloth-zoo")
    details = [("unsloth", unsloth or "unknown"), ("unsloth_zoo", zoo or "not installed")]
    if unsloth and facts.installed("unsloth-zoo") is False and versions.at_least(unsloth, "2024.10"):
        yield finding("unsloth-zoo-out-of-step", facts, "unsloth needs unsloth_zoo, which is not installed.", details)
    if not unsloth or not zoo:
        return
    row = known.row_for("unsloth", unsloth)
    bound = (row or {}).get("zoo")
    behind = versions.matches(zoo, bound) is False if bound else versions.below(_month(zoo), _month(unsloth))
    ahead = versions.below(_month(unsloth, 1), _month(zoo))
    if behind or ahead:
        yield finding(
            "unsloth-zoo-out-of-step",
            facts,
            details=[*details, *([("unsloth asks for", f"unsloth_zoo{bound}")] if bound else [])],
        )


def _month(version: str, later: int = 0) -> str:
    """ "2025.8.10" -> "2025.8"; `later`: that many months on."""
    parts = [*re.findall(r"\d+", version)[:2], "0", "0"]
    year, month = int(parts[0]), int(parts[1]) + later
    return f"{year + (month - 1) // 12}.{(month - 1) % 12 + 1}"


def unsloth_window(facts: Facts) -> Iterator[Finding]:
    """torch, transformers, trl beyond the upper bounds of the installed Unsloth: its own metadata, else the table."""
    for name, here, bound, dist in _upper_bounds(facts):
        if versions.below(_top(bound), here) or (_top_open(bound) and not versions.below(here, _top(bound) or "0")):
            yield finding(
                "newer-than-unsloth-supports",
                facts,
                f"{name} {here} is newer than the installed {dist} supports.",
                [(name, here), (f"{dist} {facts.shown_version(dist)}", f"{name}{bound}")],
            )
            return


def _upper_bounds(facts: Facts) -> Iterator[Tuple[str, str, str, str]]:
    for dist, requirement in (facts.requires or {}).items():
        match = re.match(r"^\s*([A-Za-z0-9._-]+)\s*\(?([^;)]*)", requirement or "")
        name = normal_name(match.group(1)) if match else ""
        here = (facts.installing or {}).get(name) or facts.package(name)
        if match and here and dist.startswith("unsloth"):
            yield name, here, match.group(2), dist
    transformers = (facts.installing or {}).get("transformers") or facts.package("transformers")
    if transformers and facts.fits("unsloth", "<" + FIRST_UNSLOTH_FOR_TRANSFORMERS_5):
        yield "transformers", transformers, "<5.0.dev0", "unsloth"
    for name in ("torch", "transformers", "trl"):
        here = (facts.installing or {}).get(name) or facts.package(name)
        for dist in ("unsloth", "unsloth-zoo"):
            bound = widest_bound(dist, facts.package(dist), name)
            if here and bound:
                yield name, here, bound, dist


def widest_bound(dist: str, version: Optional[str], name: str) -> Optional[str]:
    """The table's bound for this release; between two rows the later one, which is never narrower; None beyond the
    table.
    """
    rows = known.package_rows(dist)
    later = [row for row in rows if version and versions.at_least(row["version"], version)]
    if not later or not versions.at_least(version, rows[0]["version"]):
        return None
    return later[0]["requires"].get(name)


def _top(bound: str) -> Optional[str]:
    found = re.search(r"<=?\s*([\w.]+)", bound)
    return found.group(1) if found else None


def _top_open(bound: str) -> bool:
    return bool(re.search(r"<(?!=)", bound))


# --- the others -------------------------------------------------------------------------------------------------------
def requirement_not_met(facts: Facts) -> Iterator[Finding]:
    """A requirement from a package's own metadata that what is installed (or being installed) does not meet."""
    for dist, requirement in (facts.requires or {}).items():
        match = re.match(r"^\s*([A-Za-z0-9._-]+)\s*\(?([^;)]*)", requirement or "")
        here = match and ((facts.installing or {}).get(normal_name(match.group(1))) or facts.package(match.group(1)))
        if (
            match
            and here
            and versions.matches(here, match.group(2)) is False
            and not (
                dist.startswith("unsloth")
                and any(item.id == "newer-than-unsloth-supports" for item in unsloth_window(facts))
            )
        ):
            yield finding(
                "package-set-out-of-step",
                facts,
                f"{dist} asks for {requirement}, found {here}.",
                [(match.group(1), str(here))],
            )
            return


def model_needs_newer_transformers(facts: Facts) -> Iterator[Finding]:
    row = next(
        (row for row in known.table("models")["least"] if re.search(row["pattern"], (facts.model or "").lower())), None
    )
    if row and facts.fits("transformers", "<" + row["transformers"]):
        yield finding(
            "transformers-too-old-for-model",
            facts,
            f"{row['type']} needs transformers {row['transformers']} or newer.",
            [("model", str(facts.model)), ("transformers", facts.shown_version("transformers"))],
        )


def transformers_needs_newer_torch(facts: Facts) -> Iterator[Finding]:
    if facts.fits("transformers", ">=4.52") and facts.fits("torch", "<2.6"):
        yield finding(
            "torch-too-old-for-transformers",
            facts,
            details=[("transformers", facts.shown_version("transformers")), ("PyTorch", facts.shown_version("torch"))],
        )


PAIRS = (  # (package, range, other, range that does not go with it, words)
    ("transformers", "<5.0.dev0", "huggingface-hub", ">=1.0", "transformers 4 needs huggingface-hub below 1.0"),
    ("transformers", ">=5.0.dev0", "huggingface-hub", "<1.0", "transformers 5 needs huggingface-hub 1.3 or newer"),
    ("transformers", ">=5.0.dev0", "trl", "<0.24", "transformers 5 needs a current trl (0.24 or newer)"),
    (
        "transformers",
        ">=5.0.dev0",
        "peft",
        "<0.18",
        "transformers 5 removed what peft before 0.18 imports (HybridCache)",
    ),
    ("transformers", ">=5.0.dev0", "accelerate", "<1.1", "transformers 5 needs a recent accelerate"),
    (
        "transformers",
        ">=4.52",
        "accelerate",
        "<1.3",
        "transformers from 4.52 on passes keep_torch_compile, which accelerate knows from 1.3",
    ),
    ("transformers", ">=4.46", "accelerate", "<0.26", "transformers needs accelerate 0.26 or newer"),
    (
        "peft",
        ">=0.15",
        "accelerate",
        "<1.1",
        "peft from 0.15 on imports clear_device_cache, which older accelerate lacks",
    ),
    ("trl", ">=0.19", "transformers", "<4.50", "this trl needs a newer transformers"),
    ("trl", ">=0.19", "accelerate", "<1.4", "this trl needs accelerate 1.4 or newer"),
    ("unsloth", ">=2026.1.4", "peft", "<0.18", "this unsloth needs peft 0.18 or newer"),
    ("datasets", ">=4.0", "huggingface-hub", "<0.24", "this datasets needs huggingface-hub 0.24 or newer"),
)


def pairs_out_of_step(facts: Facts) -> Iterator[Finding]:
    for name, spec, other, bad, words in PAIRS:
        if facts.fits(name, spec) and facts.fits(other, bad):
            yield finding(
                "package-set-out-of-step",
                facts,
                words + ".",
                [(name, facts.shown_version(name)), (other, facts.shown_version(other))],
            )
            return
    yield from _stated_requirements(facts)


def _stated_requirements(facts: Facts) -> Iterator[Finding]:
    """Lower bounds that trl, peft, transformers and accelerate state for each other (they only rise from release to
    release).
    """
    for dist in ("transformers", "trl", "peft", "accelerate"):
        row = known.row_for(dist, facts.package(dist))
        if row is None:
            continue
        for other, spec in (row.get("requires") or {}).items():
            if other in ("numpy", "safetensors", "torch"):
                continue
            lower = ",".join(
                part for part in _parts(spec) if part.startswith(">=") or row["version"] == facts.package(dist)
            )
            if lower and facts.fits(other, lower) is False:
                yield finding(
                    "package-set-out-of-step",
                    facts,
                    f"{dist} asks for {other}{spec}.",
                    [(dist, facts.shown_version(dist)), (other, facts.shown_version(other))],
                )
                return


def _parts(spec: str) -> List[str]:
    return [part.strip() for part in spec.split(",") if part.strip()]


def renamed_arguments(facts: Facts) -> Iterator[Finding]:
    """Arguments the script passes against those this trl has."""
    to_trainer = _names(facts, "sft_trainer_kwargs") | _names(facts, "trainer_kwargs")
    to_config = _names(facts, "sft_config_kwargs")
    trl = facts.shown_version("trl")
    moved = {
        "dataset_text_field",
        "packing",
        "dataset_num_proc",
        "dataset_kwargs",
        "eval_packing",
        "num_of_sequences",
        "chars_per_token",
        "dataset_batch_size",
        "neftune_noise_alpha",
        "model_init_kwargs",
    }
    gone = []
    if "tokenizer" in to_trainer and (facts.fits("trl", ">=0.16") or facts.fits("transformers", ">=5.0.dev0")):
        gone.append("tokenizer -> processing_class")
    if "processing_class" in to_trainer and facts.fits("trl", "<0.12"):
        gone.append("processing_class: this trl still calls it tokenizer")
    if "max_seq_length" in to_config and facts.fits("trl", ">=0.20"):
        gone.append("SFTConfig max_seq_length -> max_length")
    if "max_length" in to_config and facts.fits("trl", "<0.16"):
        gone.append("SFTConfig max_length: this trl still calls it max_seq_length")
    if to_trainer & moved and facts.fits("trl", ">=0.16") and not facts.installed("unsloth"):
        gone.append(", ".join(sorted(to_trainer & moved)) + " -> SFTConfig")
    if gone:
        yield finding("trl-renamed-argument", facts, details=[("trl", trl)] + [("argument", text) for text in gone])
    elif "max_seq_length" in to_trainer and facts.fits("trl", ">=0.16"):
        yield finding("silent-truncation", facts, details=[("trl", trl), ("passed", "SFTTrainer(max_seq_length=...)")])


def _names(facts: Facts, key: str) -> set:
    value = facts.run(key)
    return {str(item) for item in value} if isinstance(value, (list, tuple, dict)) else set()


RULES = (
    python_version,
    two_copies,
    broken_metadata,
    unsloth_and_zoo,
    unsloth_window,
    model_needs_newer_transformers,
    transformers_needs_newer_torch,
    pairs_out_of_step,
    requirement_not_met,
    renamed_arguments,
)
