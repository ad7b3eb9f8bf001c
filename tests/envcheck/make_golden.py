"""Write the golden screens again: python tests/envcheck/make_golden.py, then read the difference before committing
it.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from envcheck import report, rules  # noqa: E402
from envcheck.__main__ import judge_all  # noqa: E402
from envcheck.facts import Facts  # noqa: E402


def screen_of(machine: Path) -> str:
    facts = Facts.from_json(machine.read_text(encoding="utf-8"))
    return report.screen(facts, rules.verdicts(facts), judge_all(facts)) + "\n"


if __name__ == "__main__":
    for path in sorted((HERE / "machines").glob("*.json")):
        (HERE / "golden" / f"{path.stem}.txt").write_text(screen_of(path), encoding="utf-8")
