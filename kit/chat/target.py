"""What was named -> the base model, the adapters over it and how each is asked. No torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from envcheck import other_gpus
from envcheck.facts import Facts
from kit import models, prompt
from kit.backend import Loading
from kit.chat.base_model import loading_for, notes_for
from kit.chat.names import UNTUNED, ChatSource, base_of, read_sources
from kit.chat.options import ChatCommand
from kit.models import Model, adapters, quantised
from kit.models.adapters import Adapter
from kit.models.families import ADVISED_SAMPLING
from kit.options.methods import FULL
from kit.options.sampling import Sampling
from kit.prompt import ChatFormat
from kit.support.errors import did_you_mean, failure

BY_NAME = "python -m kit.chat"  # names a model without an option
ADAPTER_FILES = ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json")


@dataclass(frozen=True)
class Target:
    """Whom to talk to: a base model with adapters, or the model of a run that trained every weight. `chats` holds one
    format for each adapter, or one for none.

    whole: that run's name; untuned: the model that it was trained from, where it is loaded too (--compare).
    """

    model: Model
    adapters: tuple[Adapter, ...]
    chats: tuple[ChatFormat, ...]
    loading: Loading  # of the base
    sampling: Sampling
    notes: tuple[str, ...]
    whole: str = ""
    untuned: Model | None = None

    @property
    def names(self) -> list[str]:
        """Of the tuned ones."""
        return [self.whole] if self.whole else [adapter.name for adapter in self.adapters]

    @property
    def indices(self) -> list[int | None]:
        """Of everyone who may be asked; None, the untuned model, first where it is loaded."""
        return [*([] if self.whole and not self.untuned else [None]), *range(len(self.names))]

    @property
    def context_tokens(self) -> int:
        """Positions of the model that no adapter's virtual tokens take."""
        taken = max((adapter.virtual_tokens for adapter in self.adapters), default=0)
        return (self.model.config.get("max_position_embeddings") or 1 << 20) - taken

    def index_of(self, name: str) -> int | None:
        """Of a tuned one; None: the untuned model. Raises KitError: no such adapter, or it is not loaded."""
        if name == UNTUNED and UNTUNED not in self.names:
            self.check_untuned()
            return None
        if name in self.names:
            return self.names.index(name)
        raise failure(
            "unknown-adapter",
            f"There is no adapter {name}. {did_you_mean(name, self.names)}".rstrip(),
            f"Loaded are {', '.join(self.names)}." if self.names else "None is loaded.",
            *(f"/adapter {known}" for known in self.names),
        )

    def check_untuned(self) -> None:
        """Raises KitError: the untuned model is not loaded."""
        if None not in self.indices:
            raise failure(
                "untuned-not-loaded",
                f"The model that {self.whole} was trained from is not loaded.",
                "Every weight was trained: the two are two models, and both take memory.",
                "python -m kit.chat RUN --compare        (loads both)",
            )

    def name(self, index: int | None) -> str:
        return UNTUNED if index is None else self.names[index]

    def chat(self, index: int | None) -> ChatFormat:
        """The untuned model is asked with the template of the first adapter, so that answers can be compared."""
        return self.chats[index or 0]


def find(command: ChatCommand, facts: Facts) -> Target:
    """Everything that can be wrong with what was named is found here, before a library is imported.

    Raises KitError.
    """
    sources = read_sources(command)
    tuned = [(source, source.adapter) for source in sources if source.adapter]
    whole = next((source for source in sources if source.whole_model), None)
    base = str(whole.whole_model) if whole else command.base or base_of(sources)
    option = "--base" if tuned else BY_NAME
    model = models.find(base, option)
    untuned = models.find(command.base or whole.base, "--base") if whole and command.compare else None
    for _, adapter in tuned:
        adapters.check(adapter, model)
    source = next((source for source in sources if source.run), ChatSource(base))
    chats = [_chat_of_adapter(model, adapter, its, command.template) for its, adapter in tuned]
    methods = {FULL} if whole else {adapter.method for _, adapter in tuned}
    loading, sampling = loading_for(command, source, model, facts, methods), sampling_for(command, model)
    for named, by in ((model, option), (untuned, "--base")):
        if named:
            quantised.check_asked(named.name, named.config, loading.load_in_4bit, by, "--load-in-4bit on")
    return Target(
        model=model,
        adapters=tuple(adapter for _, adapter in tuned),
        chats=tuple(chats) or (_chat(model, model.files, source, command.template),),
        loading=loading,
        sampling=sampling,
        notes=(*notes_for(command, source, loading, not sampling.temperature), *other_gpus.notes(facts)),
        whole=whole.name if whole else "",
        untuned=untuned,
    )


def _chat(model: Model, own: Mapping[str, Path], source: ChatSource, template: str) -> ChatFormat:
    """The format of training. own: the files that were saved with what was trained, or are the model's."""
    if template == "auto" and "chat_template.jinja" not in own and source.run:
        template = source.run.template
    return prompt.load(replace(model, files={**model.files, **own}), template)


def _chat_of_adapter(model: Model, adapter: Adapter, source: ChatSource, template: str) -> ChatFormat:
    """What was saved with the adapter wins over what the base model brings."""
    own = {name: adapter.path / name for name in ADAPTER_FILES if (adapter.path / name).is_file()}
    chat = _chat(model, own, source, template)
    is_saved = template == "auto" and "chat_template.jinja" in own
    return replace(chat, template_origin="saved with it") if is_saved else chat


def sampling_for(command: ChatCommand, model: Model) -> Sampling:
    """How answers are drawn: flags over the model's generation_config.json over the advice of Qwen3's makers."""
    names = ("temperature", "top_p", "top_k")
    asked = {name: value for name in names if (value := getattr(command, name)) is not None}
    if not (command.sample or asked) or asked.get("temperature") == 0:
        return Sampling()
    own = {name: model.generation[name] for name in names if model.generation.get(name)}
    return Sampling(**(asdict(ADVISED_SAMPLING[command.thinking]) | own | asked | {"seed": command.seed}))
