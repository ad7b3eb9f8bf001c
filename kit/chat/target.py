"""RUN, ADAPTER or MODEL -> the base model, the adapters over it and how each is asked. No torch."""

import re
from collections.abc import Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from envcheck import settings
from envcheck.facts import Facts, Finding
from kit import models, prompt
from kit.chat.options import ChatCommand
from kit.models import Model, adapters
from kit.models.adapters import Adapter
from kit.models.families import ADVISED_SAMPLING
from kit.options import Method, Run, resolve
from kit.options.methods import FULL, IN_UNSLOTH
from kit.options.sampling import Sampling
from kit.prompt import ChatFormat
from kit.run import reading, tuned
from kit.run.layout import ADAPTER, OPTIONS
from kit.support.errors import USAGE, KitError, did_you_mean, problem

UNTUNED = "base"  # what the untuned model is called
BY_NAME = "python -m kit.chat"  # names a model without an option
ADAPTER_FILES = ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json")


@dataclass(frozen=True)
class ChatSource:
    """What one word of the command line stands for: `run` is that of its run.toml, and `settled` what its machine
    chose; `adapter` is None for a bare model. whole: the model's folder of a run that trained every weight."""

    base: str
    adapter: Adapter | None
    run: Run | None = None
    settled: dict[str, Any] | None = None
    whole: Path | None = None
    name: str = ""


@dataclass(frozen=True)
class Target:
    """Whom to talk to: a base model with adapters, or the model of a run that trained every weight. `chats` holds one
    format for each adapter, or one for none.

    whole: that run's name; untuned: the model that it was trained from, where it is loaded too (--compare).
    """

    model: Model
    adapters: tuple[Adapter, ...]
    chats: tuple[ChatFormat, ...]
    run: Run  # how the base is loaded
    notes: tuple[str, ...]
    whole: str = ""
    untuned: Model | None = None

    @property
    def names(self) -> list[str]:
        """Of the tuned ones, in the order of their places."""
        return [self.whole] if self.whole else [adapter.name for adapter in self.adapters]

    @property
    def places(self) -> list[int | None]:
        """Everyone who may be asked, the untuned model (None) first where it is loaded."""
        tuned = list(range(len(self.names)))
        return tuned if self.whole and not self.untuned else [None, *tuned]

    @property
    def context_tokens(self) -> int:
        """Positions of the model that no adapter's virtual tokens take."""
        taken = max((adapter.virtual_tokens for adapter in self.adapters), default=0)
        return (self.model.config.get("max_position_embeddings") or 1 << 20) - taken

    def place(self, name: str) -> int | None:
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
        if None not in self.places:
            raise KitError(
                problem(
                    "untuned-not-loaded",
                    f"The model that {self.whole} was trained from is not loaded.",
                    "Every weight was trained: the two are two models, and both take memory.",
                    "python -m kit.chat RUN --compare        (loads both)",
                )
            )

    def name(self, place: int | None) -> str:
        return UNTUNED if place is None else self.names[place]

    def chat(self, place: int | None) -> ChatFormat:
        """The untuned model is asked with the template of the first adapter, so that answers can be compared."""
        return self.chats[place or 0]


def find(command: ChatCommand, facts: Facts) -> Target:
    """Everything that can be wrong with what was named is found here, before a library is imported.

    Raises KitError.
    """
    sources = _sources(command)
    if sources[0].whole:
        return _whole(command, sources[0], facts)
    base = command.base or _one_base(sources)
    model = models.find(base, "--base" if any(source.adapter for source in sources) else BY_NAME)
    found = tuple(source.adapter for source in sources if source.adapter)
    _check_one_kind(found)
    for adapter in found:
        adapters.check(adapter, model)
    chats = tuple(_chat(model, source, command.template) for source in sources if source.adapter)
    run = next((source for source in sources if source.run), ChatSource(base, None))
    settled, notes = _how_to_load(command, run, model, facts, {adapter.method for adapter in found})
    return Target(model, found, chats or (prompt.load(model, command.template),), settled, notes)


def _whole(command: ChatCommand, source: ChatSource, facts: Facts) -> Target:
    """The model of a run that trained every weight, and with --compare the one that it was trained from."""
    model = models.find(str(source.whole), BY_NAME)
    untuned = models.find(command.base or source.base, "--base") if command.compare else None
    template = command.template
    if template == "auto" and "chat_template.jinja" not in model.files and source.run:
        template = source.run.template
    settled, notes = _how_to_load(command, source, model, facts, {FULL})
    return Target(model, (), (prompt.load(model, template),), settled, notes, source.name, untuned)


