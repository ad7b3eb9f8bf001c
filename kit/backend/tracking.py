"""A tracker beside the run folder, through transformers' own callback for it. Whatever befalls it, the run goes on."""

from typing import TYPE_CHECKING, Any

from kit.backend.listener import OnEvent
from kit.support.errors import describe_error

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback
else:
    TrainerCallback = object  # `add_tracker` puts the real one below


class GuardedTracker(TrainerCallback):
    """A tracker's callback whose first error is an event of the run, and the last thing that it is asked to do."""

    def __init__(self, tracker: "TrainerCallback", name: str, on_event: OnEvent):
        self.tracker, self.name, self.on_event = tracker, name, on_event
        self.failed = False

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._pass_on("on_train_begin", *args, **kwargs)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self._pass_on("on_log", *args, **kwargs)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._pass_on("on_train_end", *args, **kwargs)

    def _pass_on(self, event: str, *args: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            getattr(self.tracker, event)(*args, **kwargs)
        except Exception as error:  # each tracker has its own kinds, and none of them is a reason to stop training
            self.failed = True
            _report_failure(self.on_event, self.name, error)


def add_tracker(trainer: "Trainer", name: str, on_event: OnEvent) -> None:
    """Send each step's figures to the tracker of that name too."""
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    (tracker_class,) = integration_utils.get_reporting_integration_callbacks([name])
    guarded_class = type("GuardedTracker", (GuardedTracker, TrainerCallback), {})
    try:
        trainer.add_callback(guarded_class(tracker_class(), name, on_event))
    except Exception as error:  # as above
        _report_failure(on_event, name, error)


def tell_tracker(trainer: "Trainer", figures: dict[str, float]) -> None:
    """Figures that are no step's: the held-out loss, as eval_loss."""
    trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, figures)


def _report_failure(on_event: OnEvent, name: str, error: Exception) -> None:
    text = f"{name} hears nothing more of this run ({describe_error(error)}); metrics.jsonl has every step"
    on_event("tracker-failed", text, error=type(error).__name__)
