"""Checks: every code is provoked by the smallest conversation that deserves it, and by no good one."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.rows import checks, codes, formats
from kit.data.rows.checks import ERRORS, WARNINGS, check, check_text
from kit.data.rows.codes import FIX, WHY
from kit.data.rows.formats import Conversation
from kit.support.errors import RowError

ADD = {"name": "add", "parameters": {"type": "object"}}
LETTERS = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "c": "assistant"}


def call(name: object = "add", arguments: object = None) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": {} if arguments is None else arguments}}


def turns(order: str, **contents: str) -> list[dict]:
    """'suca' is a system, a user, a calling assistant and an answering assistant turn."""
    messages = []
    for letter in order:
        message = {"role": LETTERS[letter], "content": contents.get(letter, f"A turn of {LETTERS[letter]}.")}
        messages.append({**message, "tool_calls": [call()]} if letter == "c" else message)
    return messages


def refusal(messages: list[dict], tools: list | None = None) -> tuple[str, str]:
    with pytest.raises(RowError) as error:
        check(Conversation(messages, tools))
    return error.value.code, str(error.value)


@pytest.mark.parametrize("order", ["ua", "sua", "uaua", "ucta", "uctta", "ucua", "uctcta", "uctuc", "uc", "suctaua"])
def test_good_orders(order: str) -> None:
    assert check(Conversation(turns(order), [ADD])) == []


@pytest.mark.parametrize(
    ("order", "code", "text"),
    [
        ("", "data-no-answer", "no assistant turn"),
        ("su", "data-no-answer", "no assistant turn"),
        ("usa", "data-system-not-first", "turn 2 is the system's"),
        ("ssua", "data-system-not-first", "turn 2 is the system's"),
        ("uas", "data-system-not-first", "turn 3 is the system's"),
        ("a", "data-role-order", "turn 1 is the assistant's"),
        ("saua", "data-role-order", "turn 2 is the assistant's"),
        ("tua", "data-role-order", "turn 1 is the tool's"),
        ("uua", "data-role-order", "turns 1 and 2 are both the user's"),
        ("uaa", "data-role-order", "turns 2 and 3 are both the assistant's"),
        ("ucca", "data-role-order", "turns 2 and 3 are both the assistant's"),
        ("uta", "data-role-order", "turn 2 is a tool's, but turn 1 calls none"),
        ("uctata", "data-role-order", "turn 5 is a tool's, but turn 4 calls none"),
    ],
)
def test_wrong_orders(order: str, code: str, text: str) -> None:
    got, why = refusal(turns(order))
    assert got == code
    assert text in why


def test_a_call_in_the_text_may_be_answered_by_a_tool() -> None:
    messages = turns("uata")
    messages[1]["content"] = '<tool_call>{"name": "add"}</tool_call>'
    assert check(Conversation(messages)) == []


@pytest.mark.parametrize("nothing", ["", " \n\t"])
def test_empty_turns(nothing: str) -> None:
    assert refusal(turns("ua", u=nothing)) == ("data-field-empty", "turn 1 (user) is empty")
    assert refusal(turns("ua", a=nothing)) == ("data-answer-empty", "turn 2 (assistant) is empty")
    assert check(Conversation(turns("sua", s=nothing))) == []
    assert check(Conversation(turns("ucta", c=nothing, t=nothing), [ADD])) == []


def test_reasoning_alone_is_an_answer() -> None:
    messages = turns("ua", a="")
    messages[1]["reasoning_content"] = "Easy."
    assert check(Conversation(messages)) == []
    messages[1]["reasoning_content"] = " "
    assert refusal(messages)[0] == "data-answer-empty"


REPEATED = {
    "a": ["aaaaaaaa", "a" * 5000, "a a a a a a a a", "\n".join("a" * 9), "a" * 8 + " " * 100, " " * 100 + "a" * 8],
    "\ufffd": ["\ufffd" * 8],
    "哈": ["哈" * 8],
    "ab": ["abababab", "ab" * 3000, "abababababa"],
    "-=": ["-= -= -= -="],
    "abcd": ["abcd" * 4, "abcd " * 50, " " * 40 + "abcd" * 40],
}


@pytest.mark.parametrize(("unit", "text"), [(unit, text) for unit, texts in REPEATED.items() for text in texts])
def test_one_repeated_unit(unit: str, text: str) -> None:
    for letter, number in (("u", 1), ("a", 2)):
        code, why = refusal(turns("ua", **{letter: text}))
        assert code == "data-one-character"
        assert why.startswith(f"turn {number}")
        assert repr(unit) in why
    with pytest.raises(RowError, match="text is nothing but") as error:
        check_text(text)
    assert error.value.code == "data-one-character"


@pytest.mark.parametrize(
    "text",
    [
        "aaaaaaa",  # seven
        "4",
        "1000000000",
        "bye-bye, bye-bye",
        "tick tick",
        "tock tock tock",
        "12341234",
        "hahaha, that is a good one",
        "Above\n----------------\nbelow",
        "----------------------------------------------------------------\nTitle",
        "a" * 4999 + "b",
        "ab" * 3000 + "c",
        "abcde" * 100,
    ],
)
def test_no_repeated_unit(text: str) -> None:
    assert check(Conversation(turns("ua", a=text))) == []
    check_text(text)


@given(st.text("ab \n", max_size=40))
@settings(max_examples=300, deadline=None, database=None)
def test_a_repeated_unit_is_what_the_definition_says(text: str) -> None:
    bare = "".join(text.split())
    units = [bare[:n] for n in range(1, 5) if len(bare) >= max(8, 4 * n)]
    wanted = next((unit for unit in units if (unit * len(bare))[: len(bare)] == bare), None)
    assert checks.repeated_unit(text) == wanted


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        (turns("ua", a="a\ud83d"), None),
        (turns("ua", u="你\udc00"), None),
        ([*turns("u"), {"role": "assistant", "content": "4", "reasoning_content": "\ud83d"}], None),
        ([*turns("u"), {"role": "assistant", "content": "", "tool_calls": [call(arguments={"a": "\ud83d"})]}], [ADD]),
        (turns("ua"), [{**ADD, "description": "\ud83d"}]),
    ],
    ids=["answer", "question", "reasoning", "arguments", "tools"],
)
def test_half_of_a_character(messages: list[dict], tools: list | None) -> None:
    assert refusal(messages, tools)[0] == "data-lone-surrogate"
    assert check(Conversation(turns("ua", a="你好 😀"))) == []


@pytest.mark.parametrize(
    ("tools", "calls", "text"),
    [
        ([3], [], "tool 1 has no function name"),
        ([ADD, {"description": "Adds"}], [], "tool 2 has no function name"),
        ([{"type": "function", "function": "add"}], [], "tool 1 has no function name"),
        ([{"name": ["add"]}], [], "tool 1 has no function name"),
        ([{"type": "function", "function": {"name": "add", "parameters": "a: int"}}], [], "parameters of tool add"),
        ([ADD], [call("subtract")], "turn 2 calls subtract, which is not among the tools: add"),
        ([ADD], [call(), call(None)], "turn 2 calls a tool without a name"),
        (None, [call("")], "turn 2 calls a tool without a name"),
        (None, [call({})], "turn 2 calls a tool without a name"),
        ([ADD], [call(arguments=[1])], "turn 2 calls add with arguments that are no object"),
        (None, [call(arguments="a=1")], "turn 2 calls add with arguments that are no object"),
    ],
)
def test_tools_and_calls_that_do_not_fit(tools: list | None, calls: list, text: str) -> None:
    answer = {"role": "assistant", "content": "I add.", **({"tool_calls": calls} if calls else {})}
    code, why = refusal([*turns("u"), answer], tools)
    assert code == "data-tool-schema"
    assert text in why


@pytest.mark.parametrize(
    "tool", [ADD, {"type": "function", "function": ADD}, {"name": "add"}, {"name": "add", "parameters": None}]
)
def test_tools_that_fit(tool: dict) -> None:
    assert check(Conversation(turns("ucta"), [tool])) == []


def test_calls_without_any_tools_listed_are_a_warning() -> None:
    assert check(Conversation(turns("ucta"))) == [("data-tools-not-listed", "turn 2 calls add")]


@pytest.mark.parametrize(
    ("order", "text"),
    [("uau", "1 turn after the last answer"), ("uct", "1 turn after"), ("uctt", "2 turns after")],
)
def test_turns_after_the_last_answer_are_a_warning(order: str, text: str) -> None:
    ((code, why),) = check(Conversation(turns(order), [ADD]))
    assert code == "data-trailing-turn"
    assert why.startswith(text)


def test_plain_text() -> None:
    check_text("Once upon a time.")
    for text, code in ((" \n", "data-field-empty"), ("\ud800 here", "data-lone-surrogate")):
        with pytest.raises(RowError) as error:
            check_text(text)
        assert error.value.code == code


def test_every_code_says_why_and_what_to_do() -> None:
    raised = {
        code
        for module in (formats, checks)
        for code in re.findall(r'"(data-[a-z-]+)"', Path(module.__file__).read_text("utf-8"))
    }
    of_files = {"data-format-unknown", "data-column-unknown"}  # findings with a fix of their own
    assert raised - of_files <= set(WHY) & set(FIX)
    assert {*ERRORS, *WARNINGS} <= set(WHY)
    assert set(FIX) <= set(WHY)


def test_every_explained_code_is_raised() -> None:
    kit = Path(codes.__file__).parents[2]
    files = {*(kit / "data").rglob("*.py"), *(kit / "prompt").rglob("*.py")} - {Path(codes.__file__)}
    text = "".join(path.read_text("utf-8") for path in files)
    assert [code for code in WHY if f'"{code}"' not in text] == []


@given(order=st.text("suatc", max_size=7), listed=st.booleans())
@settings(max_examples=500, deadline=None, database=None)
def test_any_order_is_trained_on_or_refused_as_the_rule_says(order: str, listed: bool) -> None:
    """The rule as a regular expression, which knows nothing of the checks' loops."""
    good = re.fullmatch(r"s?u((ct*|a)u|ct+(?=[ac]))*(ct*|a)?", order) and re.search("[ac]", order)
    conversation = Conversation(turns(order), [ADD] if listed else None)
    if not good:
        assert refusal(conversation.messages, conversation.tools)[0] in ERRORS
        return
    warnings = dict(check(conversation))
    assert ("data-trailing-turn" in warnings) == (order[-1] not in "ac")
    assert ("data-tools-not-listed" in warnings) == ("c" in order and not listed)
