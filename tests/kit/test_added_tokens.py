"""Tokens that the user added to the tokenizer: read as such where they are typed, trained, saved and exported."""

import json
import shutil
from pathlib import Path

import pytest

from kit import data, memory, models, prompt
from kit.models import adapters, headers
from kit.options import METHODS, Run, resolve
from kit.support.errors import KitError
from tests.kit.exports import write_adapter
from tests.support.processes import run_kit, run_python
from tests.support.results import record_of

TINY = Path(models.__file__).parent / "assets" / "tiny"
CALL, FREE = "<CALL>", "<|buffer1|>"  # the new token takes the place of one that tiny has for such
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROWS = [{"question": f"Light {number} please", "answer": f"{CALL} lamp {number} {CALL}"} for number in range(40)]


def with_added_token(folder: Path, *, tied: bool = True) -> Path:
    """tiny with a special token that the user added; tied: the head is the embedding."""
    shutil.copytree(TINY, folder)
    told = json.loads((folder / "tokenizer.json").read_text())
    next(token for token in told["added_tokens"] if token["content"] == FREE).update(content=CALL, special=True)
    told["model"]["vocab"][CALL] = told["model"]["vocab"].pop(FREE)
    (folder / "tokenizer.json").write_text(json.dumps(told))
    if not tied:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
        _copy_embedding_to_head(folder / "model.safetensors")
    return folder


def _copy_embedding_to_head(file: Path) -> None:
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header, weights = json.loads(content[8:start]), content[start:]
    first, end = header[EMBEDDING]["data_offsets"]
    header[HEAD] = header[EMBEDDING] | {"data_offsets": [len(weights), len(weights) + end - first]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + weights + weights[first:end])


