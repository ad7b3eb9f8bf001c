"""Talking to a run: the answers of training, several adapters, the adapter without the kit, a server, wrong input."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file

from envcheck import probe
from kit import models
from kit.backend import CardFailed
from kit.chat import terminal
from kit.chat.__main__ import main
from kit.chat.asking import Reply
from kit.chat.options import read_command
from kit.chat.target import find, sampling_for
from kit.chat.terminal import TerminalChat
from kit.models import adapters
from kit.support.errors import KitError, problem
from tests.kit import exports
from tests.kit.exports import ANSWER_TOKENS, METHODS, QUESTIONS, made_by_peft
from tests.support.processes import run_kit

ROOT = Path(__file__).parents[2]
LONGEST_TOKENS = 24
FACTS = probe.collect()
SHORT_RUN = (
    "--config", "examples/identity.toml", "--backend", "hf", "--no-load-in-4bit", "--precision", "fp32",
    "--max-steps", "12", "--evaluations", "0", "--sample-tokens", LONGEST_TOKENS,
)  # fmt: skip
# transformers and PEFT as anyone would use them, from the adapter's folder alone.
WITHOUT_THE_KIT = """
import json, sys
sys.modules["kit"] = sys.modules["envcheck"] = None  # importing either is an error
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
folder, longest, questions = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
for question in questions:
    messages = [{"role": "user", "content": question}]
    asked = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, return_tensors="pt", return_dict=True)
    output = model.generate(**asked, max_new_tokens=longest, do_sample=False, eos_token_id=tokenizer.eos_token_id)
    new = output[0][asked["input_ids"].shape[1]:]
    print(json.dumps({"answer": tokenizer.decode(new, skip_special_tokens=True).strip(), "tokens": len(new)}))
"""


def kit_chat(*arguments: object, **options) -> subprocess.CompletedProcess:
    return run_kit("kit.chat", *arguments, libraries="hf", **options)


def records(done: subprocess.CompletedProcess) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def run_folder(kit_train, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "taught"
    done = kit_train(*SHORT_RUN, "--output", folder, libraries="hf")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def untaught(run_folder: Path) -> Path:
    """The run's adapter with noughts for updates: it answers as the untuned model."""
    folder = run_folder.parent / "untaught.v2"  # a dot in the name, as many model names have
    shutil.copytree(run_folder / "adapter", folder)
    tensors = load_file(folder / adapters.WEIGHTS)
    save_file({name: 0 * value if "lora_B" in name else value for name, value in tensors.items()},
              folder / adapters.WEIGHTS)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def answered(run_folder: Path, untaught: Path, tmp_path_factory) -> dict[str | None, list[dict]]:
    """By adapter, None for the untuned model: the answers of one script to the questions of the run."""
    questions = [answer["question"] for answer in json.loads((run_folder / "samples.json").read_text())["after"]]
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "?"}]}
            for text in questions]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = kit_chat(run_folder, "--add", f"nothing.new={untaught}", "--compare", "--json",
                    "--prompts", path, "--max-tokens", LONGEST_TOKENS)  # fmt: skip
    found = records(done)
    assert [record["prompt"] for record in found[::3]] == questions
    return {name: [one for one in found if one["adapter"] == name] for name in (None, "taught", "nothing.new")}


@pytest.mark.torch
def test_answers_are_those_of_the_run(answered, run_folder: Path) -> None:
    samples = json.loads((run_folder / "samples.json").read_text())

    for name, when in (("taught", "after"), (None, "before")):
        told = [(one["answer"], one["tokens"]) for one in answered[name]]
        assert told == [(one["text"], one["tokens"]) for one in samples[when]]


@pytest.mark.torch
def test_each_adapter_answers_for_itself(answered) -> None:
    texts = {name: [one["answer"] for one in found] for name, found in answered.items()}

    assert texts["nothing.new"] == texts[None]
    assert all(tuned != untuned for tuned, untuned in zip(texts["taught"], texts[None], strict=True))


@pytest.mark.torch
def test_the_end_of_an_answer_has_its_reason(answered) -> None:
    for one in (one for found in answered.values() for one in found):
        assert one["finish_reason"] == ("length" if one["tokens"] == LONGEST_TOKENS else "stop")


