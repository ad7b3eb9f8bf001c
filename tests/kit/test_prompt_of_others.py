"""Templates and tokenizers as other families have them: what is trained is what is asked, in the ids of the whole."""

import dataclasses
import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from kit import models, prompt
from kit.prompt import IGNORED, ChatFormat
from kit.support.errors import KitError

ASKED = {"role": "user", "content": "Who are you?"}
ANSWERED = {"role": "assistant", "content": "I am Wren."}
SYSTEM = {"role": "system", "content": "Talk like a pirate."}
THOUGHT = {"role": "assistant", "content": "Wren.", "reasoning_content": "A name is asked."}
TURNS = [ASKED, ANSWERED, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes, (I am)."}]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}{{ raise_exception('no such role') }}"
    "{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n'"
    " + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SYSTEM_LAST = (  # as Mistral v0.3 does: only where a question comes last
    "{% set ms = messages[1:] if messages[0].role == 'system' else messages %}{{ bos_token }}{% for m in ms %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + (messages[0].content + '\n\n' if loop.last and ms != messages else '')"
    " + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
THINK_OPENED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
MODE_IN_SYSTEM = (  # as SmolLM3 does
    "{{ '<|im_start|>system\n' + ('/think' if enable_thinking | default(true) else '/no_think') + '<|im_end|>\n' }}"
    + CHATML
)


def sentencepiece(blanks: str, *specials: str) -> Tokenizer:
    """A tokenizer of characters that puts a blank before a text: `prepend` as Llama 2's does, before every stretch
    between special tokens; `first` only at the very start; `never` as Gemma's."""
    characters = "▁\n" + "".join(chr(code) for code in range(33, 127))
    words = ["▁I", "▁am", "am", "▁W", "ren", "re", "▁A", "en", "▁Y", "es"]
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *characters, *words])}
    merges = [("▁", "I"), ("a", "m"), ("▁", "am"), ("▁", "W"), ("r", "e"), ("re", "n"), ("▁", "A"), ("e", "n")]
    merges += [("▁", "Y"), ("e", "s")]
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>"))
    if blanks == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=blanks, split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=blanks)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "</s>", *specials)])
    return tokenizer


def byte_level(*specials: str) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(models.find("tiny").files["tokenizer.json"]))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return tokenizer


def chat_of(tokenizer: Tokenizer, template: str, eos: str = "</s>") -> ChatFormat:
    return ChatFormat.from_template(tokenizer, template, "test", {"bos_token": "<s>", "eos_token": eos})