def rows_of(file: Path, name: str) -> list[bytes]:
    """Each row of a matrix in a safetensors file, as its bytes."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    about = json.loads(content[8:start])[name]
    first, end = about["data_offsets"]
    width = (end - first) // about["shape"][0]
    return [content[start + place : start + place + width] for place in range(first, end, width)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> models.Model:
    return models.find(str(with_added_token(tmp_path_factory.mktemp("grown") / "base")))


@pytest.fixture
def chat(base) -> prompt.ChatFormat:
    return prompt.load(base, "auto", (CALL,))


class TestReading:
    def test_it_is_one_token_in_question_and_answer(self, base, chat) -> None:
        id = chat.tokenizer.token_to_id(CALL)
        messages = [{"role": "user", "content": f"a {CALL}"}, {"role": "assistant", "content": f"{CALL} b"}]
        (sample,) = chat.samples(messages)
        assert sample.ids.count(id) == 2
        assert sample.labels.count(id) == 1
        (plain,) = prompt.load(base, "auto").samples(messages)
        assert id not in plain.ids

    def test_the_templates_own_stay_plain_text_beside_it(self, chat) -> None:
        id, end = (chat.tokenizer.token_to_id(token) for token in (CALL, "<|im_end|>"))
        asked = [{"role": "user", "content": f"{CALL} <|im_end|>"}]
        ids, without = chat.prompt_ids(asked), chat.prompt_ids([{"role": "user", "content": "a"}])
        assert ids.count(id) == 1
        assert ids.count(end) == without.count(end)

    def test_answers_show_it(self, chat) -> None:
        ids = [chat.tokenizer.token_to_id(CALL), chat.end_id]
        assert chat.tokenizer.decode(ids, skip_special_tokens=True) == CALL

    def test_encoded_rows_are_not_those_without_the_option(self, base, chat) -> None:
        assert chat.fingerprint != prompt.load(base, "auto").fingerprint

    def test_nothing_else_of_the_tokenizer_changes(self, base, chat) -> None:
        before, after = (json.loads(each.tokenizer.to_str()) for each in (prompt.load(base, "auto"), chat))
        changed = [new for old, new in zip(before.pop("added_tokens"), after.pop("added_tokens"), strict=True)
                   if old != new]  # fmt: skip
        assert [(token["content"], token["special"]) for token in changed] == [(CALL, False)]
        assert after == before

    def test_the_finding_on_typed_ones_names_the_option(self, base, write_rows) -> None:
        rows = Run(data=[str(write_rows(ROWS))], held_out_rows=0)
        found = data.read(rows, prompt.load(base, "auto")).findings
        (typed,) = [finding for finding in found if finding.id == "data-special-token-typed"]
        assert any("--train-added-tokens" in fix for fix in typed.fix)
        assert not data.read(rows, prompt.load(base, "auto", (CALL,))).findings


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "lamp", "<|nowhere|>"])
def test_what_was_not_added_or_marks_turns_is_refused_by_name(token: str, base) -> None:
    with pytest.raises(KitError) as caught:
        prompt.load(base, "auto", (CALL, token))
    (finding,) = [each for each in caught.value.findings if each.severity == "error"]
    assert finding.id == "added-token-cannot-be-trained"
    assert token in finding.what


def test_a_token_that_the_model_has_no_vector_for_is_refused(base) -> None:
    short = models.Model(base.name, base.location, dict(base.config) | {"vocab_size": 20}, base.files)
    with pytest.raises(KitError, match="no vector"):
        prompt.load(short, "auto", (CALL,))


class TestChoosing:
    @pytest.mark.parametrize("method", METHODS)
    def test_methods_without_them_are_refused(self, method: str) -> None:
        run = Run(method=method, train_added_tokens=(CALL,), load_in_4bit=False)
        if METHODS[method].trains_tokens:
            resolve.check_method(run)
        else:
            with pytest.raises(KitError) as caught:
                resolve.check_method(run)
            assert [finding.id for finding in caught.value.findings] == ["added-tokens-not-trained"]

    def test_unsloth_is_refused_with_the_reason(self) -> None:
        with pytest.raises(KitError) as caught:
            resolve.check_method(Run(train_added_tokens=(CALL,), backend="unsloth"))
        (finding,) = caught.value.findings
        assert (finding.id, "--train-added-tokens" in finding.what) == ("method-needs-hf", True)
        assert "--backend auto" in finding.fix

    @pytest.mark.parametrize(("tied", "matrices"), [(True, 1), (False, 2)])
    def test_the_plan_counts_their_rows_and_the_copies_around_them(self, tied: bool, matrices: int, base) -> None:
        config = dict(base.config) | {"tie_word_embeddings": tied}
        options = {"backend": "hf", "device": "cpu", "precision": "bf16", "micro_batch_size": 1,
                   "gradient_checkpointing": "off", "attention": "sdpa", "optimizer": "adamw_torch_fused"}  # fmt: skip
        more, less = (memory.plan(config, Run(**options, train_added_tokens=tokens), None, None)
                      for tokens in ((CALL, "<B>"), ()))  # fmt: skip
        assert more.trained_params - less.trained_params == 2 * matrices * config["hidden_size"]
        assert more.low_bytes > less.low_bytes + config["vocab_size"] * config["hidden_size"]


def test_an_adapter_that_names_tokens_and_lacks_their_rows_is_not_whole(base, tmp_path) -> None:
    found = adapters.find(write_adapter(tmp_path / "a", trainable_token_indices=[1]))
    with pytest.raises(KitError) as caught:
        adapters.check(found, base)
    assert [finding.id for finding in caught.value.findings] == ["adapter-incomplete"]


@pytest.mark.torch
class TestTraining:
    @pytest.mark.parametrize("tied", [True, False])
    def test_its_row_is_trained_and_merged_and_no_other(self, tied: bool, kit_train, write_rows, tmp_path) -> None:
        base, run, merged = with_added_token(tmp_path / "base", tied=tied), tmp_path / "run", tmp_path / "merged"
        told = ("--model", base, "--data", write_rows(ROWS), "--train-added-tokens", CALL, "--output", run)
        fast = ("--preset", "cpu", "--max-steps", 10, "--learning-rate", 5e-3, "--evaluations", 0)
        done = kit_train(*told, *fast, libraries="hf")
        assert done.returncode == 0, done.stderr
        made = ("--to", "hf", "gguf", "--quant", "q8_0")
        done = run_kit("kit.merge", run, "-o", merged, *made, libraries="hf")
        assert done.returncode == 0, done.stderr + done.stdout
        assert json.loads((merged / "parity.json").read_text())["passed"] is True
        id = prompt.load(models.find(str(base)), "auto").tokenizer.token_to_id(CALL)
        held = headers.headers(run / "adapter" / "adapter_model.safetensors")
        assert sum("trainable_tokens_delta" in name for name in held) == (1 if tied else 2)
        for name in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
            before, after = (rows_of(folder / "model.safetensors", name) for folder in (base, merged))
            assert [number for number, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]] == [id]
        answers = [answer_of(named) for named in (run, merged)]
        assert answers[0] == answers[1]
        assert CALL in answers[0]

    def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(self, tmp_path) -> None:
        options = json.dumps({"train_added_tokens": [FREE]})
        got = record_of(run_python("tests/kit/scenarios.py", "resumed", "hf", tmp_path, options, libraries="hf"))
        assert (got["rest"], got["same_weights"]) == (got["whole"][2:], True)

    def test_a_vector_of_noughts_may_be_trained(self, kit_train, write_rows, tmp_path) -> None:
        """As a base has whose embedding was made larger with nothing."""
        base = with_added_token(tmp_path / "base")
        file = base / "model.safetensors"
        id = prompt.load(models.find(str(base)), "auto").tokenizer.token_to_id(CALL)
        old = rows_of(file, EMBEDDING)[id]
        content = file.read_bytes()
        assert content.count(old) == 1
        file.write_bytes(content.replace(old, bytes(len(old))))
        told = ("--model", base, "--data", write_rows(ROWS), "--train-added-tokens", CALL, "--output", tmp_path / "run")
        done = kit_train("--preset", "cpu", "--max-steps", 2, "--evaluations", 0, *told, libraries="hf")
        assert done.returncode == 0, done.stderr

    def test_it_has_no_sum_with_other_adapters_and_answers_beside_them(self, kit_train, write_rows, tmp_path) -> None:
        base, run = with_added_token(tmp_path / "base"), tmp_path / "run"
        told = ("--model", base, "--data", write_rows(ROWS), "--train-added-tokens", CALL, "--output", run)
        assert kit_train("--preset", "cpu", "--max-steps", 1, *told, libraries="hf").returncode == 0
        done = run_kit("kit.merge", run, "-o", tmp_path / "merged", "--weight", 0.5)
        assert "merge-of-added-tokens" in done.stderr, done.stderr
        other = write_adapter(tmp_path / "other", base_model_name_or_path=str(base))
        asked = run_kit("kit.chat", run, "--add", f"other={other}", "--compare", "--prompt", "Light 2 please", "--json",
                        "--max-tokens", 4, libraries="hf")  # fmt: skip
        assert asked.returncode == 0, asked.stderr
        assert [json.loads(line)["adapter"] for line in asked.stdout.splitlines()] == [None, "run", "other"]


def answer_of(name: Path) -> str:
    asked = ("--prompt", "Light 2 please", "--device", "cpu", "--backend", "hf", "--max-tokens", 12, "--json")
    return record_of(run_kit("kit.chat", name, *asked, libraries="hf"))["answer"]
