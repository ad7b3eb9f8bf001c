"""One row of a data file -> one `Example`. A format is keys and a function; `detect` picks it by the rows' keys."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kit.support.errors import USAGE, KitError, RowError, did_you_mean, failure

SAMPLE_ROWS = 100
DEEPEST_LEVELS = 50  # of tools and their arguments; deeper JSON is broken, and templates that walk it run out of stack
OTHER_ROLES = {
    "system": ("developer",),
    "user": ("human", "prompter"),
    "assistant": ("gpt", "model", "bot", "chatbot", "ai", "function_call"),
    "tool": ("function", "observation", "ipython"),
}
ROLES = {name: role for role, others in OTHER_ROLES.items() for name in (role, *others)}  # in small letters


@dataclass(frozen=True)
class Conversation:
    """Messages in the form chat templates take, with the tools they may call."""

    messages: list[dict[str, Any]]
    tools: list | None = None


@dataclass(frozen=True)
class Example:
    """What one row teaches: one conversation, the chosen and the rejected one of a pair, or plain text."""

    conversations: tuple[Conversation, ...]
    text: str | None = None
    good: bool = True  # False: its annotators marked the answer as bad (KTO)


@dataclass(frozen=True)
class Format:
    """A row has this format if it has all `keys`, and those of one of the formats it `wraps`."""

    name: str
    keys: tuple[str, ...]
    purpose: Literal["answers", "text", "preferences"]
    convert: Callable[[dict[str, Any]], Example]
    wraps: tuple["Format", ...] = ()

    @property
    def option(self) -> str:
        """The name as it is typed: --data-format chat-messages"""
        return self.name.lower().replace(" ", "-").replace("/", "-")

    @property
    def shape(self) -> str:
        """The keys as text."""
        return " and ".join(self.keys) + (" beside the keys of another format" if self.wraps else "")

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has every key, with a value."""
        has_keys = all(row.get(key) is not None for key in self.keys)
        return has_keys and (not self.wraps or any(form.fits(row) for form in self.wraps))


def by_name(name: str) -> Format:
    """The format that is called so on the command line. Raises KitError."""
    known = {form.option: form for form in FORMATS}
    if name in known:
        return known[name]
    what = f"There is no format {name}. {did_you_mean(name, known)}".rstrip()
    why = "A format says which keys of a row are the question and the answer."
    fixes = (f"--data-format {option:<18}({form.shape})" for option, form in known.items())
    raise failure("unknown-format", what, why, *fixes, status=USAGE)


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise KitError for a mapping from a key that no format has: it would change nothing, in silence."""
    known = {key for form in FORMATS for key in form.keys} | OPTIONAL_KEYS
    for key in (key for key in columns if key not in known):
        what = f"No format has a key {key}. {did_you_mean(key, known)}".rstrip()
        why = f"--data-columns {key}={columns[key]} reads ours=theirs, and {key} is none of ours."
        raise failure("data-column-unknown", what, why, f"our keys: {', '.join(sorted(known))}", status=USAGE)


def detect(
    rows: Sequence[Any], columns: Mapping[str, str] | None = None, origin: str = "the file"
) -> tuple[Format, str]:
    """The format that most of the first rows fit, and the reason; unreadable rows (RowError) are passed over.

    A row that fits several formats has the one with the most mapped columns. Raises KitError.
    """
    columns = columns or {}
    sample = [row for row in rows if not isinstance(row, RowError)][:SAMPLE_ROWS]
    order = sorted(FORMATS, key=lambda form: -len(columns.keys() & form.keys))
    fitting: Counter[Format] = Counter()
    for row in sample:
        if isinstance(row, dict):
            renamed = row | {key: row.get(column) for key, column in columns.items()}
            views = (renamed, dict.fromkeys(renamed, True))  # where values are null, the keys alone must do
            if form := next((form for view in views for form in order if form.fits(view)), None):
                fitting[form] += 1
    if not fitting:
        raise _unknown_format(sample, origin)
    best, count = fitting.most_common(1)[0]
    return best, f"{count} of the first {len(sample)} rows have {best.shape}"


def _unknown_format(sample: Sequence[Any], origin: str) -> KitError:
    first = sample[0] if sample else None
    keys = ", ".join(map(str, first))[:200] if isinstance(first, dict) else _kind(first)
    keys = keys.encode(errors="backslashreplace").decode()  # a lone surrogate could not be printed
    return failure(
        "data-format-unknown",
        f"The rows of {origin} are in no known format.",
        "Their keys say what is the question and what the answer, and none of the sets of keys below fits.",
        "--data-columns question=COLUMN answer=COLUMN     (the file's names of the two columns)",
        *(f"{form.name}: {{{form.shape}}}" for form in FORMATS),
        details={"the first row has": keys if sample else "nothing that can be read"},
    )


def convert(row: Any, format: Format, columns: Mapping[str, str]) -> Example:
    """What one row teaches; `columns` maps our key to the file's column. Raises RowError."""
    if not isinstance(row, dict):
        raise RowError("data-row-format", f"{_kind(row)} where an object should be")
    for key, column in columns.items():
        if column not in row:
            raise RowError("data-field-missing", f"no {column} (the column mapped to {key})")
    row = row | {key: row[column] for key, column in columns.items()}
    missing = [key for key in format.keys if key not in row]
    if not missing:
        return format.convert(row)
    if other := next((form for form in FORMATS if form.fits(row)), None):
        raise RowError("data-mixed-formats", f"{other.name} ({other.shape}) among rows of {format.name}")
    raise RowError("data-field-missing", f"no {' and no '.join(missing)}")


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError("data-field-not-text", f"{key} is {_kind(value)}, not text")
    return value


