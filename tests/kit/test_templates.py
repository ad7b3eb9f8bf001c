"""Every template with the real Qwen3 tokenizer: text and ids against transformers, masks against TRL's templates."""

import json
import random
import unicodedata
from pathlib import Path

import pytest

from benchmarks import trl_masks
from benchmarks.trl_masks import runs
from kit import prompt
from kit.data.rows.formats import Conversation
from kit.models import Model
from kit.prompt import IGNORED, ChatFormat, Sample, TemplateError

LLAMA_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TAKE_TOOLS = ("qwen3", "qwen3-thinking", "qwen3-no-thinking", "qwen3-instruct-2507")
ONE_SAMPLE = ("alpaca", "chatml", "llama-3", "plain", "qwen3-instruct-2507", "qwen3-thinking")
NO_THINKING = "<think>\n\n</think>\n\n"


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answer(text: str, **more: object) -> dict:
    return {"role": "assistant", "content": text, **more}


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "二"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
PLAIN_CONVERSATIONS = {
    "one turn": [user("1+1?"), answer("2")],
    "two turns": [user("1+1?"), answer("2"), user("sure?"), answer("Yes, 2.")],
    "system": [{"role": "system", "content": "Be brief."}, user("1+1?"), answer("2"), user("And?"), answer("No.")],
    "empty system": [{"role": "system", "content": ""}, user("1+1?"), answer("2")],
    "unicode": [user("你好 1+1? 🧮"), answer("二 — e\u0301té 👩‍👩‍👧"), user("مرحبا"), answer("ありがとう")],
    "newline-led": [user("\nlist"), answer("\n\n- a\n- b"), user("\n\nmore"), answer("\n- c")],
    "trailing spaces": [user("list  "), answer("a  \n"), user("more \n"), answer(" b ")],
}
THINKING = {
    "reasoning": [user("1+1?"), answer("2", reasoning_content="one and one")],
    "reasoning in the text": [user("1+1?"), answer("<think>\none and one\n</think>\n\n2"), user("so?"), answer("2!")],
    "empty think block": [user("1+1?"), answer(NO_THINKING + "2"), user("so?"), answer("2!", reasoning_content="\n")],
}
CALLING = {
    "tools": [user("1+1?"), answer("", tool_calls=[CALL]), {"role": "tool", "content": "2"}, answer("It is 2.")],
    "two calls": [
        user("1+1?"),
        answer("Let me see.", reasoning_content="twice", tool_calls=[CALL, CALL]),
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "2"},
        answer("2", reasoning_content="both say so"),
        user("thanks"),
        answer("\nBye."),
    ],
}
CASES = [
    *((template, name) for template in prompt.template_names() for name in PLAIN_CONVERSATIONS),
    *((template, name) for template in TAKE_TOOLS for name in (*THINKING, *CALLING)),
]
CONVERSATIONS = PLAIN_CONVERSATIONS | THINKING | CALLING


def tools_for(name: str) -> list | None:
    return TOOLS if name in CALLING else None