def _sources(command: ChatCommand) -> list[ChatSource]:
    named = [pair.partition("=") for pair in command.add]
    sources = [_source(what) for what in command.what] + [_source(path, name) for name, _, path in named]
    found = [source.adapter.name for source in sources if source.adapter]
    twice = sorted({name for name in found if found.count(name) > 1 or name == UNTUNED})
    if twice:
        raise KitError(
            problem(
                "adapter-name-twice",
                f"{twice[0]} is the name of two adapters, or of the untuned model.",
                "/adapter NAME must say which one is meant.",
                f"--add {twice[0]}-2=FOLDER",
            ),
            status=USAGE,
        )
    if len(sources) > 1 and (whole := next((source for source in sources if source.whole), None)):
        raise KitError(_not_alone(whole), status=USAGE)
    models_only = [source.base for source in sources if not source.adapter]
    if len(set(models_only)) > 1:
        raise KitError(_two_bases(models_only))
    return sources


def _source(what: str, name: str = "") -> ChatSource:
    path = Path(what).expanduser()
    run_folder = tuned.run_folder(path)
    if run_folder:
        run = _run(run_folder)
        if whole := tuned.whole_model(path):
            return ChatSource(
                run.model, None, run, reading.chosen(run_folder), whole, name or run_folder.resolve().name
            )
        return ChatSource(run.model, tuned.find_adapter(path, name), run, reading.chosen(run_folder))
    if not name and (not path.is_dir() or (path / "config.json").is_file()):
        return ChatSource(what, None)
    adapter = tuned.find_adapter(path, name)
    return ChatSource(adapter.base, adapter)


def _run(path: Path) -> Run:
    try:
        return reading.read_options(path)
    except (OSError, ValueError) as error:
        raise KitError(
            problem(
                "run-unreadable",
                f"{path / OPTIONS} cannot be read.",
                str(error).splitlines()[0],
                f"python -m kit.chat {path / ADAPTER} --base MODEL        (the adapter alone)",
            )
        ) from None


def _one_base(sources: list[ChatSource]) -> str:
    """The base that all of them name. Raises KitError: none, or several."""
    bases = [source.base for source in sources]
    if "" in bases or not bases:
        raise KitError(
            problem(
                "base-unknown",
                "The adapter does not say which model it was trained on.",
                "Over another model its answers mean nothing.",
                "--base OWNER/NAME        (or the model's folder)",
            )
        )
    if len({_same(base) for base in bases}) > 1:
        raise KitError(_two_bases(bases))
    first = sources[0]
    if first.adapter and _is_path(first.base) and not Path(first.base).expanduser().exists():
        raise KitError(_base_gone(first.base))
    return first.base


def _same(base: str) -> str:
    folder = models.TINY if base == "tiny" else Path(base).expanduser()
    return str(folder.resolve()) if folder.is_dir() else base


