"""Where the sizes of a model are from: its config.json, held against the tensors in its files where these are here."""

from typing import Any

from kit.memory.planning import shape_of
from kit.models import Model
from kit.models.counting import linear_weights


def known_sizes(model: Model) -> dict[str, Any]:
    """The config.json to plan with; {} where the files hold other layers than it says: then nothing is known."""
    return {} if disagreement(model) else model.config


def disagreement(model: Model) -> str:
    """How the files differ from config.json, in words; "" where they do not, or are not here."""
    shape, counted = _compared(model)
    if counted is None or counted == shape:
        return ""
    return f"its files hold {counted:,} weights in linear layers, and by its config.json there are {shape:,}"


def source_of_sizes(model: Model) -> str:
    """In words, for a model whose sizes are known."""
    if model.only_sizes:
        return f"sizes from {model.only_sizes}"
    _, counted = _compared(model)
    return "sizes from its config.json" + (f"; its files hold as many linear weights: {counted:,}" if counted else "")


def _compared(model: Model) -> tuple[int, int | None]:
    """Weights of the linear layers by config.json, and in the files; None: not both are known."""
    shape = shape_of(model.config)
    return (shape.linear_params, linear_weights(model, shape.layers)) if shape else (0, None)