@pytest.fixture(scope="module")
def llama_folder(qwen3_folder: Path, tmp_path_factory) -> Path:
    """Qwen3's tokenizer with the special tokens of Llama 3."""
    from tokenizers import AddedToken, Tokenizer

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = Tokenizer.from_file(str(qwen3_folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LLAMA_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|endoftext|>"}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def load_chat(qwen3_folder, llama_folder):
    def load(template: str) -> ChatFormat:
        folder = llama_folder if template == "llama-3" else qwen3_folder
        files = {path.name: path for path in folder.iterdir()}
        return prompt.load(Model(folder.name, str(folder), {}, files), template)

    chats = {name: load(name) for name in prompt.template_names()}
    return chats.__getitem__


@pytest.fixture(scope="module")
def load_transformers(qwen3_folder, llama_folder):
    """transformers' tokenizer with one of our templates in place of its own."""
    from transformers import AutoTokenizer

    tokenizers = {
        "llama-3": AutoTokenizer.from_pretrained(llama_folder),
        "": AutoTokenizer.from_pretrained(qwen3_folder),
    }

    def load(template: str):
        tokenizer = tokenizers.get(template, tokenizers[""])
        tokenizer.chat_template = (prompt.templates_folder() / f"{template}.jinja").read_text(encoding="utf-8")
        return tokenizer

    return load


def answers_of(messages: list) -> list[int]:
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]


def expected_answer(template: str, message: dict, is_thinking_kept: bool) -> str:
    """What is trained for a message, written down without the template: reasoning, content, calls, end token."""
    content, reasoning = message["content"], (message.get("reasoning_content") or "").strip("\n")
    if template in TAKE_TOOLS and template != "qwen3-instruct-2507":
        if "</think>" in content:
            block, content = content.split("</think>")
            reasoning = block.removeprefix("<think>").strip("\n")
        content = content.lstrip("\n")
        if reasoning and is_thinking_kept:
            content = f"<think>\n{reasoning}\n</think>\n\n{content}"
    if template == "llama-3":
        content = content.strip()
    calls = [
        f'<tool_call>\n{{"name": "add", "arguments": {json.dumps(call["function"]["arguments"], ensure_ascii=False)}}}'
        "\n</tool_call>"
        for call in message.get("tool_calls", [])
    ]
    end = "<|eot_id|>" if template == "llama-3" else "<|im_end|>"
    text = "\n".join(filter(None, [content, *calls])) + end
    return unicodedata.normalize("NFC", text)  # Qwen's tokenizer makes one character of a letter and its accent


@pytest.mark.torch
@pytest.mark.parametrize(("template", "name"), CASES)
def test_text_equals_that_of_transformers(load_chat, load_transformers, template: str, name: str) -> None:
    chat, tokenizer = load_chat(template), load_transformers(template)
    messages, tools = CONVERSATIONS[name], tools_for(name)
    assert chat.render(messages, tools) == tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)


@pytest.mark.torch
@pytest.mark.parametrize(("template", "name"), CASES)
def test_answers_are_trained_behind_the_ids_they_are_asked_with(
    load_chat, load_transformers, template: str, name: str
) -> None:
    chat, tokenizer = load_chat(template), load_transformers(template)
    messages, tools = CONVERSATIONS[name], tools_for(name)
    spans = [(sample, *run) for sample in chat.samples(messages, tools) for run in runs(sample)]
    assert len(spans) == len(answers_of(messages))
    for index, (sample, start, end) in zip(answers_of(messages), spans, strict=True):
        message = messages[index]
        trained = tokenizer.decode(sample.ids[start:end], clean_up_tokenization_spaces=False)
        assert trained == expected_answer(template, message, template != "qwen3-no-thinking")
        thinks = trained.startswith("<think>")
        asked = tokenizer.apply_chat_template(
            messages[:index],
            tools=tools,
            add_generation_prompt=True,
            return_dict=False,
            **({} if thinks else {"enable_thinking": False}),
        )
        assert sample.ids[:start] == asked == chat.prompt_ids(messages[:index], tools, thinking=thinks)


@pytest.mark.parametrize("template", ONE_SAMPLE)
def test_a_conversation_is_one_sample_where_the_template_never_looks_back(load_chat, template: str) -> None:
    (sample,) = load_chat(template).samples(CONVERSATIONS["system"])
    assert len(runs(sample)) == 2


@pytest.mark.parametrize("template", ["qwen3", "qwen3-no-thinking"])
def test_each_answer_is_a_sample_where_the_template_changes_earlier_ones(load_chat, template: str) -> None:
    assert [len(runs(sample)) for sample in load_chat(template).samples(CONVERSATIONS["system"])] == [1, 1]


def test_an_answer_that_melts_into_the_header_ends_the_sample(load_chat) -> None:
    # Asked about the second turn, the model sees header and first answer in one piece: "\n" and "\n\n-" melt together.
    assert len(load_chat("chatml").samples(CONVERSATIONS["newline-led"])) == 2
    assert len(load_chat("llama-3").samples(CONVERSATIONS["newline-led"])) == 1, "its template strips the answer"


@pytest.mark.parametrize("template", sorted(set(prompt.template_names()) - set(TAKE_TOOLS)))
def test_templates_without_tools_refuse_them(load_chat, template: str) -> None:
    chat = load_chat(template)
    with pytest.raises(TemplateError, match="no place for tools"):
        chat.samples(CONVERSATIONS["one turn"], TOOLS)
    for messages in CALLING.values():
        with pytest.raises(TemplateError, match="no place for tool calls"):
            chat.samples(messages)


