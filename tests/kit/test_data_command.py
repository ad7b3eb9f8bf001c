"""python -m kit.data as a user types it: verdict, line and cure, the marked tokens, the cleaned copy."""

import json

import pytest

from kit import data
from kit.data.__main__ import main
from kit.data.preview import Preview
from kit.options import Rows
from tests.support.processes import run_kit

GOOD = [{"question": f"What is {i} + 1?", "answer": f"{i + 1}"} for i in range(20)]
BROKEN = "".join(
    line + "\n"
    for line in (
        json.dumps({"question": "a", "answer": "b"}),
        json.dumps({"question": "c", "answer": ""}),
        '{"question"',
        json.dumps({"question": "a", "answer": "b"}),
    )
)


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text(BROKEN)
    return path


def test_a_good_file_is_fit_and_every_row_accounted_for(write_rows, capsys) -> None:
    assert main([str(write_rows(GOOD))]) == 0
    shown = capsys.readouterr().out
    assert "verdict: fit to train on" in shown
    assert "question/answer" in shown
    counts = {line.rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in shown.splitlines() if line.split()}
    assert (counts["rows read"], counts["= to train on"], counts["+ to measure on"]) == ("20", "18", "2")
    assert "█" in shown


def test_a_broken_file_names_line_and_cure(broken, capsys) -> None:
    assert main([str(broken)]) == 1
    out, err = capsys.readouterr()
    assert "not fit to train on" in out
    for words in (
        "broken.jsonl:2",
        "broken.jsonl:3",
        "data-answer-empty",
        "data-line-does-not-parse",
        "--data-on-error skip",
    ):
        assert words in err, words


def test_json_holds_report_findings_and_rows(write_rows, capsys) -> None:
    assert main([str(write_rows([*GOOD, GOOD[0]])), "--json", "--show", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fit"] is True
    assert told["rows_read"] == told["rows_trained"] + told["rows_held_out"] == 21
    assert [finding["id"] for finding in told["findings"]] == ["data-duplicates"]
    assert len(told["rows"]) == 2
    assert any(trained for _, trained in told["rows"][0]["pieces"])


def test_show_marks_exactly_the_trained_tokens(write_rows, capsys, tiny_chat) -> None:
    path = write_rows([{"question": "Tags <b> & such?", "answer": "Yes, <b>."}])
    main([str(path), "--show", "1"])
    shown = capsys.readouterr().out
    assert "⟦Yes, <b>.<|im_end|>⟧" in shown
    assert shown.count("⟦") == 1
    html = Preview(data.read(Rows(data=str(path)), tiny_chat), tiny_chat)._repr_html_()
    assert ">Yes, &lt;b&gt;.&lt;|im_end|&gt;</mark>" in html
    assert "Tags &lt;b&gt; &amp; such?" in html
    assert "<script" not in html


def test_fix_writes_the_good_rows_and_why_the_others_went(broken, tmp_path, capsys) -> None:
    out = tmp_path / "clean.jsonl"
    main([str(broken), "--fix", str(out)])
    assert [json.loads(line) for line in out.read_text().splitlines()] == [{"question": "a", "answer": "b"}]
    removed = [json.loads(line) for line in (tmp_path / "clean.removed.jsonl").read_text().splitlines()]
    assert [(row["line"], row["code"]) for row in removed] == [
        (2, "data-answer-empty"), (3, "data-line-does-not-parse"), (4, "data-duplicates"),
    ]  # fmt: skip
    assert removed[0]["was"] == {"question": "c", "answer": ""}
    assert broken.read_text() == BROKEN
    capsys.readouterr()
    assert main([str(out)]) == 0


def test_fix_writes_half_of_a_character_as_it_stood(tmp_path) -> None:
    bad = {"question": "half \ud83d", "answer": "c"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*GOOD, bad]))
    main([str(tmp_path / "rows.jsonl"), "--fix", str(tmp_path / "clean.jsonl")])
    (removed,) = (tmp_path / "clean.removed.jsonl").read_text(encoding="utf-8").splitlines()
    assert (json.loads(removed)["code"], json.loads(removed)["was"]) == ("data-lone-surrogate", bad)


def test_fix_overwrites_nothing(broken, tmp_path, capsys) -> None:
    (tmp_path / "clean.jsonl").write_text("mine")
    assert main([str(broken), "--fix", str(tmp_path / "clean.jsonl")]) == 1
    assert "output-exists" in capsys.readouterr().err
    assert (tmp_path / "clean.jsonl").read_text() == "mine"


def test_fix_keeps_long_rows_unless_told_to_drop_them(write_rows, tmp_path) -> None:
    path = write_rows([*GOOD, {"question": "long", "answer": " ".join(map(str, range(500)))}])
    main([str(path), "--max-length-tokens", "100", "--fix", str(tmp_path / "all.jsonl")])
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 21
    main([str(path), "--max-length-tokens", "100", "--long-rows", "drop", "--fix", str(tmp_path / "few.jsonl")])
    assert len((tmp_path / "few.jsonl").read_text().splitlines()) == 20


def test_wrong_use_is_told_with_status_2(capsys) -> None:
    assert main([]) == 2
    assert main(["x.jsonl", "--shw", "3"]) == 2
    assert "--show" in capsys.readouterr().err
    assert main(["nowhere.jsonl"]) == 1


def test_the_module_runs_without_torch(write_rows) -> None:
    done = run_kit("kit.data", write_rows(GOOD), "--show", 1)
    assert done.returncode == 0, done.stderr
    assert "fit to train on" in done.stdout
