"""python -m envcheck install: the requirement files of this project -> a virtual environment, shown step by step.

Pure where it plans (facts and files -> steps), and it starts programs only through the runner it is given.
Interrupted or repeated it ends in the same state: what is there already, in the pinned version, is not installed
again.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from envcheck import report, settings, versions
from envcheck.causes import finding
from envcheck.facts import Facts, Finding, normal_name
from envcheck.probe import collect
from envcheck.probe.packages import distributions
from envcheck.rules.system import long_paths
from envcheck.shell import Shell

PROJECT = Path(__file__).resolve().parents[1]
PINS = Path(__file__).resolve().parent / "requirements"  # where the files are in an installed package
IS_CLONE = (PROJECT / "requirements.txt").is_file()
ROOT = PROJECT if IS_CLONE else PINS
VENV = (PROJECT if IS_CLONE else Path.cwd()) / ".venv"
LEAST_PYTHON = (3, 11)
KIT = {"finetune-kit": ""}
TARGETS = ("cpu", "cu128", "cu130")
EXTRAS = {"notebooks": "Jupyter, for the tutorials in notebooks/", "dev": "tests, linter and Jupyter"}
# pip asks the extra index of the CPU set once for each package: behind a silent firewall every question would wait out
# pip's own patience. The CUDA wheels are gigabytes from one index and keep pip's own retries.
IMPATIENT = {"cpu": ("--retries", "1", "--timeout", "15")}


class Step(NamedTuple):
    """One command; `why` is half a sentence for the reader; `wanted`: what it installs, {} for steps that install
    nothing.
    """

    title: str
    why: str
    command: Tuple[str, ...]
    wanted: Dict[str, str]


Starter = Callable[[Sequence[str]], Tuple[int, str]]


def start(command: Sequence[str]) -> Tuple[int, str]:
    """Run a step; its output goes to the terminal as it comes. Returns the exit status and what it wrote to stderr."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    try:
        child = subprocess.Popen(list(command), stderr=subprocess.PIPE, cwd=str(ROOT), env=env)
    except OSError as error:
        return 127, str(error)
    said: List[str] = []
    with child:
        for raw in child.stderr or ():
            line = raw.decode("utf-8", "replace")
            said.append(line)
            sys.stderr.write(line)
    return child.returncode, "".join(said[-200:])