def test_qwen3_without_thinking_is_asked_as_qwen3_with_thinking_off(load_chat) -> None:
    ours, own = load_chat("qwen3-no-thinking"), load_chat("qwen3")
    for name, messages in CONVERSATIONS.items():
        for end in answers_of(messages):
            past = [
                {**message, "content": message["content"].split("</think>\n\n")[-1], "reasoning_content": ""}
                for message in messages[:end]
            ]
            assert ours.question(messages[:end], tools_for(name), thinking=True) == own.question(past, tools_for(name))


@pytest.mark.parametrize("path", sorted(prompt.templates_folder().glob("*.jinja")), ids=lambda path: path.stem)
def test_every_template_has_a_head(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("-#}")[0]
    assert all(word in head for word in ("family:", "source:", "end token:"))


def test_the_head_names_the_end_token(load_chat) -> None:
    assert load_chat("llama-3").end_token == "<|eot_id|>"
    assert load_chat("chatml").end_token == "<|im_end|>"
    assert load_chat("plain").end_token == "<|im_end|>", "the model's own"


# TRL's way: one template with {% generation %} marks, the whole conversation rendered once, its characters mapped back


def trl_sample(tokenizer, training_template: str, messages: list, tools: list | None = None) -> Sample:
    return trl_masks.trl_chat(tokenizer, trl_masks.trl_template(training_template), Conversation(messages, tools))


def texts(tokenizer, sample: Sample) -> list[str]:
    return [tokenizer.decode(sample.ids[start:end]) for start, end in runs(sample)]


@pytest.mark.torch
def test_qwen3_instruct_differs_from_trl_in_the_newline_after_the_end_token(load_chat, load_transformers) -> None:
    tokenizer = load_transformers("qwen3-instruct-2507")
    for name in ("one turn", "two turns", "system", "empty system", "unicode", "tools"):
        messages, tools = CONVERSATIONS[name], tools_for(name)
        (ours,) = load_chat("qwen3-instruct-2507").samples(messages, tools)
        theirs = trl_sample(tokenizer, "qwen3_instruct_2507_training", messages, tools)
        # Ours ends with the end token: the newline after it is never generated, the server stops before.
        assert [*ours.ids, *tokenizer.encode("\n")] == theirs.ids
        assert [f"{text}\n" for text in texts(tokenizer, ours)] == texts(tokenizer, theirs)


@pytest.mark.torch
def test_chatml_differs_from_trls_qwen2_5_in_the_newlines_around_the_answer(load_chat, load_transformers) -> None:
    tokenizer = load_transformers("chatml")
    messages = CONVERSATIONS["system"]  # without a system text Qwen2.5's template writes one of its own
    (ours,) = load_chat("chatml").samples(messages)
    theirs = trl_sample(tokenizer, "qwen2_5_training", messages)
    assert [*ours.ids, *tokenizer.encode("\n")] == theirs.ids
    # Theirs also trains the newline that ends the header, which the model is asked with.
    assert [f"\n{text}\n" for text in texts(tokenizer, ours)] == texts(tokenizer, theirs)


@pytest.mark.torch
def test_llama_3_equals_trls(load_chat, load_transformers) -> None:
    tokenizer = load_transformers("llama-3")
    for name in ("one turn", "two turns", "system", "unicode", "newline-led", "trailing spaces"):
        (ours,) = load_chat("llama-3").samples(CONVERSATIONS[name])
        theirs = trl_sample(tokenizer, "llama3_training", CONVERSATIONS[name])
        assert (ours.ids, ours.labels) == (theirs.ids, theirs.labels)


@pytest.mark.torch
def test_qwen3_with_thinking_kept_differs_from_trl_in_empty_think_blocks(load_chat, load_transformers) -> None:
    tokenizer = load_transformers("qwen3-thinking")
    for name in ("two turns", "system", *THINKING, *CALLING):
        messages, tools = CONVERSATIONS[name], tools_for(name)
        (ours,) = load_chat("qwen3-thinking").samples(messages, tools)
        theirs = trl_sample(tokenizer, "qwen3_training", messages, tools)
        assert [*ours.ids, *tokenizer.encode("\n")] == theirs.ids
        # Theirs trains an empty think block where an answer has no reasoning: the model learns not to think even when
        # it is asked to. Ours asks with the block, as Qwen3 does with enable_thinking=false.
        expected = [text if text.startswith("<think>") else NO_THINKING + text for text in texts(tokenizer, ours)]
        assert [f"{text}\n" for text in expected] == texts(tokenizer, theirs)


@pytest.mark.torch
def test_qwen3s_own_differs_from_trl_in_earlier_think_blocks_too(load_chat, load_transformers) -> None:
    tokenizer = load_transformers("qwen3")
    messages = CONVERSATIONS["reasoning in the text"]
    first, second = load_chat("qwen3").samples(messages)
    theirs = trl_sample(tokenizer, "qwen3_training", messages)
    assert theirs.ids[: len(first.ids)] == first.ids
    # Qwen3 asks for the second answer without the first one's reasoning, so it is trained without. Theirs keeps it.
    asked, kept = (tokenizer.decode(sample.ids) for sample in (second, theirs))
    assert kept == asked.replace("assistant\n2<", "assistant\n<think>\none and one\n</think>\n\n2<") + "\n"


@pytest.mark.torch
def test_the_benchmark_takes_no_difference_for_another(load_chat, load_transformers) -> None:
    tokenizer = load_transformers("qwen3-thinking")
    ids = trl_masks.known_ids(tokenizer)
    for template in ("qwen3", "qwen3-thinking"):
        for name in ("two turns", *THINKING, *CALLING):
            ours = load_chat(template).samples(CONVERSATIONS[name], tools_for(name))
            theirs = trl_sample(tokenizer, "qwen3_training", CONVERSATIONS[name], tools_for(name))
            names, is_explained = trl_masks.explain(template, ours, theirs, ids)
            assert is_explained
            assert "final-newline" in names
            start = runs(ours[0])[0][0]
            for place in (1, start - 1, start, len(ours[0].ids) - 1):
                assert not trl_masks.explain(template, [other_id(ours[0], place), *ours[1:]], theirs, ids)[1]
                assert not trl_masks.explain(template, [other_label(ours[0], place), *ours[1:]], theirs, ids)[1]
            assert not trl_masks.explain(template, ours[1:], theirs, ids)[1]


def other_id(sample: Sample, place: int) -> Sample:
    return Sample(sample.row, [*sample.ids[:place], 0, *sample.ids[place + 1 :]], sample.labels)


def other_label(sample: Sample, place: int) -> Sample:
    label = sample.ids[place] if sample.labels[place] == IGNORED else IGNORED
    return Sample(sample.row, sample.ids, [*sample.labels[:place], label, *sample.labels[place + 1 :]])


PIECES = [
    "a",
    "word",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    ".",
    "?!",
    "9",
    "12",
    "é",
    "e\u0301",
    "你好",
    "👩‍👩‍👧",
    "</",
    "<think>",
]
PIECES += ["</think>", "<|im_end|>", "<|im_start|>", "<|eot_id|>", "<|im_", "end|>", "<tool_call>", "### Response:\n"]


@pytest.mark.parametrize("template", prompt.template_names())
def test_whatever_the_texts_answers_are_trained_behind_what_is_asked(load_chat, template: str) -> None:
    chat, dice = load_chat(template), random.Random(0)
    special = {id for id, token in chat.tokenizer.get_added_tokens_decoder().items() if token.special}
    for _ in range(100):
        texts = ["".join(dice.choices(PIECES, k=dice.randint(1, 6))) for _ in range(6)]
        messages = [[user, answer][number % 2](text) for number, text in enumerate(texts)]
        spans = [(sample, start) for sample in chat.samples(messages) for start, _ in runs(sample)]
        for index, (sample, start) in zip(answers_of(messages), spans, strict=True):
            past = messages[:index]
            assert sample.ids[:start] in (chat.prompt_ids(past), chat.prompt_ids(past, thinking=True)), messages
            turns = [message["role"] for message in past]
            written = chat.prompt_ids([{"role": role, "content": "a"} for role in turns])
            assert [id for id in sample.ids[:start] if id in special] == [id for id in written if id in special]