def _is_path(base: str) -> bool:
    return base.startswith((".", "/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", base) is not None


def _not_alone(source: ChatSource) -> Finding:
    return problem(
        "whole-model-stands-alone",
        f"{source.name} is a whole model, and was named with others.",
        "Adapters share one base in memory; this run trained every weight, and shares it with none.",
        f"python -m kit.chat {source.whole.parent}        (--compare: beside the model it was trained from)",
        "start kit.chat once more for the others",
    )


def _setting(adapter: Adapter) -> tuple[str, ...]:
    """Kind, and what of IA3 and MiSS PEFT takes from the first adapter for all."""
    name = {"IA3": "feedforward_modules", "MISS": "init_weights"}.get(adapter.kind)
    value = adapter.config.get(name) if name else None
    return (adapter.kind, *(sorted(map(str, value)) if isinstance(value, list) else [str(value)]))


def _check_one_kind(found: tuple[Adapter, ...]) -> None:
    """PEFT holds adapters of one kind over a model; some kinds, only with one setting.

    Raises KitError: they are of several.
    """
    if len({_setting(adapter) for adapter in found}) > 1:
        names = [f"{adapter.name} ({adapter.method.name})" for adapter in found]
        raise KitError(
            problem(
                "adapters-of-two-kinds",
                f"{' and '.join(names)} cannot share one base.",
                "PEFT holds adapters of one kind over a model (lora, rslora and dora are one kind), set alike.",
                "start kit.chat once for each of them",
            )
        )


def _base_gone(base: str) -> Finding:
    return problem(
        "base-missing",
        f"The base model {base} is not there.",
        "An adapter is only the change to its base: without that model it cannot answer.",
        "--base FOLDER            (where the model lies now)",
        "--base OWNER/NAME        (its name on the hub)",
    )


def _two_bases(bases: list[str]) -> Finding:
    first, other = list(dict.fromkeys(bases))[:2]
    return problem(
        "adapters-of-two-bases",
        f"{first} and {other} are two models, and one is loaded at a time.",
        "An adapter only means something over the very model it was trained on.",
        "start kit.chat once for each of them",
        f"--base {first}        (if both are the same model by two names)",
    )


def _chat(model: Model, source: ChatSource, template: str) -> ChatFormat:
    """The format of training: what was saved with the adapter wins over what the base model brings."""
    own = {name: source.adapter.path / name for name in ADAPTER_FILES if (source.adapter.path / name).is_file()}
    if template == "auto" and "chat_template.jinja" not in own and source.run:
        template = source.run.template
    found = prompt.load(replace(model, files=model.files | own), template)
    origin = found.template_origin if template != "auto" or "chat_template.jinja" not in own else "saved with it"
    return replace(found, template_origin=origin)


def _how_to_load(
    command: ChatCommand, source: ChatSource, model: Model, facts: Facts, methods: Set[Method] = frozenset()
) -> tuple[Run, tuple[str, ...]]:
    """A Run that says how the base is loaded, for adapters of those methods, and what is not as it was in training."""
    trained, before = source.run, source.settled or {}
    if command.device == "cuda" and settings.best_card(facts) is None:
        raise KitError(_no_card())
    run = Run(
        model=model.name,
        device=command.device,
        precision=command.precision,
        load_in_4bit=_in_4bit(command, trained),
        gradient_checkpointing="off",
        embedding_offload="off",
        attention="sdpa",
        max_length_tokens=model.config.get("max_position_embeddings") or 1024,
    )
    settled, _ = resolve.settle(run, facts)
    same = {"backend": _backend(command, settled, methods)}
    if trained and before.get("device", trained.device) in (settled.device, "auto"):  # on a machine of its kind
        names = ("attention", "precision") if command.precision == "auto" else ("attention",)
        ways = {name: before.get(name, getattr(trained, name)) for name in names}
        same |= {name: way for name, way in ways.items() if way != "auto"}
    settled = settled.model_copy(update=same)
    return settled, _notes(command, trained, settled, model)


def _backend(command: ChatCommand, settled: Run, methods: Set[Method]) -> str:
    """Raises KitError: Unsloth was asked for a method that it does not know."""
    others = sorted(method.name for method in methods if not method.in_unsloth)
    if others and command.backend == "unsloth":
        raise KitError(
            problem(
                "unsloth-without-method",
                f"Unsloth does not know {' and '.join(others)}.",
                f"Its model is changed in ways that only {' and '.join(IN_UNSLOTH)} were tried with.",
                "--backend hf",
            )
        )
    return command.backend if command.backend != "auto" or (settled.device == "cuda" and not others) else "hf"


def _no_card() -> Finding:
    return problem(
        "no-usable-gpu",
        "--device cuda asks for a graphics card and none can be used here.",
        "No NVIDIA card was found, or it is hidden from this program.",
        "python -m envcheck           (says what is wrong with the card)",
        "--device cpu",
    )


def _in_4bit(command: ChatCommand, trained: Run | None) -> bool:
    asked = {"on": True, "off": False}.get(command.load_in_4bit)
    return asked if asked is not None else bool(trained and trained.load_in_4bit)


def _notes(command: ChatCommand, trained: Run | None, settled: Run, model: Model) -> tuple[str, ...]:
    notes = []
    if trained and trained.load_in_4bit != settled.load_in_4bit:
        ways = {True: "4 bit", False: "16 bit"}
        notes.append(
            f"trained over a base in {ways[trained.load_in_4bit]}, asked over one in {ways[settled.load_in_4bit]}: "
            "answers may differ"
        )
    if command.thinking and not sampling(command, model).temperature:
        notes.append("models that think may repeat themselves without end when the likeliest token is taken: --sample")
    if command.base:
        notes.append("--base was given: that it is the model of the training is only known as far as shapes tell")
    return tuple(notes)


def sampling(command: ChatCommand, model: Model) -> Sampling:
    """How answers are drawn: flags over the model's generation_config.json over the advice of Qwen3's makers."""
    asked = {name: getattr(command, name) for name in ("temperature", "top_p", "top_k")}
    asked = {name: value for name, value in asked.items() if value is not None}
    if not (command.sample or asked) or asked.get("temperature") == 0:
        return Sampling()
    own = model.generation
    advised = asdict(ADVISED_SAMPLING[command.thinking])
    advised |= {name: own[name] for name in asked.keys() | {"temperature", "top_p", "top_k"} if own.get(name)}
    return Sampling(**(advised | asked | {"seed": command.seed}))