# --- what is wanted and what is there -------------------------------------------------------------------------------
def requirements(path: Path, seen: Tuple[Path, ...] = ()) -> Dict[str, str]:
    """Distribution name -> version specifier of the lines that apply here; "-r" files included, "-c" not."""
    wanted: Dict[str, str] = {}
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        nested = re.match(r"^(?:-r|--requirement)[ =]+(\S+)$", line)
        if nested and path not in seen:
            wanted.update(requirements(path.parent / nested.group(1), (*seen, path)))
        match = re.match(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*([^;]*)(?:;(.*))?$", line)
        if match and applies(match.group(3)):
            wanted[normal_name(match.group(1))] = match.group(2).strip()
    return wanted


def applies(marker: Optional[str]) -> bool:
    """Does a marker hold here? Knows sys_platform, platform_machine and python_version, joined by "and"."""
    here = {
        "sys_platform": sys.platform,
        "platform_machine": platform.machine(),
        "python_version": "%d.%d" % sys.version_info[:2],
    }
    for clause in re.split(r"\band\b", marker or ""):
        match = re.match(r"^\s*(\w+)\s*(==|!=|>=|<=|<|>)\s*[\"']([^\"']*)[\"']\s*$", clause)
        if not match:
            if clause.strip():
                return False
            continue
        name, operator, value = match.groups()
        if name == "python_version":
            holds = bool(versions.matches(here[name], operator + value))
        else:
            holds = (here.get(name) == value) == (operator == "==")
        if not holds:
            return False
    return True


def site_packages(venv: Path) -> Optional[Path]:
    found = [venv / "Lib" / "site-packages", *sorted(venv.glob("lib/python3.*/site-packages"))]
    return next((path for path in found if path.is_dir()), None)


def installed(venv: Path) -> Dict[str, str]:
    """Distribution name -> version in the environment. Without a RECORD the installation was cut off and does not
    count.
    """
    site = site_packages(venv)
    found = distributions(str(site)) if site else ()
    return {name: version for name, version, path in found if (path / "RECORD").is_file()}


def cut_off(venv: Path) -> Iterator[Path]:
    """Metadata folders without RECORD, left by an interrupted pip, which would neither repair nor remove them."""
    site = site_packages(venv)
    return (
        path
        for _, _, path in (distributions(str(site)) if site else ())
        if path.is_dir() and not (path / "RECORD").is_file()
    )


def missing(wanted: Dict[str, str], there: Dict[str, str]) -> List[str]:
    """Requirements that the environment does not fulfil."""
    return [
        name + spec for name, spec in wanted.items() if name not in there or not versions.matches(there[name], spec)
    ]


# --- the plan ---------------------------------------------------------------------------------------------------------
def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def is_complete(venv: Path) -> bool:
    site = site_packages(venv)
    return python_of(venv).exists() and site is not None and (site / "pip").is_dir()


def plan(venv: Path, target: str, extra: Optional[str], python: str) -> List[Step]:
    """All steps that are not done yet, in order; an empty list: everything is there. extra: one of EXTRAS."""
    there = installed(venv) if is_complete(venv) else {}
    steps = (
        []
        if is_complete(venv)
        else [
            Step(
                "environment",
                f"an environment of its own in {venv.name}, so that nothing else on this machine changes",
                (python, "-m", "venv", str(venv)),
                {},
            )
        ]
    )
    pip = (str(python_of(venv)), "-m", "pip", "install")
    files = [
        (
            "torch",
            f"PyTorch for {target}, with its own dependencies",
            (*IMPATIENT.get(target, ()), "-r", f"requirements-{target}.txt"),
        ),
        (
            "training stack",
            "the rest, exactly as pinned; --no-deps so that nothing replaces torch",
            ("--no-deps", "-r", "requirements.txt"),
        ),
    ] + ([(extra, EXTRAS[extra], ("-r", f"requirements-{extra}.txt"))] if extra else [])
    for title, why, arguments in files:
        wanted = requirements(ROOT / arguments[-1])
        if missing(wanted, there):
            steps.append(Step(title, why, pip + arguments, wanted))
    if (ROOT / "pyproject.toml").is_file() and missing(KIT, there):
        own = ("--no-deps", "--no-build-isolation", "-e", ".")  # what builds it is in requirements.txt: no network
        steps.append(Step("kit", "the commands kit and envcheck, from this folder", pip + own, KIT))
    return steps


def shown(command: Sequence[str]) -> str:
    """As one would type it in the project folder."""
    parts = [os.path.relpath(part, ROOT) if part.startswith(str(ROOT) + os.sep) else part for part in command]
    return Shell(Facts(os=_os())).command(parts)


# --- carrying it out --------------------------------------------------------------------------------------------------
def carry_out(
    steps: Sequence[Step], venv: Path, target: str, facts: Facts, starter: Starter = start
) -> Optional[Finding]:
    """Run the steps in order, each command shown before it starts. The first failure with its cause, or None."""
    for number, step in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {step.title}: {step.why}\n      {shown(step.command)}")
        for leftover in cut_off(venv):
            say(f"      NOTE: {leftover.name} was cut off by an earlier interruption and is installed again")
            shutil.rmtree(str(leftover), ignore_errors=True)
        status, said = starter(step.command)
        if status != 0:
            return explain(step, status, said, facts)
        failure = verify(step, venv, target, facts)
        if failure:
            return failure
    return None


def verify(step: Step, venv: Path, target: str, facts: Facts) -> Optional[Finding]:
    """After a step that ended well: is what it was for really there?"""
    lacking = missing(step.wanted, installed(venv)) if step.wanted else []
    if step.title == "torch" and target == "cpu" and has_cuda_torch(venv):
        return finding(
            "install-cuda-build-on-cpu", facts, details=[("installed", "torch " + installed(venv).get("torch", "?"))]
        )
    if lacking:
        return finding(
            "install-step-failed",
            facts,
            "The step ended well, but packages are missing.",
            [("missing", " ".join(lacking[:8]))],
        )
    return None


def has_cuda_torch(venv: Path) -> bool:
    """torch/version.py names a CUDA version: the CPU build says None there."""
    path = (site_packages(venv) or venv) / "torch" / "version.py"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return bool(re.search(r"^cuda\b[^=\n]*=\s*[\"']\d", text, re.MULTILINE))


CAUSES_OF_FAILURE = (
    ("install-disk-full", r"no space left on device|errno 28|not enough space|disk quota exceeded"),
    (
        "install-no-venv-module",
        r"ensurepip is not available|no module named '?venv|python3[\d.]*-venv|no module named '?ensurepip",
    ),
    (
        "install-no-such-version",
        r"requires a different python|not a supported wheel|is not a supported wheel on this platform",
    ),
    (
        "install-network",
        r"temporary failure in name resolution|connection (?:refused|reset|timed out|broken)|network is unreachable|"
        r"failed to establish a new connection|max retries exceeded|read timed out|proxyerror|certificate verify "
        r"failed|"
        r"name or service not known|nodename nor servname|getaddrinfo failed|newconnectionerror",
    ),
    ("windows-path-too-long", r"long path support|winerror 206|(?:filename|extension) is too long"),
    ("install-no-such-version", r"no matching distribution found|could not find a version"),
)


def explain(step: Step, status: int, said: str, facts: Facts) -> Finding:
    """Exit status and stderr of a failed step -> its cause."""
    text = said.lower()
    cause_id = next(
        (cause_id for cause_id, pattern in CAUSES_OF_FAILURE if re.search(pattern, text)), "install-step-failed"
    )
    last = [line.strip() for line in said.splitlines() if line.strip()][-3:]
    details = [("step", shown(step.command)), ("exit status", str(status))] + [("said", line) for line in last]
    return finding(cause_id, facts, details=details)


def say(text: str) -> None:
    print(text, flush=True)


def fail(problem: Finding) -> int:
    print("\n" + report.render(problem), file=sys.stderr)
    return 1


def main(argv: Sequence[str], starter: Starter = start) -> int:
    """Exit status: 0 installed and fit, 1 a step or the check failed, 2 wrong usage, 130 interrupted."""
    parser = _options()
    options = parser.parse_args(list(argv))
    if not shutil.which(options.python):
        parser.error(f"--python {options.python}: there is no such program")
    venv = Path(options.venv).absolute()
    target = next((name for name in TARGETS if getattr(options, name)), None)
    unfit = too_old(options.python, venv)
    if unfit:
        return fail(unfit)
    known_target = target or _target_of(venv)
    if known_target and not plan(venv, known_target, options.extra, options.python):
        say(
            f"already installed: {_relative(venv)} has every package of requirements-{known_target}.txt and "
            "requirements.txt"
        )
        return 0
    facts = collect()
    choice = settings.choose(facts.with_changes(training=None)).requirements
    target = target or choice.value[len("requirements-") : -len(".txt")]
    steps = plan(venv, target, options.extra, options.python)
    deep = too_deep(venv, facts)
    if deep:
        return fail(deep)
    chosen = "as asked" if getattr(options, target) else choice.reason
    say(f"requirements-{target}.txt ({chosen}), {len(steps)} steps, into {_relative(venv)}")
    check = (str(python_of(venv)), "-m", "envcheck", "--no-smoke")
    if options.dry_run:
        for step in steps:
            say(f"\n# {step.title}: {step.why}\n{shown(step.command)}")
        say(f"\n# check\n{shown(check)}")
        return 0
    try:
        problem = carry_out(steps, venv, target, facts, starter)
        if problem:
            return fail(problem)
        say(f"[check] {shown(check)}")
        return starter(check)[0]
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _target_of(venv: Path) -> Optional[str]:
    """The target an environment was made for: the one whose torch pin it fulfils."""
    there = installed(venv) if is_complete(venv) else {}
    fulfilled = (name for name in TARGETS if not missing(requirements(ROOT / f"requirements-{name}.txt"), there))
    return next(fulfilled, None) if "torch" in there else None


def _relative(path: Path) -> str:
    return shown((str(path),))


def too_old(python: str, venv: Path) -> Optional[Finding]:
    """The Python of the environment, or the one that will make it, against the least version the kit runs on."""
    config = venv / "pyvenv.cfg"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    match = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+\.\d+)", text, re.MULTILINE)
    if match:
        found = match.group(1)
    elif os.path.realpath(python) == os.path.realpath(sys.executable):
        found = platform.python_version()
    else:
        try:
            asked = subprocess.run(
                [python, "-c", "import platform; print(platform.python_version())"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=10,
                check=False,
            )
            found = asked.stdout.decode("ascii", "replace").strip()
        except (OSError, subprocess.TimeoutExpired):
            found = ""
    if versions.at_least(found, "%d.%d" % LEAST_PYTHON):
        return None
    where = str(config) if match else python
    return finding(
        "install-python-too-old",
        Facts(os=_os(), python=found or None),
        details=[("Python", f"{found or 'not found'} ({where})")],
    )


def too_deep(venv: Path, facts: Facts) -> Optional[Finding]:
    """Torch's names below the environment against the longest path of Windows, before gigabytes are fetched."""
    there = {"torch": installed(venv).get("torch")}
    site = len(str(venv / "Lib" / "site-packages"))
    return next(iter(long_paths(facts.with_changes(packages=there, site_packages_characters=site))), None)


def _os() -> str:
    return {"win32": "Windows", "darwin": "macOS"}.get(sys.platform, "Linux")


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m envcheck install", description="Install the training stack that fits this machine."
    )
    kind = parser.add_mutually_exclusive_group()
    for name in TARGETS:
        kind.add_argument(
            f"--{name}", action="store_true", help=f"take requirements-{name}.txt whatever the machine says"
        )
    parser.add_argument(
        "--venv",
        metavar="DIR",
        default=str(VENV),
        help="the environment to make or complete (default .venv)",
    )
    parser.add_argument(
        "--python", metavar="EXE", default=sys.executable, help="the Python that makes it (default: this one)"
    )
    more = parser.add_mutually_exclusive_group()
    for name, what in EXTRAS.items():
        more.add_argument(
            f"--{name}", dest="extra", action="store_const", const=name,
            help=f"also {what} (requirements-{name}.txt)",
        )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="show the commands and run none")
    return parser
