"""What is trained is what is asked: text and ids against transformers and the real Qwen3 tokenizer."""

import pytest

from kit import models, prompt
from kit.errors import KitError
from kit.models import Model
from kit.prompt import IGNORED, ChatFormat, Sample

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "你好 1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "Yes, 2."},
]
THINKING = [*TURNS[:2], {"role": "assistant", "content": "2", "reasoning_content": "one and one"}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "二"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALLING = [
    TURNS[1],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
]
CONVERSATIONS = {"two turns": (TURNS, None), "thinking": (THINKING, None), "tools": (CALLING, TOOLS)}


@pytest.fixture(scope="module")
def transformers_tokenizer(qwen3_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(qwen3_folder)


def samples_of(chat: ChatFormat, messages: list, tools: list | None = None) -> list[Sample]:
    return chat.encode([(1, pieces) for pieces in chat.segments(messages, tools)])


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_text_and_ids_equal_those_of_transformers(qwen3_chat, transformers_tokenizer, name: str) -> None:
    messages, tools = CONVERSATIONS[name]
    ours = qwen3_chat.render(messages, tools)
    assert ours == transformers_tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    ids = qwen3_chat.tokenizer.encode(ours, add_special_tokens=False).ids
    assert ids == transformers_tokenizer(ours, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_each_answer_is_trained_behind_the_ids_it_is_asked_with(qwen3_chat, transformers_tokenizer, name: str) -> None:
    messages, tools = CONVERSATIONS[name]
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    samples = samples_of(qwen3_chat, messages, tools)
    assert len(samples) == len(answers), "Qwen3 renders earlier turns without their think block: one sample an answer"
    for index, sample in zip(answers, samples, strict=True):
        thinking = {} if messages[index].get("reasoning_content") else {"enable_thinking": False}
        asked = transformers_tokenizer.apply_chat_template(
            messages[:index], tools=tools, add_generation_prompt=True, return_dict=False, **thinking
        )
        assert sample.ids[: len(asked)] == asked
        assert sample.labels[: len(asked)] == [IGNORED] * len(asked), "neither the header nor an empty think block"
        assert sample.labels[len(asked) :] == sample.ids[len(asked) :]
        assert sample.ids[-1] == transformers_tokenizer.eos_token_id, "the end token is trained, nothing after it"


def test_a_template_without_surprises_keeps_the_conversation_whole(qwen3_folder) -> None:
    files = {path.name: path for path in qwen3_folder.iterdir()}
    chat = prompt.load(Model("m", "m", {}, files), "chatml")
    (sample,) = samples_of(chat, TURNS)
    trained = [token for token in sample.labels if token != IGNORED]
    assert chat.tokenizer.decode(trained, skip_special_tokens=False) == "2<|im_end|>Yes, 2.<|im_end|>"


def test_templates_folder_holds_qwen3s_own(qwen3_chat, qwen3_folder) -> None:
    files = {path.name: path for path in qwen3_folder.iterdir()}
    ours = prompt.load(Model("m", "m", {}, files), "qwen3")
    for messages, tools in CONVERSATIONS.values():
        assert ours.render(messages, tools) == qwen3_chat.render(messages, tools)


@pytest.mark.parametrize("path", sorted(prompt.TEMPLATES.glob("*.jinja")), ids=lambda path: path.stem)
def test_every_template_has_a_head(path) -> None:
    head = path.read_text(encoding="utf-8").split("-#}")[0]
    assert all(word in head for word in ("family:", "source:", "end token:"))


def test_a_template_that_refuses_says_why() -> None:
    chat = ChatFormat(models_tokenizer(), "{{ raise_exception('roles must alternate') }}", "test", {})
    with pytest.raises(prompt.TemplateError, match="roles must alternate"):
        list(chat.segments(TURNS))


def models_tokenizer():
    return prompt.load(models.find("tiny"), "auto").tokenizer


def test_unknown_template_is_a_finding() -> None:
    with pytest.raises(KitError) as error:
        prompt.load(models.find("tiny"), "quen3")
    assert "Did you mean qwen3?" in error.value.findings[0].what


def test_a_model_without_template_asks_for_one(tmp_path) -> None:
    tiny = models.find("tiny")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    bare = Model("bare", "bare", {}, {"tokenizer.json": tiny.files["tokenizer.json"]})
    with pytest.raises(KitError) as error:
        prompt.load(bare, "auto")
    assert error.value.findings[0].id == "model-has-no-chat-template"
    assert "--template chatml" in error.value.findings[0].fix
