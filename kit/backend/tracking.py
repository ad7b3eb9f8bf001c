"""A tracker beside the run folder, through transformers' own callback for it. Whatever befalls it, the run goes on."""

from collections.abc import Callable
from typing import Any

from kit.support.errors import describe_error

EVENTS = ("on_train_begin", "on_log", "on_train_end")


def add_tracker(trainer: Any, name: str, on_event: Callable[..., None]) -> None:
    """The tracker hears of every step. Its first error is an event of the run, and the last thing it is asked."""
    from transformers.integrations import integration_utils

    (kind,) = integration_utils.get_reporting_integration_callbacks([name])
    try:
        trainer.add_callback(_guarded(kind(), name, on_event))
    except Exception as error:  # each tracker has its own kinds, and none of them is a reason to stop training
        _say(on_event, name, error)


def tell_tracker(trainer: Any, figures: dict[str, float]) -> None:
    """Figures that are no step's: the held-out loss, as eval_loss."""
    trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, figures)


def _guarded(tracker: Any, name: str, on_event: Callable[..., None]) -> Any:
    from transformers import TrainerCallback

    class Guarded(TrainerCallback):
        failed = False

    def passes_on(event: str) -> Callable[..., None]:
        def handle(self: Any, *args: Any, **kwargs: Any) -> None:
            if self.failed:
                return
            try:
                getattr(tracker, event)(*args, **kwargs)
            except Exception as error:  # as above
                self.failed = True
                _say(on_event, name, error)

        return handle

    for event in EVENTS:
        setattr(Guarded, event, passes_on(event))
    return Guarded()


def _say(on_event: Callable[..., None], name: str, error: Exception) -> None:
    text = f"{name} hears nothing more of this run ({describe_error(error)}); metrics.jsonl has every step"
    on_event("tracker-failed", text, error=type(error).__name__)
