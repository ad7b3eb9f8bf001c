"""The page of a real run, of runs in every state, and of broken ones; its command."""

import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy
import pytest
from filelock import FileLock
from safetensors.numpy import save_file

from kit.export import parity
from kit.report import comparing, listing, page, plots
from kit.report.__main__ import main
from kit.run import layout
from kit.run.reading import read
from kit.support.redacting import without_folders
from tests.kit.exports import made_by_peft
from tests.support.processes import NO_TORCH, run_kit

MOST_BYTES = 1_500_000
SECTIONS = ["training", "samples", "learnt", "parity", "memory", "data", "events", "options", "machine"]
PLOTS = 11  # of a run with an adapter: 4 of the training, 4 of the adapter, 2 of the memory, lengths
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)> & $\\frac"
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page taken apart; every element that is opened must be closed in its turn."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: dict[str, str] = {}
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " * (tag in ("td", "th", "dd", "dt"))

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def trained(kit_train, tmp_path_factory) -> Path:
    """One real run. Tests change copies of it."""
    folder = tmp_path_factory.mktemp("runs") / "taught"
    done = kit_train("--config", "examples/identity.toml", "--max-steps", 8, "--evaluations", 1, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "runs" / "taught")


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.torch
def test_page_of_a_run_is_whole_small_and_alone(run: Path, tmp_path: Path) -> None:
    path = page.write(run)
    assert path == run / "report.html"
    assert path.stat().st_size < MOST_BYTES
    seen = Page(path)
    assert [attributes["id"] for attributes in seen.all("section")] == SECTIONS
    assert len(seen.all("svg")) == PLOTS
    assert all(attributes["aria-label"] for attributes in seen.all("svg"))
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [
        value for _, attributes in seen.tags for name, value in attributes.items() if name.endswith(("href", "src"))
    ]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert not re.search(r"url\((?!#)|@import|https?://", seen.source)
    assert not seen.all("script")
    assert "refresh" not in [attributes.get("http-equiv") for attributes in seen.all("meta")]
    assert str(tmp_path.parent) not in seen.source
    assert not list(run.glob(".*.part"))


@pytest.mark.torch
def test_page_says_what_the_files_say(run: Path) -> None:
    seen = Page(page.write(run))
    manifest = json.loads((run / "manifest.json").read_text())
    data = json.loads((run / "data.json").read_text())
    result = manifest["result"]
    assert f"Held-out loss {result['loss_before']:.3f} → {result['loss_after']:.3f}" in seen.text
    assert f"{result['peak_memory_bytes'] / (1 << 30):.2f}" in seen.text
    for answer in (*result["before"], *result["after"]):
        assert answer["question"] in seen.text
        assert answer["text"] in seen.text
    for name, option in manifest["options"].items():
        assert name in seen.text, name
        assert option["origin"] == "default" or name in manifest["chosen"] or option["origin"] in seen.text
    assert f"{data['rows_read']}= trained on{data['rows_trained']}" in re.sub(r"\s", "", seen.text).replace(
        "trainedon", " trained on"
    )
    assert sum(count for _, count in data["histogram"]) == data["rows_trained"] + data["rows_held_out"]
    assert "do not add up" not in seen.text
    assert manifest["versions"]["torch"] in seen.text
    plan = json.loads((run / "plan.json").read_text())
    assert all(part["name"] in seen.text for part in plan["parts"])


@pytest.mark.torch
def test_every_plot_has_what_was_measured(run: Path) -> None:
    found = read(run)
    assert [int(line["step"]) for line in found.steps] == list(range(1, 9))
    assert [step for step, _ in found.losses] == [0, 4, 8]
    assert found.losses[0][1] == json.loads((run / "begun.json").read_text())["loss"]
    assert list(plots.of_run(found)) == ["Loss, nats a token", "Learning rate", "Gradient norm before clipping",
                                         "Tokens per second"]  # fmt: skip
    assert "<svg" in plots.memory_over_time(found)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | {"memory_bytes": None}) + "\n" for line in lines))
    assert plots.memory_over_time(read(run)) == ""
    assert len(Page(page.write(run)).all("svg")) == PLOTS - 1


