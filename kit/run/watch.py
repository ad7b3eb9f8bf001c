"""What happens around each optimiser step: it is written down, the model is measured, its state kept."""

import math
import time
from typing import Any

from kit import backend
from kit.run import measuring
from kit.run.keeping import Keeper
from kit.run.layout import ANSWERS, METRICS, PLAN
from kit.run.session import Session
from kit.run.signals import StopSignals
from kit.support.units import GIB

LEAST_BESIDE_BYTES = int(0.3 * GIB)  # of a card, for what a desktop takes now and then
PAGE_EVERY_S = 120  # writing it takes a second or two


def little_room(beside_bytes: int | None) -> str:
    """What to say of the card's memory that the run leaves to other programs; "" where it is enough, or a CPU."""
    if beside_bytes is None or beside_bytes >= LEAST_BESIDE_BYTES:
        return ""
    return (
        f"only {beside_bytes / GIB:.2f} GiB of the card are free beside the run: a browser or a game that takes more "
        "makes memory run out. Close what else uses the card (nvidia-smi names it), or leave room with --vram-limit-gib"
    )


class Watch:
    """Listens to the trainer."""

    def __init__(self, session: Session, trainer: Any):
        self.session, self.trainer = session, trainer
        self.keeper, self.signals = Keeper(session, trainer), StopSignals()
        steps, evaluations = session.state.steps, session.run.evaluations
        self.measured_steps = {round(steps * part / (evaluations + 1)) for part in range(1, evaluations + 1)}
        self.loss_at_stop: float | None = None  # held-out, where the caller stopped the run
        self.page_s = time.perf_counter()

    def on_begin(self) -> None:
        """Just before the first step: the longest batch is tried, which says what time and memory the run takes."""
        session, state = self.session, self.session.state
        if session.loaded.device == "cuda" and session.loaded.backend.compiles_layers:
            session.say("compiling the layers, once: this takes minutes")
        done = backend.preflight(self.trainer, session.data.held_out)
        session.on_progress("preflight", 1, 1, "")
        epochs = (state.steps - state.step) * session.run.batch_size / max(1, len(session.data.train))
        seconds = epochs * session.data.report.tokens / done.tokens_per_s
        session.journal.event(
            "preflight",
            f"preflight: {done.samples} x the longest samples ({done.tokens:,} tokens) fit; "
            f"{done.peak_memory_bytes / GIB:.2f} GiB taken{self._planned_memory()}; "
            f"{done.tokens_per_s:,.0f} tokens/s, so the run takes about {_time_span(seconds)}",
            step=state.step,
            peak_memory_bytes=done.peak_memory_bytes,
            tokens_per_s=round(done.tokens_per_s, 1),
        )
        if text := little_room(done.beside_bytes):
            session.journal.event("little-card-memory", text, step=state.step, beside_bytes=done.beside_bytes)
        state.start_clock()
        self.keeper.last_try_s = time.perf_counter()

    def _planned_memory(self) -> str:
        plan = self.session.folder.read_json(PLAN)
        return f", {plan['low_bytes'] / GIB:.2f} to {plan['high_bytes'] / GIB:.2f} planned" if plan else ""

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        session, state = self.session, self.session.state
        state.step, state.tokens = step, int(metrics["num_tokens"])
        is_made_again = session.folder.restore()
        self._write_figures(metrics)
        if is_made_again:
            path = session.folder.path
            text = f"{path} was deleted: made again, with a checkpoint; lines of earlier steps are lost"
            session.journal.event("folder-deleted", text, step=step)
        loss = self.evaluate() if step in self.measured_steps else None
        is_due = loss is not None or self.keeper.is_due() or step >= state.steps
        if is_due or is_made_again or self.signals.is_requested:
            self.keeper.keep(loss)
        if time.perf_counter() - self.page_s >= PAGE_EVERY_S:
            with state.clock_stopped():
                session.write_page()
            self.page_s = time.perf_counter()

    def _write_figures(self, metrics: dict[str, float]) -> None:
        session, state = self.session, self.session.state
        tokens_per_s = round(state.tokens / state.elapsed_s, 1)
        line = {
            "step": state.step,
            "loss": metrics["loss"],
            "grad_norm": metrics.get("grad_norm"),
            "learning_rate": metrics.get("learning_rate"),
            "tokens": state.tokens,
            "tokens_per_s": tokens_per_s,
            "elapsed_s": round(state.elapsed_s, 3),
            "memory_bytes": backend.memory_bytes(session.loaded.device),
        }
        session.journal.write(METRICS, line)
        detail = f"loss {metrics['loss']:.3f}  {tokens_per_s:,.0f} tokens/s"
        session.on_progress("training", state.step, state.steps, detail)

    def stop_requested(self) -> bool:
        return self.signals.is_requested or self.session.state.stopped_early or self.is_paused

    @property
    def is_paused(self) -> bool:
        """The caller has the run stop after this step, and others are left."""
        return self.loss_at_stop is not None and not self.session.state.is_over

    def evaluate(self) -> float | None:
        """Held-out loss and answers in the middle of the run; the caller hears the loss."""
        session, state = self.session, self.session.state
        with state.clock_stopped():
            loss = measuring.held_out_loss(session, self.trainer, "held-out rows")
            answers = measuring.answers(session)
        session.journal.write(ANSWERS, {"step": state.step, "answers": [answer.text for answer in answers]})
        if loss is None:
            return None
        line = {"step": state.step, "held_out_loss": loss, "perplexity": round(math.exp(min(loss, 100)), 3)}
        session.journal.write(METRICS, line)
        if session.run.report_to != "none":
            backend.tell_tracker(self.trainer, {"eval_loss": loss})
        state.compare(loss)
        if state.stopped_early:
            evaluations = f"no lower held-out loss in {state.worse_in_a_row} evaluations"
            text = f"stopped early: {evaluations}; best {state.best_loss:.3f}"
            session.journal.event("early-stopping", text, step=state.step)
        if session.on_evaluation and session.on_evaluation(state.step, loss):
            self.loss_at_stop = loss
        return loss


def _time_span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
