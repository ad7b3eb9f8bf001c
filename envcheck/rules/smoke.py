"""Rules: what the small tests on this machine said."""
from typing import Iterator

from envcheck.causes import finding
from envcheck.facts import Facts, Finding


def smoke_tests(facts: Facts) -> Iterator[Finding]:
    for name, result in (facts.smoke or {}).items():
        said = str(result.get("detail") or "")[-300:]
        if result.get("verdict") == "failed":
            yield finding("smoke-test-failed", facts, f"The test '{name}' failed.", [("test", name), ("said", said)])
        elif result.get("verdict") == "hung":
            yield finding("smoke-test-hung", facts, f"The test '{name}' did not end within its time limit.", [("test", name)])


RULES = (smoke_tests,)
