"""Findings and facts -> text for a terminal, JSON, and a file fit for a bug report. Pure; imports facts, causes."""

import os
import re
import textwrap
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from envcheck.causes import CAUSES
from envcheck.facts import SCHEMA, SEVERITIES, Facts, Finding, Gpu

WIDTH = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # of a foreign text; a terminal would obey them
COLOURS = {"error": "31", "warning": "33", "note": "36", "ok": "32", "unknown": "33"}


def paint(text: str, kind: str, colour: bool) -> str:
    return f"\033[{COLOURS[kind]}m{text}\033[0m" if colour else text


def colour_wanted(stream: Any) -> bool:
    """A terminal, and NO_COLOR is not set (https://no-color.org)."""
    return bool(getattr(stream, "isatty", lambda: False)()) and not os.environ.get("NO_COLOR")


def render(finding: Finding, colour: bool = False) -> str:
    """One finding: "error: id", what is wrong, the evidence, the fix as it can be pasted, where to read why."""
    lines = [f"{paint(finding.severity, finding.severity, colour)}: {finding.id}", ""]
    lines += textwrap.wrap(finding.what, WIDTH - 2, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
    lines += _details(finding.details)
    if finding.fix:
        lines += ["", *_fix(finding.fix)]
    if finding.id in CAUSES:
        lines.append(f"  why: python -m envcheck --explain {finding.id}")
    elif finding.why:
        lines += textwrap.wrap(finding.why, WIDTH - 2, initial_indent="  why: ", subsequent_indent="       ")
    return "\n".join(lines)


def _details(details: Sequence[Tuple[str, str]]) -> List[str]:
    width = max((len(label) for label, _ in details), default=0)
    return [f"  {label:<{width}}  {' '.join(_CONTROL.sub(' ', str(value)).split())[:300]}" for label, value in details]


def _fix(fix: Sequence[str]) -> List[str]:
    """Commands stay on one line each, however long: a broken line could not be pasted."""
    return [("  fix: " if number == 0 else "       ") + line for number, line in enumerate(fix)]


def render_all(findings: Iterable[Finding], colour: bool = False) -> str:
    return "\n\n".join(render(finding, colour) for finding in findings)


def verdict(findings: Sequence[Finding], checks: Sequence[Tuple[str, str, str]] = ()) -> str:
    """The last line of the screen; what was not checked is named, never counted as fine."""
    unknown = [name for name, state, _ in checks if state == "unknown"]
    counts = [(severity, sum(item.severity == severity for item in findings)) for severity in SEVERITIES]
    said = ", ".join(f"{count} {severity}{'s' if count > 1 else ''}" for severity, count in counts if count)
    if any(item.severity != "note" for item in findings):
        return f"{said}."
    return _fitness(unknown) + (f" {said}." if said else "")


def _fitness(unknown: Sequence[str]) -> str:
    """Of a machine without errors and warnings."""
    if {"driver", "compiled packages", "PyTorch build"} & set(unknown):
        return "No problem found in what could be read, which is not enough to call this machine fit."
    if unknown:
        return f"No problem found: fit for fine-tuning as far as checked (not checked: {', '.join(unknown)})."
    return "This machine is fit for fine-tuning: no problem found."


def to_json(facts: Facts, findings: Sequence[Finding], checks: Sequence[Tuple[str, str, str]] = ()) -> Dict[str, Any]:
    """The answer of --json, schema 1 (a change of meaning raises it):

    schema: 1. fit: no finding of severity error. findings: most likely cause first, each with id, severity, what,
    why, fix (list of commands and "# " comments), details (label -> value), source. checks: list of {name, state,
    words}, state one of ok, unknown, note, warning, error; empty with --log. facts: what was judged, redacted.
    """
    return {
        "schema": SCHEMA,
        "fit": not any(item.severity == "error" for item in findings),
        "findings": [item.to_json() for item in findings],
        "checks": [{"name": name, "state": state, "words": words} for name, state, words in checks],
        "facts": redact(facts.to_json()),
    }


def page(cause_id: str) -> str:
    """What --explain prints. The fix is written for Linux and for Windows where they differ."""
    item = CAUSES[cause_id]
    blocks = [f"{item.id} ({item.severity})", _paragraph(item.title), "Why\n" + _paragraph(item.why)]
    fixes = {name: item.fix(Facts(os=name)) for name in ("Linux", "Windows")}
    same = fixes["Linux"] == fixes["Windows"]
    for name, lines in list(fixes.items())[: 1 if same else 2]:
        blocks.append(("Fix" if same else f"Fix on {name}") + "\n" + "\n".join("  " + line for line in lines))
    blocks += ["Check\n  " + item.check, "Source\n" + _paragraph(item.source)]
    return "\n\n".join(blocks)


def _paragraph(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False))


def catalogue() -> str:
    """What --list prints: every id with its severity and title."""
    width = max(map(len, CAUSES))
    return "\n".join(f"{item.id:<{width}}  {item.severity:<7}  {item.title}" for item in sorted(CAUSES.values()))


# --- the machine on the screen ----------------------------------------------------------------------------------------
def machine(facts: Facts) -> str:
    """The machine in five lines; what could not be read says "unknown"."""
    return "\n".join(
        [
            f"System   {_system(facts)}",
            f"GPU      {_cards(facts)}",
            f"Driver   {_driver(facts)}",
            f"PyTorch  {_torch(facts)}",
            f"Memory   {_memory(facts)}",
        ]
    )


def _or_unknown(value: Any, unit: str = "") -> str:
    return "unknown" if value is None else f"{value:.1f}{unit}" if isinstance(value, float) else f"{value}{unit}"


