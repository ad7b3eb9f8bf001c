"""Who is told what happens while the trainer works."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from kit.backend.steps import Steps
else:
    TrainerCallback = object  # `add_listener` puts the real one below


class OnEvent(Protocol):
    """Called with what happened besides the steps: its kind, a sentence, and further facts of it."""

    def __call__(self, kind: str, text: str, **facts: Any) -> None: ...


class Listener(Protocol):
    """What a run does around the steps of its trainer."""

    def on_begin(self) -> None:
        """Just before the first step."""

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """After each optimiser step: the weights are changed, the gradients gone. num_tokens: of all steps so far."""

    def stop_requested(self) -> bool:
        """Whether the step that is done shall be the last."""


class ListenerCallback(TrainerCallback):
    """A listener as a callback of transformers' trainer."""

    def __init__(self, listener: Listener, trainer: "Steps"):
        self.listener, self.trainer = listener, trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.listener.on_begin()

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Once a step, when it is complete: weights changed, gradients gone, position moved on.

        Raises KitError: see Steps.check_updates.
        """
        state.log_history.clear()  # metrics.jsonl has it; in every checkpoint it would grow with the run
        if logs and "loss" in logs:
            logs["num_tokens"] = self.trainer.tokens  # also for a tracker: Unsloth's trainer for a card counts none
            self.trainer.count_update()
            self.listener.on_step(state.global_step, {name: float(value) for name, value in logs.items()})
            self.trainer.check_updates()
            control.should_training_stop |= self.listener.stop_requested()


def add_listener(trainer: "Steps", listener: Listener) -> None:
    """In place of the callback that prints the figures of each step."""
    from transformers import PrinterCallback, TrainerCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(type("ListenerCallback", (ListenerCallback, TrainerCallback), {})(listener, trainer))
