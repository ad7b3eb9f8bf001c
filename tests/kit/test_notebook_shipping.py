"""What a notebook asks of trained models: answers by name, speeds, a merge with its proof, a server that ends."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kit.backend import serving as server
from kit.chat.asking import Reply
from kit.notebook import chatting
from kit.support.errors import KitError
from tests.support.processes import run_python
from tests.support.results import record_of

ROOT = Path(__file__).parents[2]
# In a process of its own: it imports torch.
MEASURED = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests/kit")
import exports
from kit.support.errors import KitError
from kit.notebook.chatting import Talk
from kit.notebook.merging import merge, sizes_and_agreement
folder = Path(sys.argv[1])
one = exports.write_adapter(folder / "one", seed=1)
two = exports.write_adapter(folder / "two", seed=2)
talk = Talk(add=(f"first={one}", f"second={two}"), max_tokens=8)
found = {"names": talk.names, "rounds": [], "shown": talk.compare(["Who are you?"]).rows}
for order in (talk.names, talk.names[::-1]):
    found["rounds"].append({name: talk.ask("Who are you?", name).text for name in order})
found["alone"] = {"base": Talk("tiny", max_tokens=8).ask("Who are you?").text,
                  "second": Talk(two, max_tokens=8).ask("Who are you?", "two").text}
try:
    talk.ask("Who are you?", "third")
except KitError as error:
    found["unknown"] = error.findings[0].id
merged = merge(one, folder / "merged", to=("hf", "gguf"), quant=("q8_0",))
found |= {"passed": merged.parity.passed, "sizes": merged.sizes_bytes, "html": merged._repr_html_(),
          "picture": sizes_and_agreement(merged).svg}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("shipping")
    return record_of(run_python("-c", MEASURED, folder, libraries="hf")) | {"folder": folder}


@pytest.mark.torch
def test_each_answers_by_its_name_in_any_order(measured) -> None:
    there, back = measured["rounds"]
    assert measured["names"] == ["base", "first", "second"]
    assert there == back
    assert len(set(there.values())) == 3


@pytest.mark.torch
def test_beside_others_an_adapter_answers_as_alone(measured) -> None:
    there, _ = measured["rounds"]
    assert {name: there[name] for name in measured["alone"]} == measured["alone"]


@pytest.mark.torch
def test_the_table_has_a_column_for_each(measured) -> None:
    heads, row = measured["shown"]
    assert heads == ["question", "base", "first", "second"]
    assert row[0] == "Who are you?"


@pytest.mark.torch
def test_an_unknown_name_is_a_finding(measured) -> None:
    assert measured["unknown"] == "unknown-adapter"


@pytest.mark.torch
def test_a_merge_shows_its_files_and_their_proof(measured) -> None:
    folder = measured["folder"] / "merged"
    assert measured["passed"]
    assert measured["sizes"] == {
        "merged model": (folder / "model.safetensors").stat().st_size,
        "merged-Q8_0.gguf": (folder / "merged-Q8_0.gguf").stat().st_size,
    }
    assert measured["html"].count("verified") == 3, "the file in llama.cpp, too"
    assert measured["picture"].count("merged-Q8_0.gguf") == 2


class Told:
    """Answers of the tokens and speeds given, in turn."""

    def __init__(self, *answers: tuple[int, float]):
        self.answers = list(answers)

    def ask(self, question: str, name: str) -> Reply:
        tokens, tokens_per_s = self.answers.pop(0)
        return Reply("", tokens, tokens_per_s, "stop")


def test_speed_is_all_tokens_over_all_seconds_without_the_first_round() -> None:
    slow = Told((10, 1.0), (10, 1.0), (10, 10.0), (30, 10.0), (10, 20.0), (10, 5.0))
    fast = Told(*[(10, 100.0)] * 6)

    found = chatting.speeds({"slow": (slow, "base"), "fast": (fast, "base")}, ("a", "b"), repeats=2)

    assert found == {"slow": [pytest.approx(10.0), pytest.approx(8.0)], "fast": [pytest.approx(100.0)] * 2}
    assert slow.answers == fast.answers == []


@pytest.mark.torch
def test_a_server_is_there_inside_and_gone_after() -> None:
    with chatting.serving("tiny", "--no-load-in-4bit") as address, urllib.request.urlopen(f"{address}/models") as reply:
        names = [model["id"] for model in json.load(reply)["data"]]

    assert names == ["tiny"]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/models", timeout=5)


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(KitError) as raised, chatting.serving("tinny"):
        pass

    (finding,) = raised.value.findings
    assert finding.id == "server-not-started"
    assert "tinny" in finding.why


def test_packages_are_asked_for_before_a_server_is_started(monkeypatch) -> None:
    monkeypatch.setattr(server, "NEEDED", ("fastapi_that_nobody_has",))
    with pytest.raises(KitError) as raised, chatting.serving("tiny"):
        pass

    assert raised.value.findings[0].id == "server-packages-missing"
