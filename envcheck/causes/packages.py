"""Causes: the Python itself and the versions of pure Python packages."""

from envcheck import known, versions
from envcheck.causes._registry import cause
from envcheck.facts import Facts
from envcheck.shell import Shell

META = "package metadata, known/packages.json (checked 2026-11-21)"
UNSLOTH_TOGETHER = "install --upgrade --force-reinstall --no-deps unsloth unsloth_zoo"


def cap_of_unsloth(facts: Facts, package: str) -> str:
    """The installed Unsloth's bound for this package, such as ">=4.51.3,<=4.57.3" without exclusions; "" where
    unknown.
    """
    row = known.row_for("unsloth", facts.package("unsloth")) if facts.package("unsloth") else None
    spec = ((row or {}).get("requires") or {}).get(package, "")
    return ",".join(sorted(part for part in spec.split(",") if part and not part.startswith("!=")))


@cause(
    "python-version-unsupported",
    "error",
    "This Python version is outside what the packages support.",
    "Wheels exist for certain Python versions only (torch 2.9 to 2.14: 3.10 to 3.14), and some releases are broken: "
    "Python 3.13.8 cannot "
    "import torch (fixed in 3.13.9).",
    "python --version",
    "wheel names on the index; CPython 3.13.8 regression",
)
def _(shell: Shell, facts: Facts):
    if (facts.python or "").startswith("3.13.8"):
        return [
            "# Python 3.13.8 itself is broken; take 3.12, 3.13.7 or 3.13.9 and newer for a new environment:",
            shell.new_venv("3.12"),
            shell.run("python -m envcheck install --venv .venv"),
        ]
    return [
        "# a new environment with Python 3.12 (3.11 and 3.13 have every wheel too; 3.10 for older releases):",
        shell.new_venv("3.12"),
        shell.run("python -m envcheck install --venv .venv"),
    ]


@cause(
    "environment-mixup",
    "error",
    "Two copies of a package, or another Python than the one pip installed into.",
    "pip reports one version and import finds another: a copy in the user site, in another folder of sys.path, or "
    "the pip of another "
    "interpreter.",
    'python -c "import sys; print(sys.executable, sys.path)"; python -m pip --version',
    "Python packaging guide",
)
def _(shell: Shell, facts: Facts):
    pairs = facts.imported_versions or {}
    wrong = [name for name, version in pairs.items() if facts.package(name) not in (None, version)]
    names = " ".join(wrong) or "PACKAGE"
    python = "# always 'python -m pip' of the Python that runs the training; check sys.path for a duplicate copy:"
    return [
        shell.pip(f"uninstall -y {names}") + "   # repeat until pip says that it is not installed (user site too)",
        shell.pip(f"install --force-reinstall {names}"),
        python,
        shell.python("import sys; print(sys.executable, sys.path)"),
    ]


@cause(
    "unsloth-zoo-out-of-step",
    "error",
    "unsloth and unsloth_zoo come from different releases.",
    "The two packages call each other's internals; Unsloth states only a lower bound for its zoo, so pip can leave "
    "an old or take a "
    "newer one.",
    "python -m pip show unsloth unsloth_zoo",
    META,
)
def _(shell: Shell, facts: Facts):
    return [shell.pip(UNSLOTH_TOGETHER), "# both together; then restart Python (a notebook: restart the session)"]


@cause(
    "newer-than-unsloth-supports",
    "error",
    "torch or transformers is newer than the installed Unsloth supports.",
    "Unsloth patches the code of transformers, trl and peft; a release it does not know breaks the patches, often as "
    "a NameError.",
    "python -m pip check",
    META,
)
def _(shell: Shell, facts: Facts):
    bound, torch = cap_of_unsloth(facts, "transformers"), cap_of_unsloth(facts, "torch")
    lines = [
        "# a current Unsloth:",
        shell.install("-U", "unsloth", "unsloth_zoo"),
        "# or, with the installed Unsloth, versions inside its range:",
    ]
    if bound and facts.fits("transformers", bound) is False:
        return [*lines, shell.install("transformers" + bound)]
    if torch and facts.fits("torch", torch) is False:
        from envcheck import wheels

        return [
            *lines,
            "# torch" + torch + ", for example",
            wheels.install_command(facts, wheels.Wheel(_torch_inside(torch), _variant(facts), "")),
        ]
    return [*lines, shell.install("transformers<5")]


def _torch_inside(spec: str) -> str:
    rows = [row["torch"] for row in known.table("torch")["releases"] if versions.matches(row["torch"], spec)]
    return rows[-1] if rows else "2.10.0"


def _variant(facts: Facts) -> str:
    return known.variant_of(facts.torch_build) or "cu128"


@cause(
    "transformers-too-old-for-model",
    "error",
    "transformers is older than this model's files need.",
    "Each architecture enters transformers with a certain release (gemma2 4.42, gemma3 4.50, qwen3 4.51, gpt_oss "
    "4.55, ...); tokenizer "
    "files of newer models need newer tokenizers.",
    "python -m pip show transformers tokenizers",
    "transformers release notes",
)
def _(shell: Shell, facts: Facts):
    bound = cap_of_unsloth(facts, "transformers")
    if bound:
        return [
            shell.install("-U", "transformers", "tokenizers"),
            f"# the installed Unsloth takes transformers {bound}; for a newer one:",
            shell.install("-U", "unsloth", "unsloth_zoo"),
        ]
    return [
        shell.install("-U", "transformers", "tokenizers"),
        "# where Unsloth is used, in its range: upgrade unsloth and unsloth_zoo too",
    ]