def _kind(value: Any) -> str:
    """What a value is, in the words of JSON."""
    kinds = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def _json(value: str, field: str, code: str = "data-field-not-json") -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError(code, f"{field} does not parse as JSON: {error}") from None


def _nests_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(item, levels - 1) for item in items)


def _turns(value: Any, field: str) -> list[dict[str, Any]]:
    """Messages from a list of {role, content} or {from, value}; a table's cell holds that list as JSON text."""
    if value is None:
        raise RowError("data-field-missing", f"{field} is null")
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value, field)
    if not isinstance(value, list):
        raise RowError("data-field-not-text", f"{field} is {_kind(value)}, not a list of turns")
    messages = []
    for number, turn in enumerate(value, start=1):
        try:
            messages.append(_turn(turn))
        except RowError as error:
            raise RowError(error.code, f"turn {number} of {field}: {error}") from None
    return messages


def _turn(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise RowError("data-field-not-text", f"{_kind(turn)}, not an object with role and content")
    return sharegpt_message(turn) if "from" in turn else _message(turn)


def sharegpt_message(turn: dict[str, Any]) -> dict[str, Any]:
    """One {from, value} turn as a chat message."""
    role, value = _role(turn.get("from")), _text(turn, "value")
    if turn["from"] != "function_call":
        return {"role": role, "content": value}
    calls = _json(value, "function_call")
    return {"role": role, "content": "", "tool_calls": _calls(calls if isinstance(calls, list) else [calls])}


def _message(turn: dict[str, Any]) -> dict[str, Any]:
    if "role" not in turn:
        raise RowError("data-field-missing", "no role")
    message: dict[str, Any] = {"role": _role(turn["role"]), "content": ""}
    content = turn.get("content")
    if isinstance(content, list):
        _add_parts(message, content)
    else:
        message["content"] = _text(turn, "content")
    for key in ("reasoning_content", "name", "tool_call_id"):
        if turn.get(key):
            message[key] = _text(turn, key)
    if turn.get("tool_calls"):
        message["tool_calls"] = message.get("tool_calls", []) + _calls(turn["tool_calls"])
    return message


def _add_parts(message: dict[str, Any], parts: list[Any]) -> None:
    """Content that comes as a list of typed parts: text, reasoning, tool calls."""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        value = next((part[key] for key in ("value", "text") if part.get(key) is not None), "") if kind else None
        if kind == "tool_call":
            call = _json(value, "tool_call") if isinstance(value, str) else value
            message.setdefault("tool_calls", []).extend(_calls([call]))
        elif kind in ("text", "reasoning") and isinstance(value, str):
            key = "content" if kind == "text" else "reasoning_content"
            message[key] = message.get(key, "") + value
        else:
            shown = repr(kind[:40]) if isinstance(kind, str) else _kind(kind)
            raise RowError("data-field-not-text", f"content holds a part of type {shown} that is no text")


def _role(name: Any) -> str:
    if isinstance(name, str) and (role := ROLES.get(name.strip().casefold())):
        return role
    shown = repr(name[:40]) if isinstance(name, str) else _kind(name)
    raise RowError("data-role-unknown", f"role {shown} is none of {', '.join(OTHER_ROLES)}, nor another name of them")


def _calls(calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise RowError("data-tool-schema", f"tool_calls is {_kind(calls)}, not a list")
    return [_call(call) for call in calls]


def _call(call: Any) -> dict[str, Any]:
    """One call as templates take it; OpenAI gives the arguments as JSON text, which a template would quote again."""
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict):
        raise RowError("data-tool-schema", f"a tool call is {_kind(function)}, not an object with name and arguments")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    named = {"name": function.get("name"), "arguments": _arguments(function.get("arguments"))}
    return identity | {"type": "function", "function": named}


def _arguments(value: Any) -> Any:
    if isinstance(value, str):
        value = _json(value.strip() or "{}", "the text of arguments", "data-tool-schema")
    if _nests_deeper(value, DEEPEST_LEVELS):
        raise RowError("data-tool-schema", f"the arguments of a tool call nest more than {DEEPEST_LEVELS} levels deep")
    return {} if value is None else value


def _tools(row: Mapping[str, Any]) -> list | None:
    tools = row.get("tools")
    if isinstance(tools, str):
        tools = _json(tools.strip() or "null", "tools")
    if not tools:
        return None
    if not isinstance(tools, list):
        raise RowError("data-tool-schema", f"tools is {_kind(tools)}, not a list")
    if _nests_deeper(tools, DEEPEST_LEVELS):
        raise RowError("data-tool-schema", f"tools nest more than {DEEPEST_LEVELS} levels deep")
    return tools


def _start(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    system = _text(row, "system")
    return [{"role": "system", "content": system}] if system else []


def _said(row: Mapping[str, Any], key: str, role: str) -> list[dict[str, Any]]:
    """The turns of a column that holds one side's text, one turn or a list of them."""
    value = row.get(key)
    if isinstance(value, list):
        return _turns(value, key)
    return [_turn(value)] if isinstance(value, dict) else [{"role": role, "content": _text(row, key)}]


def _answers(row: Mapping[str, Any], messages: list[dict[str, Any]]) -> Example:
    return Example((Conversation(messages, _tools(row)),))


def _from_turns(key: str) -> Callable[[dict[str, Any]], Example]:
    return lambda row: _answers(row, _start(row) + _turns(row[key], key))


def _from_pair(question: str, answer: str) -> Callable[[dict[str, Any]], Example]:
    return lambda row: _answers(row, _start(row) + _said(row, question, "user") + _said(row, answer, "assistant"))


def _from_alpaca(row: dict[str, Any]) -> Example:
    return _answers(row, [*_alpaca_question(row), {"role": "assistant", "content": _text(row, "output")}])


def _alpaca_question(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = _start(row)
    history = row.get("history")
    if not isinstance(history, list | None):
        raise RowError("data-field-not-text", f"history is {_kind(history)}, not a list of [question, answer] pairs")
    for turn in history or []:
        if not (isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise RowError("data-field-not-text", "history holds something that is no [question, answer] pair of texts")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    question = "\n".join(filter(None, (_text(row, "instruction"), _text(row, "input"))))
    return [*messages, {"role": "user", "content": question}]


def _from_preference(row: dict[str, Any]) -> Example:
    question = _preference_question(row)
    chosen, rejected = (_after(question, _said(row, key, "assistant")) for key in ("chosen", "rejected"))
    if chosen == rejected:
        raise RowError("data-pair-same", "chosen and rejected are the same")
    first = next(((ours, theirs) for ours, theirs in zip(chosen, rejected, strict=False) if ours != theirs), ())
    if any(message["role"] != "assistant" for message in first):
        raise RowError("data-pair-questions-differ", "chosen and rejected differ before they come to an answer")
    tools = _tools(row)
    return Example((Conversation(chosen, tools), Conversation(rejected, tools)))


def _preference_question(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The turns before the two answers; none where both are whole conversations."""
    given = ("instruction", "conversations", "messages", "prompt", "question")
    key = next((key for key in given if row.get(key) is not None), None)
    if key == "instruction":
        return _alpaca_question(row)
    if key is None and not isinstance(row["chosen"], list):
        raise RowError("data-field-missing", f"no question in any of {', '.join(given)}")
    return _start(row) + (_said(row, key, "user") if key else [])


def _after(question: list[dict[str, Any]], answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation that ends in this answer, which may be a whole conversation already."""
    first = answer[0]["role"] if answer else "assistant"
    if first in ("assistant", "tool"):
        return question + answer
    return [turn for turn in question if turn["role"] == "system" and first != "system"] + answer


def _from_kto(row: dict[str, Any]) -> Example:
    form = next((form for form in ANSWERS if all(key in row for key in form.keys)), None)
    if form is None:
        names = " or ".join(form.name for form in ANSWERS)
        raise RowError("data-field-missing", f"a label without the keys of {names}")
    label = row["label"]
    if isinstance(label, str):  # a cell of a table
        label = {"true": 1, "1": 1, "false": 0, "0": 0}.get(label.strip().lower(), label)
    if label not in (0, 1):
        shown = repr(label[:40]) if isinstance(label, str) else _kind(label)
        raise RowError("data-label-unknown", f"label is {shown}; it must be true (1) or false (0)")
    return Example(form.convert(row).conversations, good=bool(label))


ANSWERS = (
    Format("chat messages", ("messages",), "answers", _from_turns("messages")),
    Format("ShareGPT", ("conversations",), "answers", _from_turns("conversations")),
    Format("Alpaca", ("instruction", "output"), "answers", _from_alpaca),
    Format("question/answer", ("question", "answer"), "answers", _from_pair("question", "answer")),
    Format("prompt/completion", ("prompt", "completion"), "answers", _from_pair("prompt", "completion")),
)
# The first that fits a row is taken: what another format would overlook comes first.
FORMATS = (
    Format("preference", ("chosen", "rejected"), "preferences", _from_preference),
    Format("KTO", ("label",), "answers", _from_kto, wraps=ANSWERS),
    *ANSWERS,
    Format("text", ("text",), "text", lambda row: Example((), text=_text(row, "text"))),
)
OPTIONAL_KEYS = {"system", "input", "history", "tools"}