@pytest.mark.torch
def test_colours_are_the_page_s(run: Path) -> None:
    """A colour that is written into a plot would be unreadable in the other scheme."""
    source = page.write(run).read_text()
    inside = "".join(re.findall(r"<svg.*?</svg>", source, re.DOTALL))
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", inside)
    assert {int(number) for number in re.findall(r"var\(--c(\d)\)", inside)} == {1, 2}
    used = set(re.findall(r"var\((--\w+)\)", source))
    light, dark = re.findall(r":root \{(.*?)\}", source, re.DOTALL)
    assert used <= set(re.findall(r"(--\w+):", light)) == set(re.findall(r"(--\w+):", dark))


@pytest.mark.torch
def test_texts_of_others_stay_texts(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["result"]["after"][0]["text"] = manifest["result"]["after"][1]["question"] = ATTACK
    manifest["options"]["model"]["value"] = manifest["notes"] = [ATTACK]
    manifest["facts"]["os"] = manifest["versions"]["torch"] = ATTACK
    (run / "manifest.json").write_text(json.dumps(manifest))
    change(run / "data.json", files=[{"name": ATTACK, "format": ATTACK, "rows": 1}], rows_left_out={ATTACK: 1})
    change(run / "plan.json", parts=[{"name": ATTACK, "low_bytes": 1, "high_bytes": 9e9}], verdict=ATTACK)
    change(run / "begun.json", answers=[{"question": ATTACK, "text": ATTACK}])
    (run / "events.jsonl").write_text(json.dumps({"kind": ATTACK, "text": ATTACK}) + "\n")
    (run / "parity.json").write_text(json.dumps({"against": ATTACK, "rows": [{"name": ATTACK, "first_layer": ATTACK}]}))
    named = run.rename(run.with_name("_<b>&$x$ 你 " + 40 * "x"))
    seen = Page(page.write(named))
    assert not seen.all("script")
    assert not seen.all("img")
    assert seen.text.count("<script>alert(1)</script>") >= 12
    both = named.parent / "both.html"
    assert main([str(named), str(named), "-o", str(both)]) == 0
    assert not Page(both).all("script")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("cannot write /srv/data/joe/x.jsonl: full", "cannot write …/x.jsonl: full"),
        (r"C:\Users\Joe\runs\x is full", "…/x is full"),
        ("3,000 tokens/s and/or https://host/a/b", "3,000 tokens/s and/or https://host/a/b"),
        ("examples/identity.jsonl", "examples/identity.jsonl"),
    ],
)
def test_paths_of_the_user_stay_at_home(text: str, cleaned: str) -> None:
    if text.startswith("C:"):
        assert "Joe" not in without_folders(text)
    else:
        assert without_folders(text) == cleaned


BROKEN = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"\xff\xfe\x00",
    b"[" * 9999,
    b'{"status": 3, "result": [], "options": {"a": 1}, "notes": {}}',
    b'{"parts": [3, {"name": 1}], "files": 7, "histogram": [[1], 2, ["a", "b"], [0, 0]], "loss": 1e999}',
    b'{"result": {"loss_before": "x", "after": [1, {"text": null}]}, "chosen": [], "facts": {"gpu": {}}}',
)
UNREADABLE = {b"", b"{", b"\xff\xfe\x00", b"[" * 9999}


@pytest.mark.torch
@pytest.mark.parametrize("name", ["manifest.json", "data.json", "plan.json", "begun.json", "parity.json"])
def test_each_file_may_be_broken(run: Path, name: str, monkeypatch) -> None:
    if name not in ("data.json", "plan.json"):  # only these are drawn
        monkeypatch.setattr(plots, "svg", lambda *_: "")
    (run / "metrics.jsonl").unlink()
    for content in BROKEN:
        (run / name).write_bytes(content)
        source = page.of_run(page.AnalysedRun(read(run), None, ""))
        assert (f"{name} cannot be read" in source) == (content in UNREADABLE), content