@pytest.mark.torch
def test_the_adapter_answers_alike_without_the_kit(answered, run_folder: Path, tmp_path: Path) -> None:
    questions = json.dumps([one["prompt"] for one in answered["taught"]])
    command = [sys.executable, "-I", "-c", WITHOUT_THE_KIT, run_folder / "adapter", str(LONGEST_TOKENS), questions]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    assert records(done) == [{"answer": one["answer"], "tokens": one["tokens"]} for one in answered["taught"]]


@pytest.mark.torch
def test_a_conversation_in_4_bit(run_folder: Path, untaught: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.jsonl"
    typed = ["Who are you?", "/base", "And who \\", "developed you?", f"/save {saved}", "/adapter nothing", "/bas",
             "/reset", "/adapter untaught.v2", "/system Be brief.", "Hello", f"/save {saved}"]  # fmt: skip
    command = (run_folder, untaught, "--load-in-4bit", "--max-tokens", 8)
    done = kit_chat(*command, input="\n".join(typed))

    assert done.returncode == 0, done.stderr
    for told in ("trained over a base in 16 bit, asked over one in 4 bit", "unknown-adapter", "Did you mean /base?"):
        assert told in done.stderr
    first, second = [json.loads(line)["messages"] for line in saved.read_text().splitlines()]
    assert [message["role"] for message in first] == ["user", "assistant"] * 2
    assert first[2]["content"] == "And who \ndeveloped you?"
    assert [message["content"] for message in second[:2]] == ["Be brief.", "Hello"]
    for message in (first[1], first[3], second[2]):
        assert message["content"] in done.stdout
    figures = [line.split(":")[0] for line in done.stderr.splitlines() if "tokens/s" in line]
    assert figures == ["taught", "base", "untaught.v2"]


@pytest.mark.torch
def test_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    command = [sys.executable, "-m", "kit.chat", "tiny", "--precision", "fp32", "--max-tokens", "300"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as chat:
        chat.stdin.write("Tell me a very long story.\n")
        chat.stdin.flush()
        assert chat.stdout.read(8)  # the answer has begun
        chat.send_signal(signal.SIGINT)
        told = chat.communicate("/reset\nHello\n/quit\n", timeout=200)[1]
        assert chat.returncode == 0

    figures = [line for line in told.splitlines() if "tokens/s" in line]
    assert figures[0].endswith("; stopped")
    assert len(figures) == 2
    assert not figures[1].endswith("; stopped")


@pytest.mark.torch
def test_a_real_client_hears_the_same_answers(answered, run_folder: Path) -> None:
    """The openai package, streaming and not; it and the server's packages are in requirements-dev.txt."""
    openai = pytest.importorskip("openai")
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    expected = answered["taught"][0]
    asked = {
        "model": "taught",
        "messages": [{"role": "user", "content": expected["prompt"]}],
        "temperature": 0,
        "max_tokens": LONGEST_TOKENS,
    }
    with serving(openai, run_folder) as (client, names):
        assert names == ["taught"]
        whole = client.chat.completions.create(**asked)
        pieces = [chunk.choices[0].delta.content or "" for chunk in
                  client.chat.completions.create(**asked, stream=True)]  # fmt: skip
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**asked | {"model": "another"})

    assert whole.choices[0].message.content.strip() == expected["answer"]
    assert whole.choices[0].finish_reason == expected["finish_reason"]
    assert whole.usage.completion_tokens == expected["tokens"]
    assert "".join(pieces).strip() == expected["answer"]
    assert len(pieces) > 3


@contextlib.contextmanager
def serving(openai, folder: Path, *options: str):
    """A client of a server of its own, and the names of the models there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kit.chat", str(folder), "--serve", "--port", str(port), *options]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
    with subprocess.Popen(command, cwd=ROOT) as served:
        try:
            yield client, wait_for_names(client, openai.APIConnectionError, served)
        finally:
            served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0


def wait_for_names(client, no_connection: type[Exception], served: subprocess.Popen) -> list[str]:
    """Of the models that the server has, once it answers."""
    while served.poll() is None:
        try:
            return [model.id for model in client.models.list()]
        except no_connection:
            time.sleep(0.2)
    raise AssertionError("the server has ended")


# every method


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> tuple[Path, dict]:
    return made_by_peft(tmp_path_factory)


@pytest.fixture(scope="module")
def heard(kinds) -> dict:
    return exports.child("chats", kinds[0])


@pytest.mark.torch
@pytest.mark.parametrize("method", [*METHODS[2:], "full"])
def test_each_method_answers_as_peft_does(method: str, kinds, heard) -> None:
    """Two adapters over one base, both beside the base itself; of `full`, two models."""
    told, answers = heard[method], kinds[1]["answers"]
    assert told["status"] == 0
    assert told["None"] == answers["base"]
    assert told[method] == answers[method] != answers["base"]
    if method != "full":
        assert told[f"{method}-2"] == answers[f"{method}-2"] not in (answers[method], answers["base"])


@pytest.mark.torch
def test_virtual_tokens_are_served(kinds) -> None:
    openai = pytest.importorskip("openai")
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    folder, measured = kinds
    asked = {"temperature": 0, "max_tokens": ANSWER_TOKENS}
    with serving(openai, folder / "prompt", "--precision", "fp32") as (client, names):
        assert names == ["prompt"]
        told = [client.chat.completions.create(model="prompt", messages=[{"role": "user", "content": text}], **asked)
                for text in QUESTIONS]  # fmt: skip
    assert [one.choices[0].message.content.strip() for one in told] == measured["answers"]["prompt"]


@pytest.mark.torch
def test_virtual_tokens_take_positions(kinds) -> None:
    """The longest prompt is that much shorter."""
    rooms = [find(read_command([str(kinds[0] / name)]), FACTS).context_tokens for name in ("prompt", "ia3")]
    assert rooms == [1024 - 5, 1024]


@pytest.mark.torch
def test_a_whole_model_alone_and_beside_the_one_it_was_trained_from(kinds, capsys) -> None:
    folder = kinds[0]
    alone, both = (find(read_command([str(folder / "full"), *more]), FACTS) for more in ((), ("--compare",)))
    assert (alone.names, alone.indices, alone.untuned) == (["full"], [0], None)
    assert (both.indices, both.untuned.name, both.model) == ([None, 0], "tiny", alone.model)
    assert alone.model.location == str(folder / "full" / "model")
    session = TerminalChat(SimpleNamespace(target=alone), read_command([str(folder / "full")]))
    for typed in ("/base", "/compare"):
        with pytest.raises(KitError, match="untuned-not-loaded"):
            session.obey(typed, "")
    assert (session.index, session.compare) == (0, False)
    for others in (["lora"], ["full"]):
        assert main([str(folder / "full"), *(str(folder / name) for name in others), "--prompt", "x"]) == 2
        assert "error: whole-model-stands-alone" in capsys.readouterr().err


@pytest.mark.torch
def test_unsloth_is_for_methods_that_it_knows(kinds) -> None:
    for method in ("dora", "ia3", "prompt", "full"):
        with pytest.raises(KitError, match="unsloth-without-method"):
            find(read_command([str(kinds[0] / method), "--backend", "unsloth"]), FACTS)
    assert find(read_command([str(kinds[0] / "rslora"), "--backend", "unsloth"]), FACTS).loading.backend == "unsloth"


@pytest.mark.parametrize(("kind", "heard"), [(KitError, 2), (CardFailed, 1)])
def test_a_card_that_failed_ends_the_conversation_and_another_finding_does_not(monkeypatch, kind, heard) -> None:
    asked: list[str] = []

    def ask(_, text: str) -> None:
        asked.append(text)
        raise kind(problem("any", "What is wrong.", "Why.", "the fix"))

    monkeypatch.setattr(terminal, "_lines", lambda: ["first", "second"])
    monkeypatch.setattr(TerminalChat, "ask", ask)
    chat = TerminalChat(
        SimpleNamespace(target=SimpleNamespace(names=["a"], indices=[0])),
        SimpleNamespace(thinking=False, compare=False, system=""),
    )
    with contextlib.nullcontext() if heard == 2 else pytest.raises(CardFailed):
        chat.run()
    assert len(asked) == heard


# before anything is loaded


@pytest.mark.parametrize(
    ("arguments", "finding", "status"),
    [
        ((), "nothing-to-talk-to", 2),
        (("tiny", "--promt", "x"), "unknown-option", 2),
        (("tiny", "--json"), "wrong-value", 2),
        (("tiny", "--temperature", "-1"), "wrong-value", 2),
        (("tiny", "--serve", "--prompt", "x"), "wrong-value", 2),
        (("tiny", "--add", "x"), "wrong-value", 2),
        (("no-such-model",), "model-not-found", 1),
        (("tiny", "--template", "nope"), "unknown-template", 1),
        (("tiny", "--add", "x=no/such/folder"), "no-adapter", 1),
        (("tests",), "no-adapter", 1),
        (("tiny", "--add", "x=kit/models/assets/tiny"), "not-an-adapter", 1),
        (("tiny", "--prompts", "no/such/file"), "prompts-unreadable", 1),
        (("tiny", "--prompt", "word " * 2000), "conversation-too-long", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_a_finding(arguments: tuple, finding: str, status: int, capsys) -> None:
    assert main(list(arguments)) == status

    assert f"error: {finding}\n" in capsys.readouterr().err


def test_bad_input_needs_no_heavy_library() -> None:
    done = run_kit("kit.chat", "tiny", "--prompt", "word " * 2000)

    assert done.returncode == 1
    assert "conversation-too-long" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "1",
        '{"messages": []}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "system", "content": "x"}]}',
    ],
)
def test_a_row_without_a_prompt_is_named(line: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Hello"}\n\n' + line + "\n")

    assert main(["tiny", "--prompts", str(path)]) == 1

    assert "Line 3 of" in capsys.readouterr().err


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path, capsys) -> None:
    (tmp_path / "run.toml").write_text('model = "tiny"\ndata = ["examples/identity.jsonl"]\n')

    assert main([str(tmp_path)]) == 1

    told = capsys.readouterr().err
    assert "run-without-adapter" in told
    assert f"python -m kit.train --config {tmp_path / 'run.toml'}" in told


def test_adapters_of_two_bases_are_refused(tmp_path: Path, capsys) -> None:
    for name, base in (("a", "Qwen/Qwen3-0.6B"), ("b", "Qwen/Qwen3-1.7B")):
        config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": base}
        (tmp_path / name).mkdir()
        (tmp_path / name / adapters.CONFIG).write_text(json.dumps(config))
        save_file({}, tmp_path / name / adapters.WEIGHTS)

    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1

    assert "adapters-of-two-bases" in capsys.readouterr().err


# parts


@pytest.mark.parametrize(
    ("text", "thoughts", "said"),
    [
        ("Four.", "", "Four."),
        ("<think>\n2+2\n</think>\n\nFour.", "2+2", "Four."),
        ("<think>\n\n</think>\n\nFour.", "", "Four."),
        ("<think>\n2+", "2+", ""),
        ("2+2\n</think>\n\nFour.", "2+2", "Four."),
    ],
)
def test_thoughts_stand_apart_from_the_answer(text: str, thoughts: str, said: str) -> None:
    answer = Reply(text, 1, 1.0, "stop")

    assert (answer.thoughts, answer.answer) == (thoughts, said)


def test_how_answers_are_drawn(tmp_path: Path) -> None:
    tiny = models.find("tiny")
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.95}')
    with_own = models.Model("own", "own", {}, {"generation_config.json": tmp_path / "generation_config.json"})

    def drawn(model: models.Model, *flags: str) -> tuple:
        found = sampling_for(read_command(["tiny", *flags]), model)
        return found.temperature, found.top_p, found.top_k, found.seed

    assert drawn(tiny) == (0, 1, 0, None)
    assert drawn(tiny, "--sample") == (0.7, 0.8, 20, None)
    assert drawn(with_own, "--sample", "--seed", "7") == (0.6, 0.95, 20, 7)
    assert drawn(with_own, "--top-k", "5") == (0.6, 0.95, 5, None)
    assert drawn(with_own, "--temperature", "0", "--top-k", "5") == (0, 1, 0, None)


def test_load_in_4bit_as_kit_train_takes_it() -> None:
    given = {"--load-in-4bit": "on", "--no-load-in-4bit": "off", "--load-in-4bit auto": "auto"}

    assert {flags: read_command(["tiny", *flags.split()]).load_in_4bit for flags in given} == given
    with pytest.raises(KitError, match="unknown-option"):
        read_command(["tiny", "--load-in-8bit"])
