"""Rows: every format, counts that add up, and the line of everything that is wrong."""

import json

import pytest

from kit import data, formats
from kit.config import Run
from kit.errors import KitError
from kit.prompt import IGNORED

PAIR = {"question": "How much is 2+2?", "answer": "4"}
FORMATS = {
    "chat messages": {
        "messages": [{"role": "user", "content": "How much is 2+2?"}, {"role": "assistant", "content": "4"}]
    },
    "ShareGPT": {"conversations": [{"from": "human", "value": "How much is 2+2?"}, {"from": "gpt", "value": "4"}]},
    "Alpaca": {"instruction": "How much is 2+2?", "input": "", "output": "4"},
    "question/answer": PAIR,
    "prompt/completion": {"prompt": "How much is 2+2?", "completion": "4"},
}


def read(path, chat, **options) -> data.Data:
    return data.read(Run(data=path, **options), chat)


def problems(path, chat, **options) -> list:
    with pytest.raises(KitError) as error:
        read(path, chat, **options)
    return list(error.value.findings)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_sample(tiny_chat, write_rows, name: str) -> None:
    got = read(write_rows([FORMATS[name]]), tiny_chat)
    assert got.report.format == name
    assert got.train == read(write_rows([PAIR], "pair.jsonl"), tiny_chat).train
    trained = [token for token in got.train[0].labels if token != IGNORED]
    assert tiny_chat.tokenizer.decode(trained, skip_special_tokens=False) == "4<|im_end|>"


def test_json_list_equals_json_lines(tiny_chat, write_rows, tmp_path) -> None:
    rows = [PAIR, {"question": "你是谁？", "answer": "Wren"}]
    as_list = tmp_path / "rows.json"
    as_list.write_text(json.dumps(rows, indent=2))
    assert read(as_list, tiny_chat).train == read(write_rows(rows), tiny_chat).train


def test_alpaca_input_system_and_history(tiny_chat) -> None:
    row = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief.", "history": [["Hi", "Hello"]]}
    messages = formats.convert(row, formats.detect(row)).messages
    assert [(m["role"], m["content"]) for m in messages] == [
        ("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Add\n1 2"), ("assistant", "3"),
    ]  # fmt: skip


def test_sharegpt_tool_calls(tiny_chat) -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    row = {
        "conversations": [
            {"from": "human", "value": "1+0?"},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "It is 1."},
        ],
        "tools": json.dumps([{"name": "add"}]),
    }
    conversation = formats.convert(row, formats.detect(row))
    assert conversation.tools == [{"name": "add"}]
    assert conversation.messages[1]["tool_calls"][0]["function"] == call
    assert [m["role"] for m in conversation.messages] == ["user", "assistant", "tool", "assistant"]


def test_counts_add_up_with_everything_left_out(tiny_chat, write_rows) -> None:
    rows = [{**FORMATS["chat messages"], "label": index % 2 == 0} for index in range(40)]
    rows += [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a " * i}]}
        for i in range(1, 400)
    ]
    seen = read(write_rows(rows), tiny_chat, max_length_tokens=300, long_rows="drop").report
    assert seen.rows_read == len(rows) == seen.rows_trained + seen.rows_held_out + sum(seen.rows_left_out.values())
    assert seen.rows_left_out["marked as a bad answer"] == 20
    assert seen.rows_left_out["too long"] == len(seen.left_out_lines["too long"]) > 0
    assert seen.longest_tokens <= 300