@pytest.mark.torch
@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "samples.jsonl"])
def test_broken_lines_are_left_out_and_counted(run: Path, name: str) -> None:
    with (run / name).open("ab") as file:
        file.write(b'\n{"step": \n[3]\n\xff\n{"step": "x", "loss": []}\n{"step": 1e400}\n{"step": 9, "lo')
    found = read(run)
    assert found.unread == (f"{name}: 3 broken lines left out",)
    assert len(found.steps) == 8
    assert "3 broken lines" in page.of_run(page.AnalysedRun(found, None, ""))


def test_a_run_that_just_began_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("")
    seen = Page(page.write(tmp_path))
    assert [attributes["id"] for attributes in seen.all("section")] == SECTIONS
    assert "No step has been done yet." in seen.text
    assert "There is no adapter." in seen.text
    assert not seen.all("svg")


@pytest.mark.torch
def test_page_of_a_run_under_way_refreshes_and_waits_with_the_adapter(run: Path) -> None:
    change(run / "manifest.json", status="running", result=None)
    change(run / "plan.json", steps=16)
    with FileLock(run / ".lock"):
        seen = Page(page.write(run))
        assert "refresh" in [attributes.get("http-equiv") for attributes in seen.all("meta")]
        assert "Running. At step 8 of 16, about 0:0" in seen.text
        assert "when the run has ended" in seen.text
    seen = Page(page.write(run))  # nobody is in the folder any more
    assert "refresh" not in [attributes.get("http-equiv") for attributes in seen.all("meta")]
    assert "Stopped without a word." in seen.text


@pytest.mark.torch
def test_verdict_of_each_outcome(run: Path) -> None:
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "failed", "text": f"the disk of {run} is full"}) + "\n")
    change(run / "manifest.json", status="failed")
    assert page.verdict(read(run)) == "It ended after step 8 of 8: the disk of …/taught is full"
    (run / "events.jsonl").unlink()
    assert page.verdict(read(run)) == "It ended after step 8 of 8: the reason was told on the screen only."
    change(run / "manifest.json", status="interrupted")
    assert "same command goes on" in page.verdict(read(run))
    change(run / "manifest.json", status="finished", result={"steps": 8, "loss_before": 2.0, "loss_after": 2.5})
    assert "did not fall: 2.000 before, 2.500 after" in page.verdict(read(run))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 4, "held_out_loss": 1.0}) + "\n")
    change(run / "manifest.json", result={"steps": 8, "loss_before": 2.0, "loss_after": 1.5})
    assert "25 % lower. It was lower at step 4 (1.000)" in page.verdict(read(run))
    (run / "metrics.jsonl").unlink()
    (run / "begun.json").unlink()
    change(run / "manifest.json", result={"steps": 8})
    assert "No rows were held out" in page.verdict(read(run))


@pytest.mark.torch
def test_a_file_that_cannot_be_opened_is_named(run: Path) -> None:
    for name in ("metrics.jsonl", "plan.json", ".lock"):
        (run / name).unlink()
        (run / name).mkdir()
    change(run / "manifest.json", status="running")
    found = read(run)
    assert {text.split()[0] for text in found.unread} == {"metrics.jsonl", "plan.json"}
    assert found.status == "stopped"
    assert "plan.json cannot be read (Is a directory)" in page.of_run(page.analyse(run))


@pytest.mark.torch
def test_counts_that_do_not_add_up_are_said(run: Path) -> None:
    data = json.loads((run / "data.json").read_text())
    change(run / "data.json", rows_left_out={"data-too-long": 2}, rows_read=data["rows_read"] + 2)
    assert "do not add up" not in page.of_run(page.AnalysedRun(read(run), None, ""))
    change(run / "data.json", rows_read=data["rows_read"] + 3)
    assert "do not add up" in page.of_run(page.AnalysedRun(read(run), None, ""))


