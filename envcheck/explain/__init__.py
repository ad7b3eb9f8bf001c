"""An error text (with the machine's facts, where they are known) -> findings, most likely cause first. Pure.

Three steps: the table of signatures says what the text points to; where one symptom has several causes the facts (or
the rest of the text) decide; a cause that the facts show as well is moved up. Imports facts, versions, known, causes,
rules.
"""

import re
from typing import Dict, List, Sequence, Tuple

from envcheck import rules
from envcheck.causes import finding
from envcheck.explain.clues import CERTAIN, HEAD_CHARACTERS, MENTIONED, Clue, excerpt
from envcheck.explain.readers import READERS
from envcheck.facts import SEVERITIES, Facts, Finding
from envcheck.known.signatures import signatures

TAIL_CHARACTERS = 1_000_000  # of a longer text: the error stands at its end
MOST_FINDINGS = 3


def explain(text: str, facts: Facts) -> Tuple[Finding, ...]:
    """Findings for this error text, then what else is wrong with the machine; at most MOST_FINDINGS from the text.

    text: any length; of more than 1.2 million characters only beginning and end are read. facts: Facts() where
    nothing is known.
    """
    known_wrong = rules.judge(facts)
    cleaned = clean(text)
    if not cleaned:
        return known_wrong
    machine = with_hints(cleaned, facts)
    clues = ranked(all_clues(cleaned, machine), known_wrong)
    explained = [as_finding(clue, machine, known_wrong) for clue in clues]
    ids = {item.id for item in explained}
    rest = [item for item in known_wrong if item.id not in ids and item.severity == "error"]
    if not explained:
        is_wrong = any(item.severity != "note" for item in known_wrong)
        unknown = finding("text-not-recognised", facts, details=[("text", cleaned[-200:])])
        return known_wrong if is_wrong else (unknown, *known_wrong)
    return tuple(explained + rest)


def judge_all(facts: Facts) -> Tuple[Finding, ...]:
    """The rules' findings, and before them the causes that the messages of failed smoke tests name."""
    findings = rules.judge(facts)
    failed = [
        str(result.get("detail") or "") for result in (facts.smoke or {}).values() if result.get("verdict") == "failed"
    ]
    if not failed:
        return findings
    named = [item for text in failed for item in explain(text, facts) if item.id != "text-not-recognised"]
    first_of: Dict[str, Finding] = {}
    for item in (*named, *findings):
        first_of.setdefault(item.id, item)
    return tuple(sorted(first_of.values(), key=lambda item: SEVERITIES.index(item.severity)))


def clean(text: str) -> str:
    """Without colours and progress bars, white space collapsed, all quotes made "'"."""
    if len(text) > HEAD_CHARACTERS + TAIL_CHARACTERS:
        text = text[:HEAD_CHARACTERS] + "\n" + text[-TAIL_CHARACTERS:]
    text = re.sub(r"\x1b\[[0-9;?]{0,20}[A-Za-z]", "", text)
    text = re.sub(r"[`\"\u2018\u2019\u201c\u201d\u00b4]", "'", text)
    return " ".join(text.split())


def all_clues(text: str, facts: Facts) -> List[Clue]:
    lowered = text.lower()
    clues = [clue for reader in READERS for clue in reader(text, facts)]
    for row in signatures():
        match = row.find(lowered)
        if match:
            said = excerpt(text, match.start(), match.end())
            clues.append(Clue(row.id, row.strength, said, milder(row.id, lowered)))
    return clues


MILDER = (  # messages that only warn
    ("torchao-incompatible", r"skipping import of cpp extensions", "warning"),
    ("torchvision-mismatch", r"failed to load image python extension(?!.*torchvision::nms)", "warning"),
    ("mixed-gpu-architectures", r"imbalance between your gpus", "warning"),
    ("expandable-segments-conflict", r"expandable_segments not supported on this platform", "warning"),
    ("trl-renamed-argument", r"is deprecated(?!.*unexpected keyword)", "warning"),
)


