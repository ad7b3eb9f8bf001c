"""The chat templates that come with the kit, one .jinja file each."""

import re
from pathlib import Path

from kit.support.errors import did_you_mean, failure

HEAD = re.compile(r"\A\{#-(?:(?!#\}).)*?end token: *([^\n]+?) *(?:-#\}|\n)", re.DOTALL)
MODELS_OWN_END_TOKEN = "the model's own"


def templates_folder() -> Path:
    """templates/ of the clone, or the copy of it that an installed kit carries inside this package."""
    installed = Path(__file__).parent / "templates"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "templates"


def template_names() -> list[str]:
    return sorted(path.stem for path in templates_folder().glob("*.jinja"))


def read_template(name: str) -> tuple[str, str]:
    """Text and origin of a template of the kit. Raises KitError."""
    names = template_names()
    if name not in names:
        what = f"There is no template {name}. {did_you_mean(name, names)}".rstrip()
        fixes = (f"--template {known}" for known in ("auto", *names))
        raise failure("unknown-template", what, "Templates are the files in templates/.", *fixes)
    return (templates_folder() / f"{name}.jinja").read_text("utf-8"), f"templates/{name}.jinja"


def is_of_the_kit(text: str) -> bool:
    """Whether a template has the head that those of the kit begin with."""
    return HEAD.match(text) is not None


def end_token_of(text: str, models_own: str) -> str:
    """The token that the head of a template names as the end of an answer, or the model's own."""
    head = HEAD.match(text)
    return head[1] if head and head[1] != MODELS_OWN_END_TOKEN else models_own
