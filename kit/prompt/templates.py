"""The chat templates that come with the kit, one .jinja file each."""

import re
from pathlib import Path

from kit.prompt.rendering import TemplateError, check_syntax
from kit.support.carried import carried_folder
from kit.support.errors import describe_error, did_you_mean, failure
from kit.support.user_shell import shell

HEAD = re.compile(r"\A\{#-(?:(?!#\}).)*?end token: *([^\n]+?) *(?:-#\}|\n)", re.DOTALL)
NO_THINKING = "{%- if enable_thinking is not defined %}{% set enable_thinking = false %}{% endif %}"
NEVER_THINKING = "{%- set enable_thinking = false %}"
MODELS_OWN_END_TOKEN = "the model's own"


def templates_folder() -> Path:
    """templates/ of the clone, or the copy of it that an installed kit carries inside this package."""
    return carried_folder(Path(__file__).parent / "templates", "templates")


def template_names() -> list[str]:
    return sorted(path.stem for path in templates_folder().glob("*.jinja"))


def is_file(name: str) -> bool:
    """Whether --template names a file of the user's, not one of the kit's templates."""
    return name.endswith(".jinja")


def read_template(name: str) -> tuple[str, str]:
    """Text and origin of a template of the kit, or of a .jinja file. Raises KitError."""
    if is_file(name):
        return _read_file(Path(name).expanduser())
    names = template_names()
    if name not in names:
        what = f"There is no template {name}. {did_you_mean(name, names)}".rstrip()
        fixes = (f"--template {known}" for known in ("auto", *names, "path/to/template.jinja"))
        raise failure("unknown-template", what, "Templates are the files in templates/, or a .jinja file.", *fixes)
    return (templates_folder() / f"{name}.jinja").read_text("utf-8"), f"templates/{name}.jinja"


def _read_file(path: Path) -> tuple[str, str]:
    try:
        text = path.read_text("utf-8")
        check_syntax(text)
    except (OSError, ValueError) as error:  # not UTF-8 is a ValueError too
        what = f"The template {path} cannot be read."
        raise failure("template-unreadable", what, describe_error(error), shell().show_rights(str(path))) from None
    except TemplateError as error:
        what = f"{path} is no chat template."
        fix = "mend the file: templates/chatml.jinja is a short one to compare with"
        raise failure("template-unreadable", what, str(error), fix) from None
    return text, str(path)


def is_of_the_kit(text: str) -> bool:
    """Whether a template has the head that those of the kit begin with."""
    return HEAD.match(text) is not None


def switched_off(text: str) -> str:
    """The template in which enable_thinking is false where nothing is said; the head stays the head."""
    head = HEAD.match(text)
    end = text.index("#}", head.start()) + len("#}") if head else 0
    return text[:end] + NO_THINKING + text[end:]


def never_thinking(text: str) -> str:
    """Such a template for a GGUF file: llama.cpp's server says enable_thinking itself where a client says nothing."""
    return text.replace(NO_THINKING, NEVER_THINKING)


def end_token_of(text: str) -> str:
    """The token that the head of a template names as the end of an answer; "" where it is the model's own."""
    head = HEAD.match(text)
    return head[1] if head and head[1] != MODELS_OWN_END_TOKEN else ""
