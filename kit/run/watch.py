"""What happens around each optimiser step: it is written down, the model is measured and asked, its state kept."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kit import backend
from kit.backend import Loaded
from kit.data import Data, Question
from kit.options import Run
from kit.prompt import ChatFormat
from kit.run import checkpoints
from kit.run.checkpoints import About, Checkpoint
from kit.run.folder import RunFolder
from kit.run.layout import ANSWERS, EVENTS, METRICS, PLAN
from kit.run.record import Answer
from kit.support.errors import first_line
from kit.support.progress import OnProgress
from kit.support.units import GIB, MIB

REPORT_SECONDS = 120  # a report takes one or two
Say = Callable[[str], None]
OnEvaluation = Callable[[int, float], bool]  # step, held-out loss in nats a token -> True: stop now


NO_ANSWER = "(no answer: memory ran out)"


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


class Watch:
    """Listens to the trainer. The first Ctrl-C or SIGTERM lets the step finish, so that all is whole; the second stops
    at once."""

    def __init__(
        self,
        loaded: Loaded,
        run: Run,
        data: Data,
        chat: ChatFormat,
        folder: RunFolder,
        show: OnProgress,
        say: Say,
        write_page: Callable[[], None],
        pause_step: int | None = None,
        on_evaluation: OnEvaluation | None = None,
    ):
        self.loaded, self.run, self.data, self.chat = loaded, run, data, chat
        self.folder, self.show, self.say, self.write_page = folder, show, say, write_page
        self.trainer: Any = None  # made with this listener, so set afterwards
        self.steps = run.steps(len(data.train))
        self.measured_steps = {
            round(self.steps * part / (run.evaluations + 1)) for part in range(1, run.evaluations + 1)
        }
        self.step = self.tokens = self.kept_step = 0  # kept: of the newest checkpoint
        self.lines_wait = False  # in memory, because the disk takes none
        self.elapsed_before_s = 0.0
        self.started_s = self.saved_s = self.reported_s = time.perf_counter()
        self.checkpoint_bytes = 0  # unknown before the first
        self.best_loss = math.inf
        self.worse_in_a_row = 0
        self.interrupted = False
        self.pause_step = pause_step  # the run stops after it, with a checkpoint, to go on another time
        self.on_evaluation = on_evaluation
        self.caller_stops = False

    def goes_on_from(self, checkpoint: Checkpoint) -> None:
        """The state of this listener after the checkpoint's step, from what the run wrote down until then."""
        about = checkpoint.about
        self.step, self.tokens, self.elapsed_before_s = about.step, about.tokens, about.elapsed_s
        self.kept_step = about.step
        for line in self.folder.back_to(about.step):
            if "held_out_loss" in line:
                self._compare(line["held_out_loss"])

    # what the trainer tells

    def on_begin(self) -> None:
        """Just before the first step: the worst batch is tried, and time and memory of the run are told."""
        done = backend.preflight(self.trainer, self.data.held_out)
        self.show("preflight", 1, 1, "")
        left = (self.steps - self.step) * self.run.batch_size / max(1, len(self.data.train))
        seconds = left * self.data.report.tokens / done.tokens_per_s
        self.on_event(
            "preflight",
            f"preflight: {done.samples} x the longest samples ({done.tokens:,} tokens) fit; "
            f"{done.peak_memory_bytes / GIB:.2f} GiB taken{self._planned()}; "
            f"{done.tokens_per_s:,.0f} tokens/s, so the run takes about {_span(seconds)}",
            step=self.step,
            peak_memory_bytes=done.peak_memory_bytes,
            tokens_per_s=round(done.tokens_per_s, 1),
        )
        self.started_s = self.saved_s = time.perf_counter()

    def _planned(self) -> str:
        plan = self.folder.read_json(PLAN)
        return f", {plan['low_bytes'] / GIB:.2f} to {plan['high_bytes'] / GIB:.2f} planned" if plan else ""

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        self.step, self.tokens = step, int(metrics.get("num_tokens", 0))
        remade = self.folder.restore()
        line = {
            "step": step,
            "loss": metrics["loss"],
            "grad_norm": metrics.get("grad_norm"),
            "learning_rate": metrics.get("learning_rate"),
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / self.elapsed_s, 1),
            "elapsed_s": round(self.elapsed_s, 3),
            "memory_bytes": backend.memory_bytes(self.loaded.device),
        }
        self.write_down(METRICS, line)
        if remade:
            text = f"{self.folder.path} was deleted: made again, with a checkpoint; lines of earlier steps are lost"
            self.on_event("folder-deleted", text, step=step)
        self.show("training", step, self.steps, f"loss {line['loss']:.3f}  {line['tokens_per_s']:,.0f} tokens/s")
        loss = self.measure() if step in self.measured_steps else None
        minutes = (time.perf_counter() - self.saved_s) / 60
        due = loss is not None or minutes >= self.run.checkpoint_minutes or step >= self.steps
        if due or remade or self.interrupted or self.is_paused:
            self.keep(loss)
        if time.perf_counter() - self.reported_s >= REPORT_SECONDS:
            start_s = time.perf_counter()
            self.write_page()
            self.reported_s = time.perf_counter()
            self.started_s += self.reported_s - start_s  # is no time of training

    def on_event(self, kind: str, text: str, **facts: Any) -> None:
        self.write_down(EVENTS, {"kind": kind, "text": text, **facts})
        self.say(text)

    def write_down(self, name: str, line: dict[str, Any]) -> None:
        """A line of a growing file. A disk that takes none is told once and again when it does; the run goes on."""
        error = self.folder.add_line(name, line)
        if error and not self.lines_wait:
            self.say(f"{name} cannot be written ({error.strerror}): its lines wait in memory; free some room")
        elif self.lines_wait and not error:
            self.say(f"{name} can be written again, with the lines that waited")
        self.lines_wait = error is not None

    def stop_requested(self) -> bool:
        return self.interrupted or self.stopped_early or self.is_paused

    @property
    def stopped_early(self) -> bool:
        return 0 < self.run.early_stopping <= self.worse_in_a_row

    @property
    def is_over(self) -> bool:
        """No step is left to do."""
        return self.step >= self.steps or self.stopped_early

    @property
    def is_paused(self) -> bool:
        """The caller has the run stop after this step, and others are left."""
        is_there = self.pause_step is not None and self.step >= self.pause_step
        return (is_there or self.caller_stops) and not self.is_over

    # what is done then

    @property
    def elapsed_s(self) -> float:
        return self.elapsed_before_s + time.perf_counter() - self.started_s

    def measure(self) -> float | None:
        """Held-out loss and answers in the middle of the run."""
        start_s = time.perf_counter()
        loss = self.held_out_loss("held-out rows")
        answers = self.answers()
        self.started_s += time.perf_counter() - start_s  # is no time of training
        self.write_down(ANSWERS, {"step": self.step, "answers": [answer.text for answer in answers]})
        if loss is None:
            return None
        line = {"step": self.step, "held_out_loss": loss, "perplexity": round(math.exp(min(loss, 100)), 3)}
        self.write_down(METRICS, line)
        if self.run.report_to != "none":
            backend.tell_tracker(self.trainer, {"eval_loss": loss})
        self._compare(loss)
        if self.on_evaluation and self.on_evaluation(self.step, loss):
            self.caller_stops = True
        if self.stopped_early:
            text = (
                f"stopped early: no lower held-out loss in {self.worse_in_a_row} evaluations; best {self.best_loss:.3f}"
            )
            self.on_event("early-stopping", text, step=self.step)
        return loss

    def _compare(self, loss: float) -> None:
        self.worse_in_a_row = 0 if loss < self.best_loss else self.worse_in_a_row + 1
        self.best_loss = min(self.best_loss, loss)

    def held_out_loss(self, name: str) -> float | None:
        if not len(self.data.held_out):
            return None
        told = lambda batch, batches: self.show(name, batch, batches, "")  # noqa: E731
        return backend.held_out_loss(self.trainer, self.data.held_out, told)

    def answers(self) -> tuple[Answer, ...]:
        """To the prompts of the run, or to the first held-out questions. Too little memory for them stops nothing: the
        questions it does not suffice for have NO_ANSWER, of 0 tokens."""
        own = [Question(text, self.chat.prompt_ids([{"role": "user", "content": text}])) for text in self.run.prompts]
        asked, answers = own or self.data.questions, []
        ran_out = False
        try:
            with backend.answering(self.loaded):
                for number, question in enumerate(asked, start=1):
                    text, tokens, seconds = backend.answer(self.loaded, question.ids, self.run.sample_tokens)
                    answers.append(Answer(question.text, text, tokens, round(tokens / seconds, 1)))
                    self.show("answers", number, len(asked), "")
        except (RuntimeError, MemoryError) as error:
            if not backend.is_out_of_memory(error):
                raise
            ran_out = True
        if ran_out:  # outside of `except`: the error holds on to the tensors of the failed try
            backend.free_memory()
            missing = [Answer(question.text, NO_ANSWER, 0, 0.0) for question in asked[len(answers) :]]
            text = f"memory ran out while answering: {len(missing)} of {len(asked)} questions have no answer"
            self.on_event("out-of-memory", text, step=self.step)
            answers += missing
        return tuple(answers)

    def keep(self, loss: float | None = None) -> None:
        """A checkpoint of this moment. One that cannot be written stops nothing: earlier ones stay, another try
        follows; at once where memory ran out, which is freed."""
        about = About(self.step, self.tokens, round(self.elapsed_s, 3), loss)
        self.saved_s = time.perf_counter()
        # whatever the error is: safetensors has some of its own for a full disk, and a checkpoint is no reason to end
        error = backend.attempt(lambda: self._write(about))
        if not error:
            self.kept_step = self.step
            return
        free_bytes = checkpoints.free_bytes(self.folder.path)
        where = f"{self.folder.path} has {free_bytes / MIB:,.0f} MiB free"
        text = f"no checkpoint at step {self.step}: {first_line(error)}; {where}; the run goes on and tries again later"
        self.on_event("checkpoint-failed", text, step=self.step, error=type(error).__name__, free_bytes=free_bytes)

    def _write(self, about: About) -> None:
        """Raises KitError before anything is written where there is no room for one as large as the last."""
        folder = self.folder.checkpoints
        checkpoints.check_disk(folder, self.checkpoint_bytes, "A checkpoint")
        made = checkpoints.write(folder, about, lambda path: backend.save_state(self.trainer, path))
        self.checkpoint_bytes = made.count_bytes
        checkpoints.prune(folder, self.run.keep_checkpoints)

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