@pytest.mark.torch
def test_parity_table_is_shown(run: Path) -> None:
    bound = parity.Bound(97.0, 0.03)
    row = parity.Row(name="/home/joe/merged", precision="bf16", template=True, ids=True, end=True, positions=640,
                     top1_pct=99.5, largest_logit_difference=0.25, logit_share=0.0125, bound=bound)  # fmt: skip
    bad = replace(row, name="q8.gguf", reader="llama.cpp", ids=False, first_layer="model.layers.3")
    known = replace(row, name="as trained", template=None, bound=None)
    record = parity.Parity("base + adapter", "200 held-out rows", "fp32", (row, bad, known))
    (run / layout.PARITY).write_text(json.dumps(record.to_json()))
    assert read(run).verified is False
    text = " ".join(Page(page.write(run)).text.split())
    for said in ("…/merged transformers bf16 verified yes yes yes 640 99.5 97 0.013 0.03",
                 "q8.gguf llama.cpp bf16 differs from model.layers.3 yes no yes",
                 "as trained transformers bf16 to be known – yes yes 640 99.5 – 0.013 –",
                 "Compared with base + adapter: 200 held-out rows, computed in fp32."):  # fmt: skip
        assert said in text, said
    assert "joe" not in text
    (run / layout.PARITY).write_text(json.dumps(replace(record, rows=(row, known)).to_json()))
    assert read(run).verified is True


@pytest.mark.torch
def test_a_long_run_of_a_large_adapter_stays_small(run: Path) -> None:
    random = numpy.random.default_rng(3)
    factors = {}
    for layer in range(64):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
            key = f"base_model.model.model.layers.{layer}.mlp.{name}.lora_"
            factors |= {f"{key}A.weight": random.standard_normal((64, 64)).astype("float32"),
                        f"{key}B.weight": random.standard_normal((64, 64)).astype("float32")}  # fmt: skip
    save_file(factors, run / "adapter" / "adapter_model.safetensors")
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, 30_001):
            line = {"step": step, "loss": random.random(), "grad_norm": random.random(), "learning_rate": 1e-4,
                    "tokens": step, "elapsed_s": step, "memory_bytes": random.random() * 1e9}  # fmt: skip
            file.write(json.dumps(line) + "\n")
    path = page.write(run)
    assert len(Page(path).all("svg")) == PLOTS
    assert path.stat().st_size < MOST_BYTES


def test_thinned_lines_keep_mean_and_extremes() -> None:
    steps, values = numpy.arange(1.0, 1001), numpy.random.default_rng(4).standard_normal(1000)
    last, mean, low, high = plots.binned(steps, values, 7)
    assert len(last) == 7
    assert (low.min(), high.max()) == (values.min(), values.max())
    assert mean @ numpy.diff(last, prepend=0) == pytest.approx(values.sum())
    assert plots.binned(steps[:5], values[:5], 7)[1].tolist() == values[:5].tolist()


@pytest.mark.torch
def test_comparison_shows_what_differs(run: Path, capsys) -> None:
    other = shutil.copytree(run, run.parent / "other" / "taught")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["options"]["learning_rate"]["value"] = 0.25
    manifest["options"]["output"]["value"] = "elsewhere"
    manifest["chosen"]["attention"]["value"] = "sdpa"
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(run), str(other)]) == 0
    path = run.parent / "comparison.html"
    assert str(path) in capsys.readouterr().out.replace("\n", "")
    seen = Page(path)
    assert len(seen.all("svg")) == 1
    assert comparing.names([read(run), read(other)]) == ["runs/taught", "other/taught"]
    was = tomllib.loads((run / "run.toml").read_text())["learning_rate"]
    found = comparing.differences([read(run), read(other)])
    assert found == {"learning_rate": [str(was), "0.25"], "attention": [manifest_value(run, "attention"), "sdpa"]}
    assert "0.25" in seen.text


def manifest_value(run: Path, name: str) -> str:
    return json.loads((run / "manifest.json").read_text())["chosen"][name]["value"]


