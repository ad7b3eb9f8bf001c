"""The notebooks as they are committed: run from top to bottom, readable without running, in both languages.

That they still run is shown by `python -m notebooks --check`, which `make test` calls.
"""

import json
import re
from pathlib import Path

import pytest

from notebooks import claims
from notebooks.__main__ import every

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = every()
LARGEST_BYTES = 400_000
SHOWN_ON_GITHUB = {"text/plain", "text/html", "text/markdown", "image/svg+xml", "image/png", claims.MIME}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def outputs(path: Path) -> list[dict]:
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def test_there_are_seven() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, 8)]


@each
def test_it_was_run_from_top_to_bottom_without_an_error(path: Path) -> None:
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(path) if output["output_type"] == "error"]


@each
def test_its_outputs_are_small_and_seen_where_it_is_only_shown(path: Path) -> None:
    assert len(json.dumps(outputs(path)).encode()) < LARGEST_BYTES
    for output in outputs(path):
        kinds = set(output.get("data", {}))
        assert kinds <= SHOWN_ON_GITHUB
        assert not re.search(r"<(script|iframe)\b", json.dumps(output))


@each
def test_its_outputs_say_nothing_about_the_machine_that_ran_it(path: Path) -> None:
    text = json.dumps(outputs(path))
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text
    assert "site-packages" not in text


@each
def test_the_introduction_and_every_heading_are_in_both_languages(path: Path) -> None:
    words = [source(cell) for cell in cells(path, "markdown")]
    assert words[0].startswith("# ")
    assert len(CHINESE.findall(words[0])) > 20
    headings = [line for text in words for line in text.splitlines() if re.match(r"#{1,3} ", line)]
    assert len(headings) > 3
    assert [line for line in headings if not CHINESE.search(line)] == []


@each
def test_it_prepares_its_kernel_itself(path: Path) -> None:
    assert source(cells(path, "code")[0]).startswith("import start")


@each
def test_its_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    assert dead_links(text) == []


@pytest.mark.parametrize("name", ["README.md", "CLAIMS.md"])
def test_links_of_the_pages_lead_somewhere(name: str) -> None:
    assert dead_links((FOLDER / name).read_text(encoding="utf-8")) == []


def dead_links(text: str) -> list[str]:
    """Relative links and pictures that are no file; others must be https."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [link.partition("#")[0] for link in found if not link.startswith(("https://", "#"))]
    return [link for link in local if not (FOLDER / link).exists()]


def test_a_dead_link_is_seen() -> None:
    assert dead_links("[a](02_nothing.ipynb) ![b](README.md) [c](http://plain.example)") == [
        "02_nothing.ipynb",
        "http://plain.example",
    ]


@each
def test_the_list_has_its_line_and_its_picture(path: Path) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"]({path.name})" in text
    assert re.search(rf"!\[[^\]]+\]\(pictures/{path.stem[:2]}\.(svg|png)\)", text)


# the claims


def test_the_page_of_claims_is_that_of_the_notebooks() -> None:
    assert claims.PAGE.read_text(encoding="utf-8") == claims.page()


def test_nearly_every_claim_has_a_verdict() -> None:
    assert list(claims.read()) == list(range(1, 35))
    judged = {one.number for path in NOTEBOOKS for one in claims.verdicts(path)}
    assert len(judged) >= 32
    assert all(row.not_measured for number, row in claims.read().items() if number not in judged)


def test_a_verdict_is_computed_from_what_holds() -> None:
    assert claims.claim(1, True, "").word == "right"
    assert claims.claim(1, False, "").word == "wrong"
    assert claims.claim(31, False, "").word == "not caught"
    assert claims.claim(20, "partly", "").word == "partly"


def test_a_verdict_in_a_saved_output_is_found(tmp_path: Path) -> None:
    data = claims.claim(5, False, "16 of 16")._repr_mimebundle_()
    cell = {"cell_type": "code", "execution_count": 4, "outputs": [{"output_type": "execute_result", "data": data}]}
    path = tmp_path / "03_x.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown"}, cell]}))
    assert claims.verdicts(path) == [claims.Shown(5, "wrong", "16 of 16", "03_x.ipynb", 4)]