def _system(facts: Facts) -> str:
    words = [_or_unknown(facts.os), f"Python {_or_unknown(facts.python)}"]
    if facts.is_wsl and "wsl" not in (facts.os or "").lower():
        words.append("WSL2")
    if facts.container:
        words.append(f"in a container ({facts.container})")
    return ", ".join(words)


def _cards(facts: Facts) -> str:
    if facts.gpu is None:
        return f"{facts.gpu_count} cards, names unknown" if facts.gpu_count else "unknown"
    return "; ".join(map(describe_gpu, facts.gpu)) or "none"


def describe_gpu(gpu: Gpu) -> str:
    """ "NVIDIA GeForce RTX 5080 (sm_120, 15.9 GiB, 14.8 free)"."""
    parts = ["sm_" + gpu.compute_capability.replace(".", "")] if gpu.compute_capability else []
    if gpu.vram_gib is not None:
        parts.append(
            f"{gpu.vram_gib:g} GiB" + (f", {gpu.vram_free_gib:g} free" if gpu.vram_free_gib is not None else "")
        )
    parts += [f"held by {', '.join(gpu.processes[:3])}"] if gpu.processes else []
    return (gpu.name or "unnamed card") + (f" ({', '.join(parts)})" if parts else "")


def _driver(facts: Facts) -> str:
    if facts.gpu == () and not facts.driver:
        return "none"
    return f"{_or_unknown(facts.driver)}, runs CUDA up to {_or_unknown(facts.driver_cuda)}"


def _torch(facts: Facts) -> str:
    if facts.installed("torch") is False:
        return "not installed"
    build = facts.torch_build
    kind = {"cpu": "CPU build", "rocm": "ROCm build", None: "build unknown"}.get(build, f"CUDA {build}")
    if facts.is_macos and build in ("cpu", None):
        kind = "macOS build"
    return f"{facts.shown_version('torch')}, {kind}"


def _memory(facts: Facts) -> str:
    parts = [f"RAM {_or_unknown(facts.ram_gib, ' GiB')}"]
    if facts.memory_limit_gib is not None:
        parts.append(f"container limit {facts.memory_limit_gib:g} GiB")
    parts.append(f"swap {_or_unknown(facts.swap_gib, ' GiB')}")
    parts.append(f"disk free {_or_unknown(facts.disk_free_gib, ' GiB')}")
    return ", ".join(parts)


# --- redaction --------------------------------------------------------------------------------------------------------
_SECRETS = (
    (re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{8,}\b"), "<token>"),
    (re.compile(r"\b(?:gh[pousr]|github_pat|glpat|sk|xox[abp])[-_][A-Za-z0-9_-]{12,}"), "<token>"),
    (
        re.compile(r"\b(?:GPU-|MIG-)?[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b"),
        "<uuid>",
    ),
    (re.compile(r"(?i)\b(serial(?: number)?\s*[:=]\s*)\S+"), r"\1<serial>"),
    (re.compile(r"(?i)(https?://)[^/\s:@]+:[^/\s@]+@"), r"\1<login>@"),
    (re.compile(r"(?i)\b([A-Z]:[\\/]+Users[\\/]+)[^\\/\s:;\"']+"), r"\1<user>"),
    (re.compile(r"((?:^|[\s:;\"'=(])/(?:home|Users)/)[^/\s:;\"']+"), r"\1<user>"),
    (re.compile(r"(?i)\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b"), "<mac>"),
)
_SECRET_NAMES = re.compile(r"(?i)(?<!tik)token(?!i[sz])|secret|password|passwd|api_?key|credential|no_proxy")
_HOST_NAMES = re.compile(r"(?i)_proxy$|^MASTER_ADDR$")  # variables whose value names a machine of the user's network
_MIG_KEPT = re.compile(r"^MIG-|^GPU-")


def redact_text(text: str, names: Sequence[str] = ()) -> str:
    """Take out tokens, UUIDs, serial numbers, logins, home folders, and these names (user, host, home path)."""
    for name in sorted((name for name in names if len(name) > 2), key=len, reverse=True):
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", "<name>", text)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def redact(value: Any, names: Sequence[str] = (), key: str = "") -> Any:
    """redact_text over every string of a JSON value; of a variable named like a secret only its presence stays."""
    if isinstance(value, dict):
        return {redact_text(str(name), names): redact(item, names, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item, names, key) for item in value]
    if not isinstance(value, str):
        return value
    if _SECRET_NAMES.search(key) and value:
        return "<set>"
    if _HOST_NAMES.search(key):
        return re.sub(r"(?i)^(\w+://)?(?:[^/@]*@)?[^/:]+", r"\1<host>", value)
    kind = _MIG_KEPT.match(value)
    cleaned = redact_text(value, names)
    return kind.group(0) + cleaned if kind and cleaned.startswith("<uuid>") else cleaned


def screen(
    facts: Facts,
    checks: Sequence[Tuple[str, str, str]],
    findings: Sequence[Finding],
    colour: bool = False,
    title: Optional[str] = None,
) -> str:
    """The whole page of `python -m envcheck`: the machine, each check with its verdict, the findings, one last line."""
    blocks = [title] if title else []
    blocks.append(machine(facts))
    width = max((len(name) for name, _, _ in checks), default=0)
    blocks.append(
        "\n".join(
            f"{paint(f'{state:<8}', _kind(state), colour)} {name:<{width}}  {said}".rstrip()
            for name, state, said in checks
        )
    )
    if findings:
        blocks.append(render_all(findings, colour))
    blocks.append(verdict(findings, checks))
    return "\n\n".join(block for block in blocks if block)


def _kind(state: str) -> str:
    return {"ok": "ok", "error": "error", "warning": "warning", "note": "note"}.get(state, "unknown")