@pytest.mark.torch
@pytest.mark.parametrize("method", ["dora", "ia3", "prefix", "full"])
def test_each_method_has_its_page(run: Path, method: str, tmp_path_factory) -> None:
    folder = made_by_peft(tmp_path_factory)[0] / method
    made, other = ("model", folder / "model") if method == "full" else ("adapter", folder)
    shutil.rmtree(run / "adapter")
    shutil.copytree(other, run / made)
    options = json.loads((run / "manifest.json").read_text())["options"]
    change(run / "manifest.json", options=options | {"method": {"value": method, "origin": "command line"}})
    text = Page(page.write(run)).text
    assert f"Trained with --method {method}: " in text
    assert ("cannot be merged" in text) == (method == "prefix")
    assert ("--to gguf does, and compares" in text) == (method == "full")
    (run / made).rename(run / "gone")
    assert f"There is no {made}." in Page(page.write(run)).text


@pytest.mark.torch
def test_the_method_of_a_run_without_a_word_of_it(run: Path) -> None:
    (run / "manifest.json").write_text("{}")
    text = (run / "run.toml").read_text()
    for told, method in (("", "lora"), ('method = "ia3"\n', "ia3"), ("{", "lora")):
        (run / "run.toml").write_text(told + re.sub(r"(?m)^method.*\n", "", text))
        assert read(run).method == method


@pytest.mark.torch
def test_runs_are_compared_by_method_and_trained_weights(run: Path) -> None:
    other = shutil.copytree(run, run.parent / "prompted")
    options = json.loads((run / "manifest.json").read_text())["options"]
    change(other / "manifest.json", options=options | {"method": {"value": "prompt", "origin": "command line"}})
    change(other / "plan.json", trained_params=5120, params=2_048_000)
    source = comparing.page([page.analyse(run), page.analyse(other)])
    rows = {name: re.findall(r'<td class="n">(.*?)</td>', rest) for name, rest in
            re.findall(r'<td class="word">(method|trained weights)</td>(.*?)</tr>', source)}  # fmt: skip
    plan = json.loads((run / "plan.json").read_text())
    own = f"{plan['trained_params']:,} ({100 * plan['trained_params'] / plan['params']:.2f} %)"
    assert rows == {"method": ["lora", "prompt"], "trained weights": [own, "5,120 (0.25 %)"]}


@pytest.mark.torch
def test_command_writes_the_page_without_torch(run: Path) -> None:
    done = run_kit("kit.report", run, "--json", env=NO_TORCH)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["report"] == str(run / "report.html")
    assert said["runs"][0]["status"] == "finished"
    assert said["runs"][0]["adapter"]["rank"] == 16
    assert (run / "report.html").exists()