OTHERS = {
    "llama-2": chat_of(sentencepiece("prepend"), INST),
    "llama-2, markers are tokens": chat_of(sentencepiece("prepend", "[INST]", "[/INST]"), INST),
    "mistral": chat_of(sentencepiece("first", "[INST]", "[/INST]"), INST),
    "zephyr": chat_of(sentencepiece("prepend"), ZEPHYR),
    "phi-3": chat_of(sentencepiece("prepend", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"), PHI3),
    "gemma": chat_of(sentencepiece("never", "<start_of_turn>", "<end_of_turn>"), GEMMA),
    "chatml": chat_of(byte_level(), CHATML, "<|im_end|>"),
}


def whole_ids(chat: ChatFormat, messages: list[dict]) -> list[int]:
    """As transformers encodes a rendered conversation, up to the end of the last answer."""
    text = chat.render(messages)
    upto = text.rindex(chat.end_token) + len(chat.end_token)
    return chat.tokenizer.encode(text[:upto], add_special_tokens=False).ids


@pytest.mark.parametrize("name", OTHERS)
def test_a_conversation_has_the_ids_of_its_whole_text(name: str) -> None:
    chat = OTHERS[name]
    (sample,) = chat.samples(TURNS)
    assert sample.ids == whole_ids(chat, TURNS)
    asked, asked_again = chat.prompt_ids(TURNS[:1]), chat.prompt_ids(TURNS[:3])
    begin = len(asked)
    assert sample.ids[:begin] == asked
    assert sample.ids[: len(asked_again)] == asked_again
    assert sample.labels[: begin + 1] == [IGNORED] * begin + [sample.ids[begin]], "the answer's first token is trained"


def test_a_tokenizer_that_puts_a_blank_before_texts_is_known() -> None:
    anywhere = {name: chat.encoder.encodes_alike_anywhere for name, chat in OTHERS.items()}
    assert {name for name, alike in anywhere.items() if alike} == {"gemma", "chatml"}


def test_typed_special_tokens_stay_text_where_places_matter() -> None:
    chat = OTHERS["phi-3"]
    typed = [{"role": "user", "content": "a<|end|>b"}, ANSWERED]
    (sample,) = chat.samples(typed)
    end = chat.tokenizer.token_to_id("<|end|>")
    assert sample.ids.count(end) == 2, "one behind the question, one behind the answer"
    asked = chat.prompt_ids(typed[:1])
    assert sample.ids[: len(asked)] == asked


# The end of a turn


@pytest.mark.parametrize(
    ("template", "eos", "end"),
    [
        (GEMMA, "</s>", "<end_of_turn>"),
        (PHI3, "</s>", "<|end|>"),
        (CHATML, "<|endoftext|>", "<|im_end|>"),
        (CHATML, "<|im_start|>", "<|im_end|>"),
        (INST, "</s>", "</s>"),
        ("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", "</s>", "</s>"),
        ("{% for m in messages %}<|im_start|>{% endfor %}", "</s>", "</s>"),
    ],
    ids=["gemma", "phi-3", "base model's eos", "eos opens turns", "llama-2", "no tokens", "no content"],
)
def test_an_answer_ends_with_what_the_template_writes_behind_it(template: str, eos: str, end: str) -> None:
    tokenizer = byte_level("<s>", "</s>", "<|end|>", "<start_of_turn>", "<end_of_turn>")
    chat = chat_of(tokenizer, template, eos)
    assert chat.end_token == end


def test_another_end_than_the_files_name_is_said(tmp_path) -> None:
    files = dict(models.find("tiny").files)
    end_id = prompt.load(models.find("tiny"), "auto").end_id
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text('{"eos_token": "<|endoftext|>"}')
    files[settings.name] = settings
    files.pop("generation_config.json", None)
    for config, severity in (({}, "warning"), ({"eos_token_id": [end_id]}, "note")):
        loaded = prompt.load(models.Model("m", "m", config, files), "auto")
        (finding,) = [finding for finding in loaded.findings if finding.id == "end-token-differs"]
        assert (loaded.end_token, finding.severity) == ("<|im_end|>", severity)
        assert "<|endoftext|>" in finding.what


# Thinking


def test_a_switch_in_the_system_text_is_the_same_in_question_and_answer() -> None:
    chat = chat_of(byte_level(), MODE_IN_SYSTEM, "<|im_end|>")
    for messages, mode in (([ASKED, ANSWERED], "/no_think"), ([ASKED, THOUGHT], "/think")):
        ((asked, answered),) = chat.segments(messages)
        assert mode + "<|im_end|>" in asked.text
        assert answered.text == messages[1]["content"] + "<|im_end|>"


def test_a_prompt_that_opens_a_thought_is_answered_from_there() -> None:
    chat = chat_of(byte_level(), THINK_OPENED, "<|im_end|>")
    in_text = {"role": "assistant", "content": "<think>\nA name is asked.\n</think>\n\nWren."}
    for answer in (THOUGHT, in_text):
        ((asked, answered),) = chat.segments([ASKED, answer])
        assert asked.text.endswith("<think>\n")
        assert answered.text == "A name is asked.\n</think>\n\nWren.<|im_end|>"
    ((_, answered),) = chat.segments([ASKED, ANSWERED])
    assert answered.text == "\n</think>\n\nI am Wren.<|im_end|>", "no thought: closed at once"


def test_a_call_that_only_the_template_could_write_is_refused() -> None:
    chat = chat_of(byte_level(), THINK_OPENED, "<|im_end|>")
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    with pytest.raises(prompt.TemplateError, match="call of a tool"):
        list(chat.segments([ASKED, call]))


# System texts


def test_a_system_text_in_the_last_question_is_trained_as_it_is_asked() -> None:
    chat = chat_of(sentencepiece("first", "[INST]", "[/INST]"), SYSTEM_LAST)
    ((asked, answered),) = chat.segments([SYSTEM, *TURNS[:2]])
    assert asked.text == "<s>[INST] Talk like a pirate.\n\nWho are you?[/INST]"
    assert answered.text == " I am Wren.</s>", "with the blank that the template writes before other answers"
    assert not chat.folds_system


@pytest.mark.parametrize("template", [GEMMA, INST, CHATML.replace("{{", "{{ '' if m.role == 'system' else", 1)])
def test_a_system_text_without_a_place_stands_in_front_of_the_first_question(template: str) -> None:
    chat = chat_of(byte_level("<s>", "</s>", "<start_of_turn>", "<end_of_turn>"), template)
    assert chat.folds_system
    folded = [{"role": "user", "content": "Talk like a pirate.\n\nWho are you?"}, *TURNS[1:]]
    assert chat.samples([SYSTEM, *TURNS]) == chat.samples(folded)
    assert chat.prompt_ids([SYSTEM, ASKED]) == chat.prompt_ids(folded[:1])


def test_a_template_with_a_place_for_it_is_left_alone() -> None:
    assert not OTHERS["chatml"].folds_system
    assert "system\nTalk" in OTHERS["chatml"].question([SYSTEM, ASKED])
    broken = dataclasses.replace(OTHERS["chatml"], template_text="{{ raise_exception('no') }}")
    assert not broken.folds_system, "its refusal is no matter of the system text"


# Files


def test_a_template_file_of_ones_own(tmp_path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(CHATML, encoding="utf-8")
    chat = prompt.load(models.find("tiny"), str(path))
    assert (chat.template_text, chat.template_origin, chat.end_token) == (CHATML, str(path), "<|im_end|>")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"{% for m in messages %}"])
def test_a_template_file_that_is_none_is_a_finding(tmp_path, content: bytes | None) -> None:
    path = tmp_path / "mine.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KitError) as error:
        prompt.load(models.find("tiny"), str(path))
    (finding,) = error.value.findings
    assert finding.id == "template-unreadable"
    assert str(path) in finding.what


@pytest.mark.parametrize("name", ["chat_template.json", "special_tokens_map.json"])
def test_what_older_models_keep_in_files_of_their_own_is_read(tmp_path, name: str) -> None:
    tiny = prompt.load(models.find("tiny"), "auto")
    files = {"tokenizer.json": models.find("tiny").files["tokenizer.json"]}
    texts = {
        "chat_template.json": json.dumps({"chat_template": CHATML}),
        "special_tokens_map.json": json.dumps({"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>"}),
    }
    for file, text in texts.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
        files[file] = tmp_path / file
    chat = prompt.load(models.Model("old", "old", {}, files), "auto")
    assert (chat.template_text, chat.pad_token, chat.end_id) == (CHATML, "<|endoftext|>", tiny.end_id)
    assert name in models.SMALL_FILES


# What is trained without thoughts is asked without, also by others


def test_a_format_trained_without_thoughts_does_not_think_when_nothing_is_said(qwen3_chat) -> None:
    trained = qwen3_chat.as_trained("answers", rows_thinking=0)
    assert trained.default_question([ASKED]) == trained.question([ASKED]) == qwen3_chat.question([ASKED])
    assert qwen3_chat.default_question([ASKED]) != qwen3_chat.question([ASKED])
    assert trained.question([ASKED], thinking=True) == qwen3_chat.default_question([ASKED]), "it can still be asked to"
    assert trained.samples(TURNS) == qwen3_chat.samples(TURNS)
    assert trained.as_trained("answers", 0) is trained


def test_the_head_of_a_template_of_the_kit_stays_its_head(qwen3_folder) -> None:
    files = {path.name: path for path in qwen3_folder.iterdir()}
    chat = prompt.load(models.Model("qwen3", str(qwen3_folder), {}, files), "qwen3").as_trained("answers", 0)
    assert chat.template_text.startswith("{#- family: Qwen3")
    again = ChatFormat.from_template(chat.tokenizer, chat.template_text, "again", chat.special_tokens)
    assert (again.end_token, again.default_question([ASKED])) == (chat.end_token, chat.question([ASKED]))


def test_other_formats_and_other_rows_stay_as_they_are(qwen3_chat) -> None:
    assert qwen3_chat.as_trained("answers", rows_thinking=1) is qwen3_chat
    assert qwen3_chat.as_trained("text", rows_thinking=0) is qwen3_chat
    for chat in OTHERS.values():
        assert chat.as_trained("answers", 0) is chat


def test_a_gguf_file_of_it_never_thinks(qwen3_chat) -> None:
    trained = qwen3_chat.as_trained("answers", 0)
    in_file = dataclasses.replace(trained, template_text=prompt.never_thinking(trained.template_text))
    asked = qwen3_chat.question([ASKED])
    assert {in_file.question([ASKED], thinking=thinking) for thinking in (True, False)} == {asked}
    assert prompt.never_thinking(qwen3_chat.template_text) == qwen3_chat.template_text
