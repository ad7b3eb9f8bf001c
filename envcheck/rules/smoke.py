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
            yield finding(
                "smoke-test-hung", facts, f"The test '{name}' did not end within its time limit.", [("test", name)]
            )


def summary(facts: Facts) -> str:
    """ "5 ok, 3 skipped (torch sees no GPU)"."""
    results = list((facts.smoke or {}).values())
    skipped = [str(result.get("detail") or "") for result in results if result.get("verdict") == "skipped"]
    passed = sum(result.get("verdict") == "ok" for result in results)
    return f"{passed} ok" + (f", {len(skipped)} skipped ({'; '.join(sorted(set(skipped)))})" if skipped else "")


RULES = (smoke_tests,)