@pytest.mark.torch
def test_list_tells_runs_and_adapters(run: Path, capsys) -> None:
    shutil.copytree(run / "adapter", run.parent / "shipped")
    half = run.parent / "deep" / "half"
    half.mkdir(parents=True)
    (half / "run.toml").write_text("")
    (run / "parity.json").write_text('{"passed": true}')
    made = shutil.copytree(run, run.parent / "made", ignore=lambda *_: ["run.toml", "manifest.json", "adapter"])
    (made / "m.gguf").write_bytes(bytes(1000))
    assert main(["--list", str(run.parent), "--json"]) == 0
    found = {item["path"]: item for item in json.loads(capsys.readouterr().out)}
    assert found.keys() == {"taught", "shipped", "deep/half", "made"}
    result = json.loads((run / "manifest.json").read_text())["result"]
    weights = (run / "adapter" / "adapter_model.safetensors").stat().st_size
    assert found["taught"] == {
        "path": "taught", "kind": "run", "status": "finished", "base": "tiny", "method": "lora", "rank": 16,
        "data": "examples/identity.jsonl", "loss_before": result["loss_before"], "loss": result["loss_after"],
        "size_bytes": weights, "verified": True,
    }  # fmt: skip
    assert (found["shipped"]["kind"], found["shipped"]["method"], found["shipped"]["rank"]) == ("adapter", "lora", 16)
    assert (found["made"]["kind"], found["made"]["size_bytes"], found["made"]["verified"]) == ("model", 1000, True)
    (made / layout.NOT_VERIFIED).write_text("not yet")
    assert [item.verified for item in listing.items(run.parent)[0] if item.kind == "model"] == [False]
    assert found["shipped"]["base"] == "…/tiny"
    assert found["deep/half"]["status"] == "unknown"
    assert main(["--list", str(run.parent)]) == 0
    assert f"{result['loss_after']:.3f}" in capsys.readouterr().out


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "status", "finding"),
    [
        ([], 2, "report-of-what"),
        (["RUN", "--list", "RUN"], 2, "report-of-what"),
        (["EMPTY"], 1, "report-no-run"),
        (["GONE"], 1, "report-no-run"),
        (["FILE"], 1, "report-no-run"),
        (["RUN", "GONE"], 1, "report-no-run"),
        (["RUN/adapter"], 1, "report-of-an-adapter"),
        (["RUN", "-o", "GONE/x.html"], 1, "report-not-written"),
        (["RUN", "-o", "EMPTY"], 1, "report-not-written"),
        (["--list", "EMPTY"], 1, "list-empty"),
        (["--list", "GONE"], 1, "list-no-folder"),
        (["--list", "FILE"], 1, "list-no-folder"),
    ],
)
def test_bad_input_is_a_finding(run: Path, capsys, arguments: list[str], status: int, finding: str) -> None:
    (run.parent / "EMPTY").mkdir()
    (run.parent / "FILE").write_text("x")
    places = [word if word.startswith("-") else str(run.parent / word.replace("RUN", run.name)) for word in arguments]
    assert main(places) == status
    assert f"error: {finding}" in capsys.readouterr().err
    assert not list(run.parent.rglob(".*.part"))


# The page in an iframe as wide as a phone or a window; what a reader of it would see becomes text of the page around.
LOOK = """<!doctype html><iframe src="report.html" style="width:{width}px;height:9000px;border:0"></iframe><pre></pre>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, wide = page.documentElement.scrollWidth;
  const plots = [...page.querySelectorAll("svg")].map(plot => {{
    const box = plot.getBoundingClientRect(), heights = [...plot.querySelectorAll("text")].map(
      text => parseFloat(getComputedStyle(text).fontSize) * box.width / plot.viewBox.baseVal.width);
    return {{left: box.left, right: box.right, height: box.height, text: Math.min(...heights), texts: heights.length}};
  }});
  document.querySelector("pre").textContent = JSON.stringify({{wide, plots}});
  console.log("looked");
}};
</script>"""


@pytest.mark.torch
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; the pages are parsed by the other tests")
@pytest.mark.parametrize("width", [400, 1400])
def test_page_in_a_real_browser(run: Path, width: int) -> None:
    """No message on the console; every plot drawn, inside the page and with readable text. Keeps a screenshot."""
    page.write(run)
    (run / "look.html").write_text(LOOK.format(width=width))
    flags = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             f"--window-size={width},5000", f"--user-data-dir={run / 'profile'}"]  # fmt: skip
    command = [*flags, "--allow-file-access-from-files", "--dump-dom", (run / "look.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(told) == 1, told
    assert "looked" in told[0]  # so the console is heard
    seen = json.loads(re.search(r"<pre>(.*)</pre>", done.stdout)[1])
    assert seen["wide"] <= width
    assert len(seen["plots"]) == PLOTS
    for plot in seen["plots"]:
        assert plot["left"] >= 0
        assert plot["right"] <= width
        assert plot["height"] > 100
        assert plot["texts"] > 4
        assert plot["text"] >= 9.5  # pixels
    shot = run / f"report-{width}.png"
    subprocess.run([*flags, f"--screenshot={shot}", (run / "report.html").as_uri()], capture_output=True, timeout=120)
    assert shot.stat().st_size > 50_000
