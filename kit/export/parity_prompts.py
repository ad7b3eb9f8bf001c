"""What a tuned model and its exports are asked, as the run asks it, and rows it has not trained on."""

from dataclasses import dataclass, replace
from typing import Any

from kit import prompt
from kit.export.tuned_model import Tuned
from kit.models import Model, read_json, small_files
from kit.prompt import ChatFormat
from kit.support.errors import KitError

# One for each thing that goes wrong on the way into another format: system text, turns, other scripts, signs beyond
# the basic plane, blanks and line ends, digits, marks that look like the template's own.
CONVERSATIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Who are you?"),),
    (("system", "Answer in one sentence."), ("user", "What is the capital of France?")),
    (("user", "Hello!"), ("assistant", "Hello. What can I do for you?"), ("user", "Tell me a joke.")),
    (("user", "请用一句话介绍你自己。"),),
    (("user", "Natalia sold clips to 48 of her friends in April, and then half as many in May. How many altogether?"),),
    (("user", "def add(a, b):\n\treturn a + b\n\n\nWhat does   this do? 🤖 naïve Ωmega 12345.678 it's"),),
    (("user", "List three colours:\n1. red\r\n2. <b>blue</b>\n3. {{ green }}"),),
    (("user", "Über den Wolken — was kommt danach? Привет, 안녕하세요, שלום"),),
)
PLAIN = (
    "Once upon a time",
    "The little girl went to the park and",
    "One day, a boy named Tim",
    "In the morning the sun",
)
HELD_OUT_ROWS, LONGEST_TOKENS = 16, 256
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class ParityPrompts:
    """texts, ids: of the conversations, as the tuned model is asked; default_texts: where nothing is said of thinking.
    sequences: all that logits are compared on.

    origin: where they are from, in words. plain: the texts for a model without a chat template.
    """

    chat: ChatFormat | None
    conversations: list[Messages]
    texts: list[str]
    default_texts: list[str]
    ids: list[list[int]]
    sequences: list[list[int]]
    origin: str
    plain: tuple[str, ...] = ()


def _chat_of(adapter: Tuned, base: Model) -> ChatFormat | None:
    """Tokenizer and template as in training: the base's with the template that was saved with what was trained, or all
    that was saved with it. None: there is none."""
    saved = adapter.path / "chat_template.jinja"
    added = adapter.run.train_added_tokens if adapter.run else ()
    if adapter.run and saved.is_file():
        return prompt.load(replace(base, files=base.files | {saved.name: saved}), "auto", added)
    model = Model(adapter.name, str(adapter.path), base.config, base.files | small_files(adapter.path))
    settings = read_json(model.files["tokenizer_config.json"]) if "tokenizer_config.json" in model.files else {}
    if "chat_template.jinja" not in model.files and not settings.get("chat_template"):
        return None
    return prompt.load(model, "auto")


def collect(adapter: Tuned, base: Model) -> ParityPrompts:
    """The fixed conversations, the run's own questions, and held-out rows where its data is still there.

    Raises KitError: a template that cannot be read.
    """
    chat = _chat_of(adapter, base)
    if chat is None:
        return _plain(adapter)
    tried = [[{"role": role, "content": text} for role, text in turns] for turns in CONVERSATIONS]
    tried += [[{"role": "user", "content": text}] for text in (adapter.run.prompts if adapter.run else ())]
    conversations = [chat.placed(messages) for messages in tried if _takes(chat, messages)]
    texts = [chat.question(messages) for messages in conversations]
    default_texts = [chat.default_question(messages) for messages in conversations]
    ids = [chat.prompt_ids(messages) for messages in conversations]
    rows = _held_out(adapter, chat)
    origin = f"{len(conversations)} conversations" + (f" and {len(rows)} held-out rows" if rows else "")
    return ParityPrompts(chat, conversations, texts, default_texts, ids, [*ids, *rows], origin)


def _takes(chat: ChatFormat, messages: Messages) -> bool:
    """A template may refuse a system text; a typed special token is plain text to the kit, and not to other tools."""
    try:
        chat.question(messages)
    except ValueError:
        return False
    return not any(chat.encoder.first_special_token(message["content"]) for message in messages)


def _plain(adapter: Tuned) -> ParityPrompts:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(adapter.path / "tokenizer.json"))
    ids = [tokenizer.encode(text).ids for text in PLAIN]
    return ParityPrompts(None, [], list(PLAIN), [], ids, ids, f"{len(ids)} plain texts (no chat template)", PLAIN)


def _held_out(adapter: Tuned, chat: ChatFormat) -> list[list[int]]:
    """Questions with their answers, from the run's data; none where it is gone or has changed since."""
    run = adapter.run
    if run is None or not run.data:
        return []
    from kit import data

    try:
        rows = data.read(run, chat)
    except (KitError, OSError):
        return []
    return [rows.held_out[number].ids[:LONGEST_TOKENS] for number in range(min(HELD_OUT_ROWS, len(rows.held_out)))]
