"""Pure rules: Facts -> findings. Imports facts, versions, known, wheels, causes; touches no machine and prints
nothing.

A rule yields Findings when it is certain and nothing when a fact it needs is unknown. `CHECKS` groups the rules as
the screen shows them and says which facts a group needs, so that "could not be read" is told apart from "fine". Add a
rule to its group.
"""

from typing import Callable, Iterable, List, NamedTuple, Tuple

from envcheck import wheels
from envcheck.causes import finding
from envcheck.facts import SEVERITIES, Facts, Finding
from envcheck.rules import cards, compiled, distributed, packages, smoke, system, training

Rule = Callable[[Facts], Iterable[Finding]]


class Check(NamedTuple):
    """`needs`: facts without which the verdict is unknown; alternatives are joined by "|"."""

    name: str
    needs: Tuple[str, ...]
    rules: Tuple[Rule, ...]


CHECKS: Tuple[Check, ...] = (
    Check("driver", ("gpu|gpu_count", "driver|driver_cuda"), cards.DRIVER),
    Check("Python and package versions", ("python", "packages"), packages.RULES),
    Check("PyTorch build", ("packages", "gpu|gpu_count"), cards.TORCH),
    Check("choice of GPUs", ("gpu|gpu_count", "env"), distributed.RULES),
    Check("compiled packages", ("packages",), compiled.RULES),
    Check("system libraries and compiler", ("c_compiler", "python_headers"), system.RULES),
    Check("planned run", (), training.RULES),
    Check("memory and disk", ("ram_gib", "disk_free_gib"), training.MEMORY),
    Check("model hub", ("hub_reachable",), training.HUB),
    Check("smoke tests", ("smoke",), smoke.RULES),
)


def apply(rule: Rule, facts: Facts) -> List[Finding]:
    """Run one rule; one that raises becomes a finding, so that the others still run."""
    try:
        return list(rule(facts))
    except Exception as error:
        details = (("check", rule.__name__), ("failure", f"{type(error).__name__}: {error}"[:200]))
        return [finding("rule-crashed", facts, details=details)]


def judge(facts: Facts, checks: Tuple[Check, ...] = CHECKS) -> Tuple[Finding, ...]:
    """All findings, errors first; within one severity in the order of CHECKS, causes before their consequences."""
    found = [item for check in checks for rule in check.rules for item in apply(rule, facts)]
    unique = {(item.id, item.what): item for item in reversed(found)}
    ordered = [item for item in found if unique.pop((item.id, item.what), None)]
    return tuple(sorted(ordered, key=lambda item: SEVERITIES.index(item.severity)))


def missing(check: Check, facts: Facts) -> List[str]:
    """The facts that the verdict needs and nobody could read. Where there is no NVIDIA card no driver is missed."""
    driverless = facts.gpu is not None and not wheels.nvidia_cards(facts)
    torchless = facts.installed("torch") is None and facts.torch_build is None and facts.torch_arch_list is None
    torch = ["torch"] if "torch" in check.name.lower() and facts.packages is not None and torchless else []
    return torch + [
        need.split("|")[0]
        for need in check.needs
        if all(getattr(facts, name) is None for name in need.split("|"))
        and not (driverless and need.startswith("driver"))
    ]


def verdicts(facts: Facts, checks: Tuple[Check, ...] = CHECKS) -> Tuple[Tuple[str, str, str], ...]:
    """(name, state, words) of each group; state: ok, unknown, note, warning or error. Unknown is never ok."""
    rows = []
    for check in checks:
        if check.name == "planned run" and facts.training is None and facts.model is None:
            continue  # none was given: nothing to check
        found = judge(facts, (check,))
        unread = missing(check, facts)
        if found:
            rows.append((check.name, found[0].severity, ", ".join(dict.fromkeys(item.id for item in found))))
        elif unread:
            words = "not run" if check.name == "smoke tests" else "could not read: " + ", ".join(unread)
            rows.append((check.name, "unknown", words))
        else:
            rows.append((check.name, "ok", smoke.summary(facts) if check.name == "smoke tests" else ""))
    return tuple(rows)
