"""Session -> Outcome: measure, train, measure again; from where an earlier try broke off."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit import backend
from kit.run import checkpoints, keeping, measuring
from kit.run.checkpoints import Checkpoint
from kit.run.folder import FULL, NOT_ALLOWED, cannot_write
from kit.run.layout import made_by
from kit.run.record import Answer, Result
from kit.run.session import Outcome, Session, Status
from kit.run.watch import Watch
from kit.support.errors import KitError, failure, first_line, problem


def fit(session: Session) -> Outcome:
    """Train the loaded model and save its adapter to folder/adapter, or all of it to folder/model; from the newest
    whole checkpoint if there is one.

    Raises KitError: out of memory at the last rung, a number that is not finite, a disk that takes nothing.
    """
    loaded, run, state, folder = session.loaded, session.run, session.state, session.folder
    with errors_explained(session):
        backend.check_tokens(loaded, run, session.data.train, session.data.held_out)
        checkpoint = resume(session)
        trainer = backend.trainer(loaded, run, session.data.train, folder.checkpoints, session.journal.event)
        watch = Watch(session, trainer)
        backend.listen(trainer, watch)
        keeping.check_room(session)
        loss_before, before = measuring.of_the_untuned(session, trainer)
        with watch.signals:
            if checkpoint and state.is_over:  # the trainer would do one step more
                backend.load_weights(trainer.model, checkpoint.path)
            else:
                with last_good_step_kept(watch):
                    trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
            if state.stopped_early:
                _back_to_the_best(session, trainer)
            keeping.save(session)
        return _outcome(watch, loss_before, before)


def _outcome(watch: Watch, loss_before: float | None, before: tuple[Answer, ...]) -> Outcome:
    session, state, seconds = watch.session, watch.session.state, watch.session.state.elapsed_s
    status: Status = "interrupted" if watch.signals.is_requested else "paused" if watch.is_paused else "finished"
    loss_after = watch.loss_at_stop if status == "paused" else None
    if status == "finished":
        loss_after = measuring.held_out_loss(session, watch.trainer, "tuned model")
    result = Result(
        steps=state.step,
        tokens=state.tokens,
        train_s=round(seconds, 2),
        tokens_per_s=round(state.tokens / seconds, 1),
        loss_before=loss_before,
        loss_after=loss_after,
        peak_memory_bytes=backend.peak_memory_bytes(session.loaded.device),
        before=before,
        after=measuring.answers(session) if status == "finished" else (),
    )
    if status == "paused":
        text = f"paused after step {state.step} of {state.steps} as asked; held-out loss {loss_after:.3f}"
        session.journal.event("paused", text, step=state.step, held_out_loss=loss_after)
    return Outcome(status, result)


@contextmanager
def errors_explained(session: Session) -> Iterator[None]:
    """What ends a run inside is a KitError, and the user hears from where the same command goes on."""
    try:
        yield
    except KitError:
        _say_what_is_kept(session)
        raise
    except Exception as error:
        explained = _explained(session, error)
        if explained is None:
            raise
        _say_what_is_kept(session)
        raise explained from error


def _explained(session: Session, error: Exception) -> KitError | None:
    """Nothing is tried on a card that failed, so what it leaves is the newest checkpoint."""
    step, kept_step = session.state.step, session.state.kept_step
    if isinstance(error, OSError) and error.errno in (*FULL, *NOT_ALLOWED):
        return KitError(cannot_write(Path(error.filename or session.folder.checkpoints), error))
    if backend.is_out_of_memory(error):
        return KitError(_out_of_memory(step, error))
    start = f"goes on after step {kept_step}" if kept_step else "begins with step 1"
    return backend.card_error(error, f"the same command again: it {start} (in a notebook: restart the kernel first)")


def _say_what_is_kept(session: Session) -> None:
    step = session.state.kept_step
    if step and session.folder.is_ours:
        session.say(f"the checkpoint of step {step} is kept; a run of the same options goes on from there")


def _out_of_memory(step: int, error: Exception) -> Finding:
    """Where no ladder stands: the model on its way into the trainer, or between two steps."""
    return problem(
        "out-of-memory",
        f"Memory ran out after step {step}, in no step or evaluation.",
        first_line(error),
        "close what else takes memory, then the same command",
        "--micro-batch-size 1 --gradient-checkpointing on      (a run may go on with these)",
    )


@contextmanager
def last_good_step_kept(watch: Watch) -> Iterator[None]:
    """Where a finding ends the training, the weights are those of the last good step: they are not lost."""
    try:
        yield
    except backend.UpdateCutShort:
        raise
    except KitError:
        if not watch.session.folder.is_ours:
            keeping.save_elsewhere(watch.session)
        elif watch.session.state.step > watch.session.state.kept_step:
            watch.keeper.keep()
        raise


def resume(session: Session) -> Checkpoint | None:
    """The newest whole checkpoint, with the run's state as it was there; broken ones are named."""
    journal, folder, state = session.journal, session.folder, session.state
    whole, broken = checkpoints.whole(folder.checkpoints)
    for finding in broken:
        journal.event(finding.id, f"{finding.what} ({finding.details[0][1]})", details=finding.details)
    if whole:
        newest = whole[-1]
        state.go_on_from(newest.about, folder.back_to(newest.about.step))
        journal.event("resumed", f"going on after step {state.step} of {state.steps}", step=state.step)
        return newest
    if folder.back_to(0) or broken:
        journal.event("begun-again", "no checkpoint can be used: beginning again with step 1", step=0)
    return None


def _back_to_the_best(session: Session, trainer: Any) -> None:
    best = checkpoints.best(checkpoints.whole(session.folder.checkpoints)[0])
    if best is None:
        raise failure(
            "best-checkpoint-missing",
            "The checkpoint with the lowest held-out loss is gone.",
            "Early stopping keeps its weights, and something deleted it.",
            "the same command again, without --early-stopping",
        )
    backend.load_weights(trainer.model, best.path)
    text = f"the {made_by(session.run.method)} is that of step {best.about.step}, the best one"
    session.journal.event("best", text, step=best.about.step)
