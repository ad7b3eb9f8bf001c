"""What notebooks show: pictures with colours of their own, tables without markup in them, a run that is drawn."""

import re
from pathlib import Path

import pytest

from kit import notebook
from kit.notebook import live
from kit.notebook.pictures import progress_bar
from kit.options import Run, resolve
from kit.report import plots
from kit.run.record import Answer, Result
from kit.support.errors import KitError

QWEN3_4B = Path(__file__).parents[1] / "data" / "qwen3" / "Qwen3-4B.config.json"


def line(axes) -> None:
    axes.plot([1, 2], [3, 4], color=plots.COLOURS[0])


def test_a_picture_brings_its_colours_and_its_paper() -> None:
    shown = notebook.picture("a line", line)._repr_mimebundle_()
    assert shown["text/plain"] == "a line"
    assert "var(" not in shown["image/svg+xml"]
    assert "#0072b2" in shown["image/svg+xml"]
    assert shown["image/svg+xml"].startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_plots_stand_beside_and_below_each_other() -> None:
    svg = plots.svg("one", line)
    places = re.findall(r'<svg x="(\d+)" y="(\d+)"', notebook.stacked([("a", svg), ("b", svg), ("c", svg)], "", 2).svg)
    (x1, y1), (x2, y2), (x3, y3) = [(int(x), int(y)) for x, y in places]
    assert x1 == x3 < x2
    assert y1 == y2 < y3


def test_a_title_is_no_markup() -> None:
    svg = notebook.stacked([("a < b & c", plots.svg("one", line))], "").svg
    assert "a &lt; b &amp; c" in svg


def test_the_bar_is_as_full_as_the_run() -> None:
    widths = [int(width) for width in re.findall(r'<rect x="10" y="24" width="(\d+)"', progress_bar("x", 0.25, ""))]
    assert widths[1] == pytest.approx(widths[0] / 4, abs=1)


def test_the_memory_of_a_plan_is_all_there() -> None:
    plan = notebook.plan(QWEN3_4B, vram_gib=15.92, preset="rtx5080")
    text = notebook.memory_bar(plan).svg
    shown = [
        float(size) for size in re.findall(r"> *(?!may)[^<>]*? (\d+\.\d\d)</text>", text.replace("may be used", "may"))
    ]
    room = plan.available_bytes / 2**30
    parts = [size for size in shown if size != round(room, 2)]
    assert sum(parts) == pytest.approx(plan.high_bytes / 2**30, abs=0.05)
    assert plan.verdict in text


def test_a_table_is_text_not_markup() -> None:
    table = notebook.Table((("a", "b"), ("<b>x</b>", "two\nlines")))
    assert "&lt;b&gt;x&lt;/b&gt;" in table._repr_html_()
    assert "two<br/>lines" in table._repr_html_()
    assert repr(table).splitlines()[0] == "a  b"


def test_options_of_a_call_go_before_those_of_a_preset(facts_of_a_cpu) -> None:
    command = resolve.given({"preset": "rtx5080", "lora_rank": 8, "fresh": True}, facts_of_a_cpu)
    assert (command.run.lora_rank, command.run.lora_alpha, command.fresh) == (8, 32, True)
    assert command.origins["lora_rank"] == "call"
    assert command.origins["lora_alpha"].startswith("preset")


@pytest.mark.parametrize("options", [{"lora_rnak": 8}, {"lora_rank": -1}, {"preset": "rtx9999"}])
def test_a_wrong_option_is_a_finding_without_a_traceback(options: dict, facts_of_a_cpu) -> None:
    with pytest.raises(KitError) as error:
        resolve.given(options, facts_of_a_cpu)
    said = "\n".join(error.value._render_traceback_())
    assert "fix:" in said
    assert "Traceback" not in said


@pytest.fixture
def facts_of_a_cpu():
    from envcheck.facts import Facts

    return lambda: Facts(gpu=())


def test_rows_of_both_kinds_are_shown_with_what_is_trained(tmp_path) -> None:
    prepared = notebook.prepare(preset="cpu", data="examples/identity.jsonl", output=tmp_path / "run")
    first, chosen = notebook.rows(prepared), notebook.rows(prepared, 2)
    assert len(first.samples()) == 3
    assert chosen._repr_html_().count("<mark") == 1
    assert "identity.jsonl:3" in chosen._repr_html_()
    assert not (tmp_path / "run").exists()


def test_answers_stand_side_by_side() -> None:
    answers = [(Answer("q", text, 4, 10.0),) for text in ("old", "new")]
    result = Result(1, 4, 1.0, 4.0, 2.0, 1.0, 0, *answers)
    assert notebook.before_and_after(result).rows[1] == ("q", "old", "new", "10, 10")


def test_a_run_is_drawn_while_it_goes_on(monkeypatch, tmp_path) -> None:
    drawn = []
    monkeypatch.setattr(live, "display", lambda picture, display_id: drawn.append(picture))
    monkeypatch.setattr(live, "update_display", lambda picture, display_id: drawn.append(picture))
    monkeypatch.setattr(live, "REDRAW_S", 0)
    monkeypatch.setattr(live, "REPLOT_S", 0)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "tokens": 5, "elapsed_s": 1.0}\n')
    one = live.Live(tmp_path)
    one.show("training", 2, 8, "loss 1.5")
    assert "training 2/8   loss 1.5" in drawn[-1].text
    assert drawn[-1].svg.count("<svg") == 2
    one.end(Result(8, 80, 2.0, 40.0, None, None, 0, (), ()))
    assert "trained 8 steps" in drawn[-1].text


def test_every_option_of_a_run_can_be_given(facts_of_a_cpu) -> None:
    given = {name: value for name, value in Run().model_dump().items() if value is not None}
    assert resolve.given(given, facts_of_a_cpu).run == Run()