def test_held_out_rows_follow_the_content_not_the_order(tiny_chat, write_rows) -> None:
    rows = [{"question": f"What is {i}?", "answer": str(i)} for i in range(100)]
    first = read(write_rows(rows), tiny_chat)
    turned = read(write_rows(rows[::-1], "turned.jsonl"), tiny_chat)
    texts = [{json.dumps(q.messages) for q in got.questions} for got in (first, turned)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 10 == first.report.rows_held_out
    trained = {tuple(sample.ids) for sample in first.train}
    assert not trained & {tuple(sample.ids) for sample in first.held_out}


def test_a_question_in_several_rows_is_on_one_side_only(tiny_chat, write_rows) -> None:
    rows = [{"question": f"What is {i // 3}?", "answer": f"{i}"} for i in range(90)]
    got = read(write_rows(rows), tiny_chat)
    held = {q.messages[0]["content"] for q in got.questions}
    kept = [row for row in rows if row["question"] not in held]
    assert got.report.rows_trained == len(kept)


@pytest.mark.parametrize(
    ("content", "id", "place"),
    [
        (b"", "data-file-empty", None),
        (b"\n \n", "data-file-empty", None),
        (b"[]", "data-file-empty", None),
        (b'{"question": "a", "answer": "b"}\n{"question": "a", \n', "data-line-does-not-parse", "rows.jsonl:2"),
        (b'[{"question": "a", "answer": "b"},\n {]', "data-line-does-not-parse", "rows.jsonl:2"),
        (b"[" * 100_000, "data-line-does-not-parse", "rows.jsonl:1"),
        (b'{"question": "a", "answer": "\xff"}\n', "data-not-utf8", None),
        (b'{"title": "a"}\n', "data-format-unknown", "the first row has"),
        (b"3\n", "data-format-unknown", "the first row has"),
        (b'{"question": "a", "answer": "b"}\n{"text": "a"}\n', "data-row-format", "rows.jsonl:2"),
        (b'{"question": "a", "answer": "b"}\n[1]\n', "data-row-format", "rows.jsonl:2"),
        (b'{"question": "a", "answer": " "}\n', "data-field-empty", "rows.jsonl:1"),
        (b'{"question": "a", "answer": 3}\n', "data-field-not-text", "rows.jsonl:1"),
        (b'{"messages": [{"role": "user", "content": "a"}]}\n', "data-no-answer", "rows.jsonl:1"),
        (b'{"messages": [{"role": "boss", "content": "a"}]}\n', "data-role-unknown", "rows.jsonl:1"),
        (b'{"messages": "hello"}\n', "data-field-not-text", "rows.jsonl:1"),
        (b'{"conversations": [], "tools": "{"}\n', "data-field-not-json", "rows.jsonl:1"),
        (b'{"conversations": [], "chosen": 1, "rejected": 2}\n', "data-preference-pair", "rows.jsonl:1"),
    ],
)
def test_bad_files_are_findings_that_name_the_line(
    tiny_chat, tmp_path, content: bytes, id: str, place: str | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    (finding,) = problems(path, tiny_chat)
    assert finding.id == id
    assert finding.why
    assert finding.fix
    assert place is None or place in dict(finding.details)


def test_all_kinds_of_bad_rows_are_told_at_once(tiny_chat, write_rows) -> None:
    rows = [PAIR, {"question": "a", "answer": ""}, {"question": 1, "answer": "b"}, {"other": 1}]
    assert {f.id for f in problems(write_rows(rows), tiny_chat)} == {
        "data-field-empty",
        "data-field-not-text",
        "data-row-format",
    }


def test_a_file_that_leaves_no_row_says_where_they_went(tiny_chat, write_rows) -> None:
    (finding,) = problems(write_rows([{**FORMATS["chat messages"], "label": False}] * 3), tiny_chat)
    assert finding.id == "data-nothing-to-train"
    assert dict(finding.details)["marked as a bad answer"] == "3"


def test_missing_file_folder_and_no_data(tiny_chat, tmp_path) -> None:
    assert problems(tmp_path / "none.jsonl", tiny_chat)[0].id == "data-file-missing"
    assert "is a folder" in problems(tmp_path, tiny_chat)[0].what
    assert problems(None, tiny_chat)[0].id == "no-data"


def test_too_many_long_rows_stop_with_the_choices(tiny_chat, write_rows) -> None:
    rows = [{"question": f"q{i}", "answer": "word " * (400 if i % 10 == 0 else 3)} for i in range(100)]
    (finding,) = problems(write_rows(rows), tiny_chat, max_length_tokens=128)
    assert finding.id == "data-rows-too-long"
    enough = int(finding.fix[0].split()[1])
    assert read(write_rows(rows), tiny_chat, max_length_tokens=enough).report.rows_read == 100


def test_a_few_long_rows_are_left_out_and_named(tiny_chat, write_rows) -> None:
    rows = [{"question": f"q{i}", "answer": "word " * (400 if i == 7 else 3)} for i in range(200)]
    got = read(write_rows(rows), tiny_chat, max_length_tokens=128)
    assert got.report.left_out_lines["too long"] == [8]
    assert [finding.severity for finding in got.findings] == ["warning"]


def test_byte_order_mark_is_no_part_of_the_data(tiny_chat, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIR).encode())
    assert read(path, tiny_chat).report.rows_read == 1
