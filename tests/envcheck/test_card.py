"""The machine as a notebook shows it, on any facts and without any package; the way of an RTX 5080."""

import html
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as xml

import pytest
from conftest import ROOT

from envcheck import card as cards
from envcheck import rules
from envcheck.card import Card, Findings, Table, Way, card, choices
from envcheck.facts import Facts, Finding
from notebooks import broken

SVG = "{http://www.w3.org/2000/svg}"
WAY = broken.way_of_an_rtx_5080()
FIRST = ("torch-lacks-gpu-arch", "torchvision-mismatch", "xformers-fa3-on-blackwell", "debug-variables-on")
ALONE = """
import json, sys
from envcheck import probe
from envcheck.facts import Facts
probe.collect = lambda **_: Facts()
names = {"display": repr}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), names)
"""


def test_the_card_of_every_saved_machine(machines):
    for data in machines.values():
        shown = card(Facts.from_json(data))
        page = shown._repr_html_()
        xml.fromstring(f"<div>{page}</div>")
        assert all(html.escape(line) in page for item in shown.findings for line in item.fix)
        for name, _, _ in rules.verdicts(shown.facts):
            assert name in page
        assert repr(shown).startswith("System")


def test_what_is_not_known_is_not_fine():
    page = card(Facts())._repr_html_()
    assert "not enough to call this machine fit" in page
    assert cards.SIGNS["unknown"] in page
    assert "<td" in page
    assert ">fine<" not in page


def test_foreign_text_is_no_html():
    finding = Finding("x-y", "error", "<b>what", "why & how", ("echo <file>",), (("said", "<script>"),))
    for page in (Findings((finding,))._repr_html_(), Card(Facts(os="<script>"), (finding,))._repr_html_()):
        xml.fromstring(f"<div>{page}</div>")
        assert "<script>" not in page


def test_choices_give_reasons_for_one_machine_and_stand_side_by_side_for_several(machines):
    one, two = (Facts.from_json(machines[name]) for name in ("rtx5080-windows", "gtx1080-new-torch"))
    assert choices({"mine": one}).rows[0] == ("setting", "mine", "why")
    rows = {row[0]: row[1:] for row in choices({"a": one, "b": two}).rows}
    assert rows["precision"] == ("bf16", "fp16")
    assert rows["load_in_4bit"] == ("yes", "no")
    assert rows["memory_bytes"][0].endswith(" GiB")
    assert Table([("a",), ("x\ny",)])._repr_html_().count("<br/>") == 1


def test_the_way_of_an_rtx_5080():
    stages = list(WAY.values())
    for cause_id, now, mended in zip(FIRST, stages, stages[1:]):  # noqa: B905 - Python 3.8 has no strict
        assert broken.caught(cause_id, now, mended), cause_id
    assert [item.severity for item in rules.judge(stages[-1])] == ["note"], "how its driver is set nobody can read"
    assert not broken.caught(FIRST[0], stages[0], stages[0])
    assert not broken.caught(FIRST[0], stages[1], stages[2])


def test_the_picture_of_the_way_shows_each_first_cause_and_ends_well():
    shown = Way(WAY)
    checks = shown.checks()
    assert checks["the machine"][-1] == ("ok", "fit")
    assert [state for state, _ in checks["the machine"]][:3] == ["error"] * 3
    assert all(len({state for state, _ in row}) > 1 for row in checks.values())
    picture = shown._repr_mimebundle_()["image/svg+xml"]
    texts = "".join(text.text for text in xml.fromstring(picture).iter(f"{SVG}text"))
    assert [cause_id for cause_id in FIRST if cause_id not in texts] == []


@pytest.mark.parametrize(
    ("env", "more", "found"),
    [
        ({"CUDA_LAUNCH_BLOCKING": "1"}, {}, ["CUDA_LAUNCH_BLOCKING"]),
        ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, {}, ["PYTORCH_NO_CUDA_MEMORY_CACHING"]),
        ({"CUDA_LAUNCH_BLOCKING": "0", "PYTORCH_NO_CUDA_MEMORY_CACHING": ""}, {}, []),
        ({"CUDA_LAUNCH_BLOCKING": "1"}, {"gpu": []}, []),
    ],
)
def test_debug_variables_cost_time_only_where_they_are_on_and_there_is_a_card(env, more, found):
    facts = Facts.from_json({"os": "Ubuntu 24.04", "gpu": [{"name": "NVIDIA GeForce RTX 4090"}], "env": env, **more})
    items = [item for item in rules.judge(facts) if item.id == "debug-variables-on"]
    assert [label for item in items for label, _ in item.details] == found
    assert [line for item in items for line in item.fix[: len(found)]] == [f"unset {name}" for name in found]


def test_the_notebook_needs_python_alone():
    """Its cells in an interpreter without site-packages; a machine of which nothing is known."""
    notebook = ROOT / "notebooks" / "01_check_your_machine.ipynb"
    named = {name for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] for name in cell["source"]}
    assert not any("start.prepare()" in line for line in named)
    done = subprocess.run(
        [sys.executable, "-S", "-c", ALONE, str(notebook)], capture_output=True, text=True, check=False,
        cwd=ROOT,
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "notebooks")]), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
