"""The recorded failures and healthy machines; scoring as the casebook's README describes it."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from envcheck import rules
from envcheck.explain import explain
from envcheck.facts import Facts

FIX_CHARACTERS = 1500


def normal(text: str) -> str:
    return " ".join(text.lower().replace("_", "-").split())


def fix_is_right(case: dict, finding) -> bool:
    text = normal(" ".join(finding.fix))[:FIX_CHARACTERS]
    return any(all(normal(word) in text for word in words) for words in case["fix_must_mention"])


def answer(case: dict, mode: str) -> tuple:
    facts = Facts.from_json(case["facts"])
    return rules.judge(facts) if mode == "facts" else explain(case["error"], facts if mode == "both" else Facts())


def modes(case: dict) -> list:
    found = ["facts"] if case["detectable_from_facts"] and case["facts"] else []
    found += ["log"] if case["detectable_from_error"] and case["error"] else []
    return found + (["both"] if case["facts"] and case["error"] else [])


def accepted(case: dict, mode: str) -> set:
    return {case["cause_id"], *case["also_accept"], *(case.get(f"also_accept_{mode}", []) if mode != "both" else [])}


def results(cases: list, mode: str) -> list:
    """(case, first id is right, its fix is right) of every failure that is run in this mode."""
    rows = []
    for case in cases:
        if case["kind"] == "fault" and mode in modes(case):
            found = answer(case, mode)
            right = bool(found) and found[0].id in accepted(case, mode)
            rows.append((case["id"], right, right and fix_is_right(case, found[0])))
    return rows


@pytest.mark.parametrize(("mode", "least"), [("facts", 0.95), ("log", 0.95), ("both", 0.95)])
def test_the_cause_comes_first(cases, mode, least):
    rows = results(cases, mode)
    missed = [name for name, right, _ in rows if not right]
    assert len(rows) > 50
    assert 1 - len(missed) / len(rows) >= least, missed


@pytest.mark.parametrize("mode", ["facts", "log", "both"])
def test_every_fix_mentions_what_matters(cases, mode):
    assert [name for name, right, fixed in results(cases, mode) if right and not fixed] == []


def test_no_false_alarm_on_a_healthy_machine(cases):
    healthy = [case for case in cases if case["kind"] == "healthy"]
    alarms = {case["id"]: [item.id for item in answer(case, "facts") if item.severity == "error"] for case in healthy}
    assert len(healthy) == 15
    assert {name: ids for name, ids in alarms.items() if ids} == {}


def test_severity_is_that_of_the_label(cases):
    wrong = []
    for case in cases:
        if case["kind"] == "fault" and case["severity"]:
            found = answer(case, modes(case)[-1])
            if found and found[0].id in accepted(case, "both") and found[0].severity != case["severity"]:
                wrong.append(case["id"])
    assert wrong == []


def test_no_rule_crashes(cases):
    assert [case["id"] for case in cases for item in answer(case, "facts") if item.id == "rule-crashed"] == []


@pytest.mark.parametrize(
    "name", ["rtx5090-torch-arch-list-ends-sm90", "nvml-mismatch-550-no-gpus", "healthy-rtx5080-windows-cu128"]
)
def test_the_command_gives_the_same_answer(cases, name, tmp_path):
    case = next(case for case in cases if case["id"] == name)
    (tmp_path / "facts.json").write_text(json.dumps(case["facts"]), encoding="utf-8")
    command = [sys.executable, "-m", "envcheck", "--json", "--facts", str(tmp_path / "facts.json")]
    if case["kind"] == "fault":
        (tmp_path / "error.txt").write_text(case["error"], encoding="utf-8")
        command += ["--log", str(tmp_path / "error.txt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    found = json.loads(done.stdout)["findings"]
    assert [item["id"] for item in found] == [
        item.id for item in answer(case, "both" if case["kind"] == "fault" else "facts")
    ]
    assert done.returncode == int(any(item["severity"] == "error" for item in found))
