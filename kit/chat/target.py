"""What was named -> the base model, the adapters over it and how each is asked. No torch."""

from dataclasses import dataclass, replace

from envcheck.facts import Facts
from kit import models, prompt
from kit.backend import Loading
from kit.chat.loading import loading_for, notes_for
from kit.chat.options import ChatCommand
from kit.chat.sampling import sampling_for
from kit.chat.sources import UNTUNED, ChatSource, base_of, read_sources
from kit.models import Model, adapters
from kit.models.adapters import Adapter
from kit.options.methods import FULL
from kit.options.sampling import Sampling
from kit.prompt import ChatFormat
from kit.support.errors import KitError, did_you_mean, problem

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
        raise KitError(
            problem(
                "unknown-adapter",
                f"There is no adapter {name}. {did_you_mean(name, self.names)}".rstrip(),
                f"Loaded are {', '.join(self.names)}." if self.names else "None is loaded.",
                *(f"/adapter {known}" for known in self.names),
            )
        )

    def check_untuned(self) -> None:
        """Raises KitError: the untuned model is not loaded."""
        if None not in self.indices:
            raise KitError(
                problem(
                    "untuned-not-loaded",
                    f"The model that {self.whole} was trained from is not loaded.",
                    "Every weight was trained: the two are two models, and both take memory.",
                    "python -m kit.chat RUN --compare        (loads both)",
                )
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
    if sources[0].whole_model:
        return _whole(command, sources[0], facts)
    tuned = [(source, source.adapter) for source in sources if source.adapter]
    base = command.base or base_of(sources)
    model = models.find(base, "--base" if tuned else BY_NAME)
    for _, adapter in tuned:
        adapters.check(adapter, model)
    chats = tuple(_chat(model, source, adapter, command.template) for source, adapter in tuned)
    source = next((source for source in sources if source.run), ChatSource(base))
    loading = loading_for(command, source, model, facts, {adapter.method for _, adapter in tuned})
    sampling = sampling_for(command, model)
    return Target(
        model=model,
        adapters=tuple(adapter for _, adapter in tuned),
        chats=chats or (prompt.load(model, command.template),),
        loading=loading,
        sampling=sampling,
        notes=notes_for(command, source, loading, takes_likeliest=not sampling.temperature),
    )


def _whole(command: ChatCommand, source: ChatSource, facts: Facts) -> Target:
    """The model of a run that trained every weight, and with --compare the one that it was trained from."""
    model = models.find(str(source.whole_model), BY_NAME)
    untuned = models.find(command.base or source.base, "--base") if command.compare else None
    template = command.template
    if template == "auto" and "chat_template.jinja" not in model.files and source.run:
        template = source.run.template
    loading = loading_for(command, source, model, facts, {FULL})
    sampling = sampling_for(command, model)
    return Target(
        model=model,
        adapters=(),
        chats=(prompt.load(model, template),),
        loading=loading,
        sampling=sampling,
        notes=notes_for(command, source, loading, takes_likeliest=not sampling.temperature),
        whole=source.name,
        untuned=untuned,
    )


def _chat(model: Model, source: ChatSource, adapter: Adapter, template: str) -> ChatFormat:
    """The format of training: what was saved with the adapter wins over what the base model brings."""
    own = {name: adapter.path / name for name in ADAPTER_FILES if (adapter.path / name).is_file()}
    if template == "auto" and "chat_template.jinja" not in own and source.run:
        template = source.run.template
    found = prompt.load(replace(model, files=model.files | own), template)
    origin = found.template_origin if template != "auto" or "chat_template.jinja" not in own else "saved with it"
    return replace(found, template_origin=origin)
