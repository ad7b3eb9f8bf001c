"""Chat templates as transformers renders them, with jinja2 alone: a model's own template is a program of strangers.

It runs in a sandbox, and whatever goes wrong in it is a TemplateError of one row.
"""

import functools
import json
from collections.abc import Mapping
from datetime import date
from types import BuiltinMethodType
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from kit.support.errors import RowError

# Some templates write the day into the prompt. Data must not change overnight: it is always the day that Llama 3.1's
# template itself falls back to.
TODAY = date(2024, 7, 26)
DICT_METHODS = frozenset(dir(dict))
TEXT_METHODS = frozenset({"startswith", "endswith", "split", "strip", "lstrip", "rstrip"})
LOOP_STATE = frozenset({"first", "last", "index", "index0"})


class TemplateError(RowError):
    """The template cannot render these messages; the text says why."""

    def __init__(self, text: str):
        super().__init__("data-template", text)


def render(template_text: str, variables: Mapping[str, object]) -> str:
    """The template's text for messages and whatever else it names. Raises TemplateError."""
    try:
        template, known = _compiled(template_text)
        return "".join(template.root_render_func(template.new_context({**known, **variables}, shared=True)))
    except jinja2.TemplateError as error:
        raise TemplateError(str(error)) from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise TemplateError(f"the template does not take such messages ({error})") from None


def check_syntax(template_text: str) -> None:
    """Raises TemplateError: it does not parse, with the line."""
    try:
        _compiled(template_text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"line {error.lineno}: {error.message}") from None


@functools.lru_cache  # a template is rendered for every row, and loaded again for every trial of a sweep
def _compiled(text: str) -> tuple[jinja2.Template, dict[str, Any]]:
    """The template, and what it may name besides the messages."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": TODAY.strftime}
    return environment.from_string(text), dict(environment.globals)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a short way to what templates ask for in every row: it takes half of the time."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """What the sandbox gives too: keys of messages, harmless methods of text, the state of a loop."""
        kind = type(obj)
        if kind is dict and attribute not in DICT_METHODS:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if (kind is str and attribute in TEXT_METHODS) or (kind is LoopContext and attribute in LOOP_STATE):
            return getattr(obj, attribute)
        if kind is Namespace and not attribute.startswith("_"):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call(self, context: Context, obj: Any, *args: Any, **options: Any) -> Any:
        """Harmless methods of text need no look at what they are."""
        if type(obj) is BuiltinMethodType and type(obj.__self__) is str and obj.__name__ in TEXT_METHODS:
            options.pop("_loop_vars", None)  # jinja2's own, for functions that ask for its context
            options.pop("_block_vars", None)
            return obj(*args, **options)
        return super().call(context, obj, *args, **options)


class _Generation(Extension):
    """{% generation %} marks the answer in some templates for transformers; here its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
