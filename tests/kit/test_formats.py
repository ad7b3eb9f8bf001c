"""Formats: every variant of every format gives the messages it stands for, and every bad row its code."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.rows import checks, formats
from kit.data.rows.codes import WHY
from kit.data.rows.formats import Example, Format, by_name, convert, detect
from kit.support.errors import KitError, RowError

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
WORSE = {"role": "assistant", "content": "5"}
SYSTEM = {"role": "system", "content": "Be brief."}
HUMAN, GPT, BAD_GPT = ({"from": name, "value": text} for name, text in (("human", "2+2?"), ("gpt", "4"), ("gpt", "5")))
ADD = {"name": "add", "arguments": {"a": 1}}
CALL = {"type": "function", "function": ADD}
TOOL = {"name": "add", "description": "Adds", "parameters": {"type": "object", "properties": {}}}

PAIRS = {
    "chat-messages": {"messages": [USER, ANSWER]},
    "sharegpt": {"conversations": [HUMAN, GPT]},
    "alpaca": {"instruction": "2+2?", "input": "", "output": "4"},
    "question-answer": {"question": "2+2?", "answer": "4"},
    "prompt-completion": {"prompt": "2+2?", "completion": "4"},
}


def example(row: object, **columns: str) -> Example:
    """The row converted as the format it is detected as."""
    return convert(row, detect([row], columns)[0], columns)


def messages(row: object, **columns: str) -> list[dict]:
    (conversation,) = example(row, **columns).conversations
    return conversation.messages


def refusal(row: object, option: str, **columns: str) -> RowError:
    with pytest.raises(RowError) as error:
        convert(row, by_name(option), columns)
    return error.value


# Answers


@pytest.mark.parametrize("option", PAIRS)
def test_every_format_gives_the_same_messages(option: str) -> None:
    row = PAIRS[option]
    assert detect([row])[0] is by_name(option)
    assert messages(row) == [USER, ANSWER]
    assert messages({**row, "id": 7, "source": None}) == [USER, ANSWER]
    assert messages({**row, "system": "Be brief."}) == [SYSTEM, USER, ANSWER]


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"instruction": "Add", "input": "1 2", "output": "3"}, "Add\n1 2"),
        ({"instruction": "Add", "input": None, "output": "3"}, "Add"),
        ({"instruction": "Add", "output": "3"}, "Add"),
        ({"instruction": "", "input": "1+2?", "output": "3", "history": []}, "1+2?"),
    ],
)
def test_alpaca_input_may_be_missing(row: dict, question: str) -> None:
    assert messages(row) == [{"role": "user", "content": question}, {"role": "assistant", "content": "3"}]


def test_alpaca_history_comes_after_the_system_turn() -> None:
    row = {"instruction": "2+2?", "output": "4", "system": "Be brief.", "history": [["Hi", "Hello"]]}
    hello = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert messages(row) == [SYSTEM, *hello, USER, ANSWER]


@pytest.mark.parametrize(
    "names", [("Human", "Assistant"), ("USER", "ASSISTANT"), ("user", "model"), ("Prompter ", "bot")]
)
def test_roles_by_other_names(names: tuple[str, str]) -> None:
    turns = [{"role": name, "content": turn["content"]} for name, turn in zip(names, (USER, ANSWER), strict=True)]
    assert messages({"messages": turns}) == [USER, ANSWER]


@pytest.mark.parametrize("key", ["messages", "conversations"])
@pytest.mark.parametrize("turns", [[USER, ANSWER], [HUMAN, GPT]], ids=["role", "from"])
@pytest.mark.parametrize("written", [list, json.dumps], ids=["list", "text"])
def test_turns_of_either_kind_under_either_key(key: str, turns: list, written) -> None:
    assert messages({key: written(turns)}) == [USER, ANSWER]


def test_prompt_and_completion_as_messages() -> None:
    assert messages({"prompt": [SYSTEM, USER], "completion": [ANSWER]}) == [SYSTEM, USER, ANSWER]


def test_a_prompt_that_begins_with_a_bracket_stays_text() -> None:
    assert messages({"prompt": "[1, 2]", "completion": "[3]"})[0]["content"] == "[1, 2]"


def test_typed_parts_and_reasoning() -> None:
    parts = [
        {"type": "reasoning", "value": "Easy."},
        {"type": "text", "text": "I add. ", "value": None},
        {"type": "text", "value": "Wait."},
        {"type": "tool_call", "value": json.dumps(ADD)},
    ]
    answer = {"role": "assistant", "content": "I add. Wait.", "reasoning_content": "Easy.", "tool_calls": [CALL]}
    assert messages({"messages": [USER, {"role": "assistant", "content": parts}]}) == [USER, answer]
    answer = {**ANSWER, "reasoning_content": "Easy."}
    assert messages({"messages": [USER, answer]}) == [USER, answer]


# Tools


@pytest.mark.parametrize("value", [ADD, [ADD], {**ADD, "arguments": '{"a": 1}'}], ids=["object", "list", "as text"])
def test_sharegpt_calls_and_observations(value: object) -> None:
    call = {"from": "function_call", "value": json.dumps(value)}
    row = {"conversations": [HUMAN, call, {"from": "observation", "value": "4"}, GPT], "tools": json.dumps([TOOL])}
    (conversation,) = example(row).conversations
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert conversation.messages == [USER, called, {"role": "tool", "content": "4"}, ANSWER]
    assert conversation.tools == [TOOL]


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1}), ("", {}), (None, {}), ("null", {}), ("[1]", [1])],
)
def test_openai_arguments_become_objects_and_ids_stay(arguments: object, parsed: object) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    result = {"role": "tool", "content": "4", "tool_call_id": "call_1", "name": "add"}
    row = {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, result, ANSWER]}
    got = messages(row)
    assert got[1]["tool_calls"] == [{**call, "function": {"name": "add", "arguments": parsed}}]
    assert got[1]["content"] == ""
    assert got[2] == result


@pytest.mark.parametrize("written", [[TOOL], json.dumps([TOOL])], ids=["list", "text"])
def test_tools_as_list_or_text(written: object) -> None:
    assert example({"messages": [USER, ANSWER], "tools": written}).conversations[0].tools == [TOOL]


@pytest.mark.parametrize("nothing", [None, "", " ", "[]", "null", []])
def test_no_tools(nothing: object) -> None:
    assert example({"messages": [USER, ANSWER], "tools": nothing}).conversations[0].tools is None


# Text, preferences, labels


def test_plain_text() -> None:
    assert example({"text": "Once upon a time."}) == Example((), text="Once upon a time.")
    assert example({"story": "Once upon a time."}, text="story").text == "Once upon a time."


PREFERENCES = {
    "LLaMA-Factory's ShareGPT": {"conversations": [HUMAN], "chosen": GPT, "rejected": BAD_GPT},
    "LLaMA-Factory's chat messages": {"messages": [USER], "chosen": ANSWER, "rejected": WORSE},
    "LLaMA-Factory's Alpaca": {"instruction": "2+2?", "input": "", "chosen": "4", "rejected": "5"},
    "question and answers": {"question": "2+2?", "chosen": "4", "rejected": "5"},
    "TRL's text": {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    "TRL's messages": {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
    "TRL's without a prompt": {"chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
    "whole conversations beside their prompt": {"prompt": "2+2?", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
}


@pytest.mark.parametrize("row", PREFERENCES.values(), ids=PREFERENCES)
def test_preferences(row: dict) -> None:
    assert detect([row])[0] is by_name("preference")
    chosen, rejected = example(row).conversations
    assert (chosen.messages, rejected.messages) == ([USER, ANSWER], [USER, WORSE])
    chosen, rejected = example({**row, "system": "Be brief."}).conversations
    if row.keys() != {"chosen", "rejected"}:
        assert (chosen.messages, rejected.messages) == ([SYSTEM, USER, ANSWER], [SYSTEM, USER, WORSE])


@pytest.mark.parametrize("option", PAIRS)
@pytest.mark.parametrize(("label", "good"), [(True, True), (False, False), (1, True), (0, False)])
def test_kto_labels(option: str, label: object, good: bool) -> None:
    row = {**PAIRS[option], "label": label}
    form, reason = detect([row])
    assert form is by_name("kto")
    assert form.purpose == "answers"
    assert "label" in reason
    assert example(row) == Example(example(PAIRS[option]).conversations, good=good)


def test_a_label_beside_text_is_not_kto() -> None:
    assert detect([{"text": "Good film", "label": 1}])[0] is by_name("text")


# Which format


def test_most_rows_decide() -> None:
    alpaca, chat = PAIRS["alpaca"], PAIRS["chat-messages"]
    rows = [RowError("data-line-does-not-parse", "broken"), 3, chat, *[alpaca] * 100, *[chat] * 500]
    form, reason = detect(rows)
    assert form is by_name("alpaca")
    assert reason == "98 of the first 100 rows have instruction and output"


def test_null_values_count_for_less_than_values() -> None:
    nothing = {"messages": None, "question": None, "answer": None}
    assert detect([{**nothing, "question": "2+2?", "answer": "4"}])[0] is by_name("question-answer")
    assert detect([{"question": "2+2?", "answer": None}])[0] is by_name("question-answer")


def test_every_format_has_an_option_of_its_own() -> None:
    assert [by_name(form.option) for form in formats.FORMATS] == list(formats.FORMATS)
    assert {form.purpose for form in formats.FORMATS} == {"answers", "text", "preferences"}


def test_an_unknown_format_names_the_near_one() -> None:
    with pytest.raises(KitError) as error:
        by_name("sharegtp")
    (finding,) = error.value.findings
    assert finding.id == "unknown-format"
    assert "Did you mean sharegpt?" in finding.what
    assert any(fix.startswith("--data-format alpaca") for fix in finding.fix)


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ([{"问题": 1, "b\ud800": 2}], r"问题, b\ud800"),
        ([3], "a number"),
        ([], "nothing"),
        ([RowError("data-line-does-not-parse", "broken")], "nothing"),
    ],
)
def test_rows_in_no_known_format(rows: list, shown: str) -> None:
    with pytest.raises(KitError) as error:
        detect(rows, origin="my.jsonl")
    (finding,) = error.value.findings
    assert finding.id == "data-format-unknown"
    assert "my.jsonl" in finding.what
    assert finding.fix[0].startswith("--data-columns question=COLUMN")
    assert shown in dict(finding.details)["the first row has"]


# Columns


def test_columns_are_read_under_our_names() -> None:
    assert messages({"问": "2+2?", "答": "4"}, question="问", answer="答") == [USER, ANSWER]
    swapped = {"question": "4", "answer": "2+2?"}
    assert messages(swapped, question="answer", answer="question") == [USER, ANSWER]
    assert not example({**PAIRS["alpaca"], "kto_tag": False}, label="kto_tag").good


def test_mapped_columns_decide_between_formats() -> None:
    row = {"messages": [HUMAN], "q": "2+2?", "a": "4"}
    assert detect([row], {"question": "q", "answer": "a"})[0] is by_name("question-answer")
    assert detect([row])[0] is by_name("chat-messages")


def test_a_mapping_of_no_key_of_ours_is_refused() -> None:
    formats.check_columns({"question": "q", "system": "s"})
    with pytest.raises(KitError) as error:
        formats.check_columns({"quesion": "q"})
    (finding,) = error.value.findings
    assert finding.id == "data-column-unknown"
    assert "Did you mean question?" in finding.what


# Bad rows

DEEP = [[[]]]
for _ in range(100):
    DEEP = [DEEP]


def assistant(**fields: object) -> dict:
    return {"messages": [USER, {"role": "assistant", "content": None, **fields}]}


def sharegpt(value: object) -> dict:
    return {"conversations": [HUMAN, {"from": "function_call", "value": value}]}


@pytest.mark.parametrize(
    ("option", "row", "code", "text"),
    [
        ("alpaca", ["2+2?", "4"], "data-row-format", "a list where an object"),
        ("alpaca", None, "data-row-format", "null"),
        ("question-answer", {"question": "a"}, "data-field-missing", "no answer"),
        ("question-answer", {}, "data-field-missing", "no question and no answer"),
        ("question-answer", PAIRS["sharegpt"], "data-mixed-formats", "ShareGPT (conversations) among rows of question"),
        ("kto", PAIRS["chat-messages"], "data-mixed-formats", "chat messages"),
        ("alpaca", PREFERENCES["LLaMA-Factory's Alpaca"], "data-mixed-formats", "preference"),
        ("chat-messages", {"messages": None}, "data-field-missing", "messages is null"),
        ("chat-messages", {"messages": [{"content": "a"}]}, "data-field-missing", "turn 1 of messages: no role"),
        ("kto", {"label": True, "answer": "4"}, "data-field-missing", "a label without"),
        ("preference", {"chosen": "4", "rejected": "5"}, "data-field-missing", "no question"),
        ("question-answer", {"question": 3, "answer": "4"}, "data-field-not-text", "question is a number"),
        ("alpaca", {**PAIRS["alpaca"], "history": "a"}, "data-field-not-text", "history is text"),
        ("alpaca", {**PAIRS["alpaca"], "history": [["a"]]}, "data-field-not-text", "history"),
        ("chat-messages", {"messages": "hello"}, "data-field-not-text", "messages is text, not a list"),
        ("chat-messages", {"messages": [USER, "4"]}, "data-field-not-text", "turn 2 of messages: text"),
        ("chat-messages", assistant(content={}), "data-field-not-text", "content is an object"),
        ("chat-messages", assistant(content=[{"type": "image"}]), "data-field-not-text", "a part of type 'image'"),
        ("chat-messages", assistant(content=[3]), "data-field-not-text", "a part of type null"),
        ("chat-messages", assistant(reasoning_content=[3]), "data-field-not-text", "reasoning_content is a list"),
        ("text", {"text": True}, "data-field-not-text", "text is true or false"),
        ("chat-messages", {"messages": "[{"}, "data-field-not-json", "messages does not parse"),
        ("chat-messages", {"messages": "[" * 100_000}, "data-field-not-json", "messages does not parse"),
        ("sharegpt", sharegpt("{"), "data-field-not-json", "turn 2 of conversations: function_call"),
        ("sharegpt", {**PAIRS["sharegpt"], "tools": "[{]"}, "data-field-not-json", "tools does not parse"),
        (
            "chat-messages",
            {"messages": [{"role": "boss"}]},
            "data-role-unknown",
            "'boss' is none of system, user, assistant, tool",
        ),
        ("chat-messages", {"messages": [{"role": []}]}, "data-role-unknown", "role a list"),
        ("sharegpt", {"conversations": [{"from": None}]}, "data-role-unknown", "role null"),
        ("sharegpt", sharegpt("3"), "data-tool-schema", "a tool call is a number"),
        ("chat-messages", assistant(tool_calls={"a": 1}), "data-tool-schema", "tool_calls is an object"),
        ("chat-messages", assistant(tool_calls=[{"function": "f"}]), "data-tool-schema", "a tool call is text"),
        (
            "chat-messages",
            assistant(tool_calls=[{**ADD, "arguments": "a=1"}]),
            "data-tool-schema",
            "arguments does not",
        ),
        ("chat-messages", assistant(tool_calls=[{**ADD, "arguments": DEEP}]), "data-tool-schema", "50 levels"),
        ("chat-messages", {"messages": [], "tools": {"a": 1}}, "data-tool-schema", "tools is an object"),
        ("chat-messages", {"messages": [], "tools": DEEP}, "data-tool-schema", "50 levels"),
        ("kto", {**PAIRS["sharegpt"], "label": "yes"}, "data-label-unknown", "label is 'yes'"),
        ("kto", {**PAIRS["sharegpt"], "label": 2}, "data-label-unknown", "label is a number"),
        ("kto", {**PAIRS["sharegpt"], "label": None}, "data-label-unknown", "label is null"),
        ("preference", {"prompt": "a", "chosen": "4", "rejected": "4"}, "data-pair-same", "the same"),
        (
            "preference",
            {"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "3+3?"}, WORSE]},
            "data-pair-questions-differ",
            "before they come to an answer",
        ),
    ],
)
def test_bad_rows(option: str, row: object, code: str, text: str) -> None:
    error = refusal(row, option)
    assert error.code == code
    assert text in str(error)


def test_a_mapped_column_that_the_row_lacks() -> None:
    error = refusal({"q": "2+2?"}, "question-answer", question="q", answer="a")
    assert (error.code, str(error)) == ("data-field-missing", "no a (the column mapped to answer)")


# Anything

WORDS = st.sampled_from(
    ["", " ", "2+2?", "4", "aaaaaaaaa", "\ud800", "[", "[]", "{}", json.dumps(ADD), json.dumps([TOOL])]
)
KINDS = st.sampled_from(["text", "reasoning", "tool_call", "image"])
ROLES = st.sampled_from([*formats.ROLES, "boss"])
INNER_KEYS = st.sampled_from(["role", "content", "type", "value", "name", "function", "arguments", "id", "parameters"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(INNER_KEYS, inner, max_size=4),
    max_leaves=12,
)
CALLS = st.lists(st.fixed_dictionaries({"name": WORDS, "arguments": VALUES}), max_size=2)
PARTS = st.lists(st.fixed_dictionaries({"type": KINDS, "value": WORDS}), max_size=3)
OPTIONAL = {"tool_calls": CALLS | VALUES, "reasoning_content": VALUES}
TURN = (
    st.fixed_dictionaries({"role": ROLES, "content": WORDS})
    | st.fixed_dictionaries({"role": ROLES, "content": WORDS | PARTS | VALUES}, optional=OPTIONAL)
    | st.fixed_dictionaries({"from": ROLES, "value": WORDS})
)
CELLS = WORDS | st.booleans() | TURN | st.lists(TURN, max_size=5) | VALUES
KEYS = sorted({key for form in formats.FORMATS for key in form.keys} | formats.OPTIONAL_KEYS)
FORMATS = st.sampled_from(formats.FORMATS)
COLUMNS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(KEYS), max_size=1)


def rows_of(form: Format) -> st.SearchStrategy:
    """Rows with the format's keys, with more of ours, and with anything in them."""
    pairs = [dict.fromkeys((*form.keys, *inner.keys), CELLS) for inner in form.wraps or (form,)]
    return st.one_of(
        *(st.fixed_dictionaries(keys) for keys in pairs),
        st.fixed_dictionaries(pairs[0], optional=dict.fromkeys([key for key in KEYS if key not in pairs[0]], CELLS)),
    )


