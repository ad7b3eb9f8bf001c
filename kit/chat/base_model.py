"""How the base is loaded to be talked to: as in training where that is known, and this machine can. No torch."""

from collections.abc import Iterable
from dataclasses import replace

from envcheck import settings
from envcheck.facts import Facts
from kit.backend import Loading
from kit.backend.starting import PlannedCard
from kit.chat.names import ChatSource
from kit.chat.options import ChatCommand
from kit.models import Model
from kit.options import Method, resolve
from kit.options.methods import IN_UNSLOTH
from kit.support.errors import failure


def loading_for(
    command: ChatCommand, source: ChatSource, model: Model, facts: Facts, methods: Iterable[Method]
) -> Loading:
    """For adapters of these methods. Raises KitError: no usable card; a method that the backend does not know."""
    if command.device == "cpu":
        facts = replace(facts, gpu=())
    device = "cpu" if settings.best_card(facts) is None else "cuda"
    if command.device == "cuda" != device:
        what = "--device cuda asks for a graphics card and none can be used here."
        raise resolve.no_usable_card(what, facts, "--device cpu")
    as_before = _in_training(source, device)
    here = settings.choose(facts).precision.value
    return Loading(
        device=device,
        precision=as_before.get("precision", here) if command.precision == "auto" else command.precision,
        load_in_4bit=_in_4bit(command, source, model),
        max_length_tokens=model.config.get("max_position_embeddings") or 1024,
        backend=_backend(command.backend, device, methods),
        attention=as_before.get("attention", "sdpa"),
        card=PlannedCard.of(facts),
    )


def _in_training(source: ChatSource, device: str) -> dict[str, str]:
    """Attention and precision, if it was on a machine of this kind."""
    run = source.run
    if run is None or source.chosen.get("device", run.device) not in (device, "auto"):
        return {}
    ways = {name: source.chosen.get(name, getattr(run, name)) for name in ("attention", "precision")}
    return {name: way for name, way in ways.items() if way != "auto"}


def _in_4bit(command: ChatCommand, source: ChatSource, model: Model) -> bool:
    if command.load_in_4bit != "auto":
        return command.load_in_4bit == "on"
    return bool(model.stored_nf4 or (source.run and source.run.load_in_4bit))


def _backend(asked: str, device: str, methods: Iterable[Method]) -> str:
    """Raises KitError: Unsloth was asked for a method that it does not know."""
    others = sorted(method.name for method in methods if not method.in_unsloth)
    if others and asked == "unsloth":
        raise failure(
            "unsloth-without-method",
            f"Unsloth does not know {' and '.join(others)}.",
            f"Its model is changed in ways that only {' and '.join(IN_UNSLOTH)} were tried with.",
            "--backend hf",
        )
    return asked if asked != "auto" or (device == "cuda" and not others) else "hf"


def notes_for(command: ChatCommand, source: ChatSource, loading: Loading, takes_likeliest: bool) -> tuple[str, ...]:
    """What is not as it was in training, or may surprise."""
    notes, run = [], source.run
    if run and run.load_in_4bit != loading.load_in_4bit:
        before, now = (("4 bit" if in_4bit else "16 bit") for in_4bit in (run.load_in_4bit, loading.load_in_4bit))
        notes.append(f"trained over a base in {before}, asked over one in {now}: answers may differ")
    if command.thinking and takes_likeliest:
        notes.append("models that think may repeat themselves without end when the likeliest token is taken: --sample")
    if command.base:
        notes.append("--base was given: that it is the model of the training is only known as far as shapes tell")
    return tuple(notes)
