"""Loaded model + samples -> Result: measure, train with a watch on every step, measure again."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kit import backend
from kit.backend import Loaded
from kit.data import Data, Question
from kit.errors import KitError, problem
from kit.options import Run
from kit.prompt import ChatFormat
from kit.record import Answer, Result, RunFolder

Show = Callable[[str, int, int, str], None]  # what is being done, how much is done, of how much, a word on it


class Interrupted(Exception):
    """Stopped by Ctrl-C or SIGTERM between two steps; `result` holds what is finished."""

    def __init__(self, result: Result):
        super().__init__(f"stopped after step {result.steps}")
        self.result = result


class Watch:
    """Listens to every optimiser step: writes metrics.jsonl, tells the screen, stops on a loss that is no number.

    The first Ctrl-C lets the step finish, so that the adapter is whole; the second stops at once.
    """

    def __init__(self, folder: RunFolder, steps: int, show: Show):
        self.folder = folder
        self.steps = steps
        self.show = show
        self.step = 0
        self.tokens = 0
        self.started_s = time.perf_counter()
        self.not_finite: dict[str, float] = {}
        self.interrupted = False

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        now_s = time.perf_counter()
        tokens = int(metrics.get("num_tokens", 0))
        line = {
            "step": step,
            "loss": metrics["loss"],
            "grad_norm": metrics.get("grad_norm"),
            "learning_rate": metrics.get("learning_rate"),
            "tokens": tokens,
            "tokens_per_s": round(tokens / (now_s - self.started_s), 1),  # since the first step
            "elapsed_s": round(now_s - self.started_s, 3),
        }
        self.step, self.tokens = step, tokens
        self.not_finite = {
            name: value for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)
        }
        self.folder.add_metrics(line)
        self.show("training", step, self.steps, f"loss {line['loss']:.3f}  {line['tokens_per_s']:,.0f} tokens/s")

    def stop_requested(self) -> bool:
        return self.interrupted or bool(self.not_finite)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask for a stop while inside."""

        def ask(*_: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def fit(loaded: Loaded, run: Run, data: Data, chat: ChatFormat, folder: RunFolder, show: Show) -> Result:
    """Train the adapter of `loaded` and save it to folder/adapter.

    Raises KitError: out of memory, a loss that is not finite; Interrupted: stopped on request, with the adapter saved.
    """
    watch = Watch(folder, run.steps(len(data.train)), show)
    trainer_folder = folder.path / "checkpoints"
    trainer = backend.trainer(loaded, run, data.train, trainer_folder, watch)
    loss_before = _held_out_loss(trainer, data, show, "base model")
    before = _answers(loaded, run, data, chat, show)
    watch.started_s = time.perf_counter()
    try:
        with watch.signals():
            trainer.train()
    except RuntimeError as error:
        if not backend.is_out_of_memory(error):
            raise
        raise KitError(_out_of_memory(run, watch.step)) from error
    train_s = time.perf_counter() - watch.started_s
    if watch.not_finite:
        raise KitError(_not_finite(watch))
    with folder.new_folder("adapter") as new:
        backend.save_adapter(loaded, new)
    result = Result(
        steps=watch.step,
        tokens=watch.tokens,
        train_s=round(train_s, 2),
        tokens_per_s=round(watch.tokens / train_s, 1),
        loss_before=loss_before,
        loss_after=None if watch.interrupted else _held_out_loss(trainer, data, show, "tuned model"),
        peak_memory_bytes=backend.peak_memory_bytes(loaded.device),
        before=before,
        after=() if watch.interrupted else _answers(loaded, run, data, chat, show),
    )
    with contextlib.suppress(OSError):
        trainer_folder.rmdir()  # the trainer makes it, and it stays empty
    if watch.interrupted:
        raise Interrupted(result)
    return result


def _held_out_loss(trainer: Any, data: Data, show: Show, name: str) -> float | None:
    if not len(data.held_out):
        return None
    return backend.held_out_loss(trainer, data.held_out, lambda batch, batches: show(name, batch, batches, ""))


def _answers(loaded: Loaded, run: Run, data: Data, chat: ChatFormat, show: Show) -> tuple[Answer, ...]:
    own = [Question(text, chat.prompt_ids([{"role": "user", "content": text}])) for text in run.prompts]
    asked = own or data.questions
    answers = []
    with backend.answering(loaded):
        for number, question in enumerate(asked, start=1):
            text, tokens, seconds = backend.answer(loaded, question.ids, run.sample_tokens)
            answers.append(Answer(question.text, text, tokens, round(tokens / seconds, 1)))
            show("answers", number, len(asked), "")
    return tuple(answers)


def _out_of_memory(run: Run, step: int) -> Any:
    smaller = max(1, run.micro_batch_size // 2)
    return problem(
        "out-of-memory",
        f"Memory ran out after step {step}.",
        f"{run.micro_batch_size} samples of up to {run.max_length_tokens} tokens were in memory at once.",
        *(
            [f"--micro-batch-size {smaller}       (the same effective batch, less at once)"]
            if run.micro_batch_size > 1
            else []
        ),
        *(["--gradient-checkpointing unsloth"] if run.gradient_checkpointing != "unsloth" else []),
        "python -m kit.train ... --plan       (shows the parts)",
    )


def _not_finite(watch: Watch) -> Any:
    names = " and ".join(watch.not_finite)
    return problem(
        "loss-not-finite",
        f"Step {watch.step} gave no finite {names}; the run stopped and the adapter was not saved.",
        "From here on every weight would be nan.",
        "--learning-rate 5e-5",
        "--precision bf16",
        details=watch.not_finite,
    )