def milder(cause_id: str, lowered: str) -> str:
    return next(
        (severity for name, pattern, severity in MILDER if name == cause_id and re.search(pattern, lowered)), ""
    )


def ranked(clues: Sequence[Clue], known_wrong: Sequence[Finding]) -> List[Clue]:
    """One clue per cause, strongest first. A cause the facts show too gains one step; beside a certain one, symptoms
    are dropped.
    """
    shown = {item.id for item in known_wrong if item.severity != "note"}
    best: Dict[str, Clue] = {}
    for clue in clues:
        if clue.id not in best or clue.strength > best[clue.id].strength:
            best[clue.id] = clue
    ordered = sorted(best.values(), key=lambda clue: -(clue.strength + (1.5 if clue.id in shown else 0)))
    if not ordered:
        return []
    top = ordered[0].strength
    if top == MENTIONED and shown and ordered[0].id not in shown:
        return []  # what the machine shows weighs more than a word
    kept = [clue for clue in ordered[1:] if (clue.strength >= CERTAIN and top <= clue.strength) or clue.id in shown]
    return [ordered[0], *kept][:MOST_FINDINGS]


def as_finding(clue: Clue, facts: Facts, known_wrong: Sequence[Finding]) -> Finding:
    same = next((item for item in known_wrong if item.id == clue.id), None)
    details = [("said", clue.excerpt)] if clue.excerpt else []
    if same is None and clue.strength == MENTIONED:
        guess = "A guess, from one word of the text: " + finding(clue.id, facts).what
        return finding(clue.id, facts, guess, details, "warning")
    if same is None:
        return finding(clue.id, facts, details=details, severity=clue.severity)
    severity = clue.severity or finding(clue.id, facts).severity
    return finding(clue.id, facts, same.what, [*same.details, *details], severity, same.fix)


# --- what the text tells about the machine
# -----------------------------------------------------------------------------
SYSTEMS = (
    (
        "Windows",
        r"\b[a-z]:[\\/](?:users|program|a[\\/]|ai|python|windows|work|miniconda|anaconda)|"
        r"\\\\?(?:site-packages|lib)\\|\.dll\b|\.pyd\b|winerror|dll load failed|\.ps1\b|win_amd64",
    ),
    ("Linux (Colab)", r"/content/|google colab|\bcolab\b"),
    ("Linux (Kaggle)", r"/kaggle/|\bkaggle\b"),
    ("macOS", r"/users/[^/\s]+/(?!.*\\)|\bmacos\b|\bdarwin\b|\bmps backend\b"),
    ("Linux (WSL2)", r"\bwsl2?\b|microsoft-standard"),
    ("Linux", r"\.so(?:\.\d+)*\b|/usr/|/home/|/root/|/opt/|dist-packages|x86_64-linux-gnu"),
)


def with_hints(text: str, facts: Facts) -> Facts:
    """Fill in what the facts leave open and the text shows: system, Python, torch build. Only for fixes and for
    deciding.
    """
    lowered = text[:HEAD_CHARACTERS].lower() + text[-HEAD_CHARACTERS:].lower()
    changes: Dict[str, object] = {}
    if facts.os is None and facts.wsl is None:
        changes["os"] = next((name for name, pattern in SYSTEMS if re.search(pattern, lowered)), None)
    python = re.search(r"python(?:-|/)?(3\.\d{1,2})[/\\ ]|cp3(\d{1,2})-", lowered)
    if facts.python is None and python:
        changes["python"] = python.group(1) or "3." + python.group(2)
    torch = re.search(r"\(you have (\d[\w.]*(?:\+[\w.]+)?)\)|found (\d[\w.]*\+(?:cu\d+|cpu))\)", lowered)
    if torch and facts.package("torch") is None:
        changes["packages"] = {**(facts.packages or {}), "torch": torch.group(1) or torch.group(2)}
    return facts.with_changes(**changes) if changes else facts