@cause(
    "torch-too-old-for-transformers",
    "error",
    "transformers needs a newer torch than the installed one.",
    "From 4.52 on transformers refuses to read .bin weights with torch below 2.6 (CVE-2025-32434); transformers 5 "
    "needs a torch of its "
    "own time.",
    "python -m pip show torch transformers",
    "transformers sources, CVE-2025-32434",
)
def _(shell: Shell, facts: Facts):
    from envcheck import wheels

    build, release = known.variant_of(facts.torch_build), known.torch_release("2.6.0")
    kept = build is not None and release is not None and build in release["variants"]
    wheel = wheels.Wheel("2.6.0", build, "") if build and kept else wheels.choose(facts)
    return [
        "# upgrade torch to 2.6 or newer, with its companions:",
        wheels.install_command(facts, wheel),
        "# or keep torch: weights in safetensors format, or an older transformers:",
        shell.install("transformers<4.52"),
    ]


@cause(
    "package-set-out-of-step",
    "error",
    "Two packages of the training stack come from different periods.",
    "transformers, trl, peft, accelerate and huggingface-hub call each other: one uses what the other does not have "
    "yet, or no longer.",
    "python -m pip check",
    META,
)
def _(shell: Shell, facts: Facts):
    lines = [*_specific(shell, facts)]
    if lines:
        return lines
    return [
        "# bring them to matching releases: upgrade the older one of the packages named in the message, or all of "
        "them:",
        shell.install("-U", "transformers", "trl", "peft", "accelerate", "huggingface-hub"),
        "# inside Unsloth's range, where it is used: upgrade unsloth and unsloth_zoo too",
    ]


def _specific(shell: Shell, facts: Facts):
    new = facts.fits("transformers", ">=5.0.dev0")
    if new and facts.fits("huggingface-hub", "<1.0"):
        yield shell.install("-U", "huggingface-hub>=1.3,<2", "transformers")
    elif new is False and facts.fits("huggingface-hub", ">=1.0"):
        yield shell.install("huggingface-hub<1.0")
        yield "# transformers 4 needs huggingface-hub below 1.0; or upgrade transformers to 5"
    if new and facts.fits("trl", "<0.24"):
        yield shell.install("-U", "trl>=0.24")
        yield "# or stay with the old period: " + shell.install("transformers<5")
    if new and facts.fits("peft", "<0.18"):
        yield shell.install("-U", "peft>=0.18")
    if facts.fits("accelerate", "<1.4") and (
        facts.fits("peft", ">=0.15") or facts.fits("transformers", ">=4.52") or new or facts.fits("trl", ">=0.19")
    ):
        yield shell.install("-U", "accelerate>=1.10")
        yield "# accelerate is the older one here"


@cause(
    "trl-renamed-argument",
    "error",
    "The script passes an argument that this trl has renamed, moved or removed.",
    "tokenizer became processing_class (0.12, removed 0.16); dataset_text_field, packing and max_seq_length moved "
    "into SFTConfig (0.13); "
    "max_seq_length became max_length (0.16, removed in 0.20).",
    "python -m pip show trl",
    "trl release notes and migration guides",
)
def _(shell: Shell, facts: Facts):
    lines = [
        "# in the script: SFTTrainer(processing_class=tokenizer, args=SFTConfig(max_length=2048, "
        "dataset_text_field='text', packing=False)):",
        "# tokenizer -> processing_class; dataset_text_field, packing, max_seq_length -> SFTConfig; max_seq_length "
        "-> max_length",
    ]
    if facts.installed("unsloth"):
        lines.append(
            "# with Unsloth: import unsloth before trl, delete the folder unsloth_compiled_cache, and update it:"
        )
        return [*lines, shell.install("-U", "unsloth", "unsloth_zoo")]
    return [
        *lines,
        "# or an older trl for the old names: " + shell.install("trl<0.12" if _tokenizer_passed(facts) else "trl<0.20"),
        "# with Unsloth: import unsloth before trl, delete unsloth_compiled_cache and update unsloth",
    ]


def _tokenizer_passed(facts: Facts) -> bool:
    return any(
        "tokenizer" in (facts.run(name) or ())
        for name in ("sft_trainer_kwargs", "trainer_kwargs")
        if isinstance(facts.run(name), list)
    )


@cause(
    "import-order",
    "warning",
    "unsloth was imported after transformers, trl or peft, so its patches are incomplete.",
    "Unsloth replaces functions of these packages when it is imported; what was imported before keeps the old ones.",
    "head -20 train.py",
    "Unsloth's own warning",
)
def _(shell: Shell, facts: Facts):
    return [
        "# first line of the script, before transformers, trl and peft: import unsloth",
        "# in a notebook restart the session afterwards",
    ]
