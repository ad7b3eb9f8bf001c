import json
import re

import pytest
from conftest import HERE
from hypothesis import given, settings
from hypothesis import strategies as st
from make_golden import judge_all, screen_of
from test_facts import ANY_FACTS

from envcheck import report, rules
from envcheck.facts import Facts, Finding, Gpu

MACHINES = sorted((HERE / "machines").glob("*.json"))


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_the_screen_is_the_golden_one(path):
    assert screen_of(path) == (HERE / "golden" / f"{path.stem}.txt").read_text(encoding="utf-8")


def test_there_are_enough_screens_and_none_is_left_over():
    assert len(MACHINES) >= 12
    assert {path.stem for path in MACHINES} == {path.stem for path in (HERE / "golden").glob("*.txt")}


def test_a_finding_is_printed_in_one_form():
    finding = Finding(
        "torch-missing",
        "error",
        "What is wrong.",
        fix=("do this", "# and that"),
        details=(("GPU", "x"), ("driver", "y")),
    )
    assert report.render(finding).splitlines() == [
        "error: torch-missing",
        "",
        "  What is wrong.",
        "  GPU     x",
        "  driver  y",
        "",
        "  fix: do this",
        "       # and that",
        "  why: python -m envcheck --explain torch-missing",
    ]


def test_a_card_is_described_with_who_holds_its_memory():
    gpu = Gpu("NVIDIA L4", "8.9", 22.2, 10.1, processes=("python (pid 7, 12 GiB)",))
    assert report.describe_gpu(gpu) == "NVIDIA L4 (sm_89, 22.2 GiB, 10.1 free, held by python (pid 7, 12 GiB))"


def test_colour_only_when_asked():
    finding = Finding("torch-missing", "error", "What is wrong.")
    assert "\033[" not in report.render(finding)
    assert report.render(finding, colour=True).startswith("\033[31merror\033[0m")


def test_a_healthy_machine_ends_in_one_line():
    facts = Facts(
        gpu=(),
        env={},
        packages={"torch": "2.13.0+cpu"},
        python="3.12.3",
        c_compiler=True,
        python_headers=True,
        ram_gib=8,
        disk_free_gib=50,
        hub_reachable=True,
        smoke={"import torch": {"verdict": "ok"}},
        torch_cuda="",
        os="Debian 12",
    )
    text = report.screen(facts, rules.verdicts(facts), rules.judge(facts))
    assert text.endswith("\n\nThis machine is fit for fine-tuning: no problem found.")


def test_nothing_known_is_not_called_fit():
    assert "not enough" in report.screen(Facts(), rules.verdicts(Facts()), ()).splitlines()[-1]


SECRETS = {
    "token": ("hf_abcdefghijklmnopqrstuvwx", "a hub token"),
    "uuid": ("GPU-3f2c9c1e-1111-2222-3333-444455556666", "a card"),
    "home": ("/home/alice/models", "a home"),
    "mac": ("/Users/alice/x", "a home"),
    "windows": ("C:\\Users\\Alice Doe\\x", "a home"),
    "login": ("https://alice:pa55@proxy.example:8080", "a proxy"),
    "github": ("ghp_0123456789abcdefghij", "a token"),
}


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_secrets_are_taken_out(name):
    cleaned = report.redact_text("before " + SECRETS[name][0] + " after")
    for part in ("abcdefgh", "3f2c9c1e", "alice", "Alice", "pa55", "0123456789"):
        assert part not in cleaned
    assert cleaned.startswith("before ")


def test_variables_named_like_secrets_keep_only_their_presence():
    cleaned = report.redact({"env": {"HF_TOKEN": "x", "MY_PASSWORD": "y", "CUDA_HOME": "/usr/local/cuda"}})
    assert cleaned == {"env": {"HF_TOKEN": "<set>", "MY_PASSWORD": "<set>", "CUDA_HOME": "/usr/local/cuda"}}


def test_a_redacted_mig_selection_is_still_judged_the_same():
    facts = {
        "gpu": [{"name": "NVIDIA H100 MIG 2g.20gb", "compute_capability": "9.0"}],
        "packages": {"vllm": "0.9.0"},
        "env": {"CUDA_VISIBLE_DEVICES": "MIG-377e0049-554c-540b-93c6-d0976f8426cb"},
    }
    again = report.redact(facts)
    assert "377e0049" not in json.dumps(again)
    assert [item.id for item in rules.judge(Facts.from_json(again))] == [
        item.id for item in rules.judge(Facts.from_json(facts))
    ]


def test_names_of_user_and_host_are_taken_out():
    assert (
        report.redact_text("alice@box42 runs /opt/alice/x on box42", ["alice", "box42"])
        == "<name>@<name> runs /opt/<name>/x on <name>"
    )


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.text(max_size=30) | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    )
)
def test_redaction_takes_any_json_and_is_stable(value):
    once = report.redact(value)
    assert report.redact(once) == once


def test_golden_screens_hold_no_private_words():
    for path in (HERE / "golden").glob("*.txt"):
        assert not re.search(r"/home/|/Users/|/root/|hf_[a-z]{5}", path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize(
    ("severities", "said"),
    [((), "no problem found."), (("note",), "no problem found. 1 note."), (("warning", "note"), "1 warning, 1 note.")],
)
def test_a_note_does_not_make_a_machine_unfit(severities, said):
    found = [Finding("x", severity, "what") for severity in severities]
    assert report.verdict(found).endswith(said)
    assert report.verdict(found).startswith("This machine is fit") is ("warning" not in severities)


def test_a_foreign_text_cannot_steer_the_terminal():
    item = Finding("x", "note", "what", details=(("said", "a\x1b[2Jb\x07\x9bc"),))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", report.render(item))


@settings(max_examples=150, deadline=None)
@given(ANY_FACTS)
def test_any_facts_get_a_screen_and_json(data):
    facts = Facts.from_json(data)
    found = judge_all(facts)
    assert report.screen(facts, rules.verdicts(facts), found)
    assert json.loads(json.dumps(report.to_json(facts, found, rules.verdicts(facts))))["schema"] == 1