def code_of(row: object, form: Format, columns: dict[str, str]) -> str | None:
    """The code that a row is refused with; None for one that can be trained on."""
    try:
        got = convert(row, form, columns)
        for conversation in got.conversations:
            checks.check(conversation)
            json.dumps([conversation.messages, conversation.tools], ensure_ascii=False).encode()
        if got.text is not None:
            checks.check_text(got.text)
    except RowError as error:
        str(error).encode()
        return error.code
    assert len(got.conversations) == {"answers": 1, "preferences": 2, "text": 0}[form.purpose]
    return None


@given(st.data(), FORMATS, COLUMNS)
@settings(max_examples=500, deadline=None, database=None)
def test_any_row_of_a_format_is_an_example_or_refused_with_a_known_code(data, form: Format, columns: dict) -> None:
    assert code_of(data.draw(rows_of(form)), form, columns) in {None, *WHY}


@given(VALUES, FORMATS)
@settings(max_examples=200, deadline=None, database=None)
def test_any_value_in_place_of_a_row(value: object, form: Format) -> None:
    assert code_of(value, form, {}) in {"data-row-format", "data-field-missing", "data-mixed-formats"}


@given(rows=st.lists(VALUES | FORMATS.flatmap(rows_of), max_size=4))
@settings(max_examples=300, deadline=None, database=None)
def test_the_format_of_any_rows_is_one_whose_keys_a_row_has(rows: list) -> None:
    known = [row for row in rows if isinstance(row, dict) and any(row.keys() >= {*f.keys} for f in formats.FORMATS)]
    try:
        form, _ = detect(rows)
    except KitError:
        assert all(row.keys() >= {"label"} for row in known), "rows of a known format were not recognised"
    else:
        assert any(row.keys() >= {*form.keys} for row in known)


@pytest.mark.parametrize(("cell", "good"), [("True", True), ("false", False), (" 1 ", True), ("0", False)])
def test_labels_of_a_table_are_text(cell: str, good: bool) -> None:
    row = {"question": "a", "answer": "b", "label": cell}
    assert formats.convert(row, formats.by_name("kto"), {}).good is good
