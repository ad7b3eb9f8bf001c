"""Loaded model + samples -> Result: measure, train, measure again; from where an earlier try broke off."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from envcheck.facts import Finding
from kit import backend
from kit.backend import Loaded
from kit.data import Data
from kit.options import Run
from kit.prompt import ChatFormat
from kit.run import checkpoints
from kit.run.checkpoints import Checkpoint
from kit.run.folder import FULL, NOT_ALLOWED, RunFolder, cannot_write
from kit.run.layout import BEGUN, made_by
from kit.run.record import Answer, Result
from kit.run.watch import OnEvaluation, Say, Watch
from kit.support.errors import KitError, first_line, problem
from kit.support.progress import OnProgress

PAUSED = "paused"  # kind of the event that holds the loss where the run was to stop for a while


class Interrupted(Exception):
    """Stopped by Ctrl-C or SIGTERM between two steps; `result` holds what is finished."""

    def __init__(self, result: Result):
        super().__init__(f"stopped after step {result.steps}")
        self.result = result


class Paused(Interrupted):
    """Stopped after the step that was asked for; `result` holds the held-out loss there too."""


def fit(
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
) -> Result:
    """Train `loaded` and save its adapter to folder/adapter, or all of it to folder/model; from the newest whole
    checkpoint if there is one.

    pause_step: stop after it, with a checkpoint; learning rate and order of the rows stay those of the whole run.
    on_evaluation: hears the held-out loss of each evaluation and may stop the run there in the same way.

    Raises KitError: out of memory at the last rung, a number that is none, a disk that takes nothing; Interrupted:
    stopped on request, with a checkpoint and the adapter saved; Paused: the same after pause_step.
    """
    watch = Watch(loaded, run, data, chat, folder, show, say, write_page, pause_step, on_evaluation)
    with _told_in_words(watch):
        checkpoint = _newest(watch)
        trainer = watch.trainer = backend.trainer(loaded, run, data.train, folder.checkpoints, watch)
        need_bytes = (run.keep_checkpoints + 2) * backend.state_bytes(loaded) + backend.saved_bytes(loaded)
        checkpoints.check_disk(folder.path, need_bytes, "Keeping checkpoints")
        loss_before, before = _begun(watch)
        with watch.signals():
            try:
                if checkpoint and (watch.is_over or watch.is_paused):  # the trainer would do one step more
                    backend.load_weights(trainer.model, checkpoint.path)
                else:
                    trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
            except backend.UpdateCutShort:
                raise
            except KitError:
                if not folder.is_ours:
                    _say_where_it_is(watch)
                elif watch.step > watch.kept_step:
                    watch.keep()  # the weights are those of the last good step
                raise
            if watch.stopped_early:
                _back_to_the_best(watch)
            _save_adapter(watch)
        ended = not watch.interrupted
        seconds = watch.elapsed_s
        result = Result(
            steps=watch.step,
            tokens=watch.tokens,
            train_s=round(seconds, 2),
            tokens_per_s=round(watch.tokens / seconds, 1),
            loss_before=loss_before,
            loss_after=watch.held_out_loss("tuned model") if ended else None,
            peak_memory_bytes=backend.peak_memory_bytes(loaded.device),
            before=before,
            after=watch.answers() if ended and not watch.is_paused else (),
        )
    if not ended:
        raise Interrupted(result)
    if watch.is_paused:
        loss = "" if result.loss_after is None else f"; held-out loss {result.loss_after:.3f}"
        text = f"paused after step {watch.step} of {watch.steps} as asked{loss}"
        watch.on_event(PAUSED, text, step=watch.step, held_out_loss=result.loss_after)
        raise Paused(result)
    return result


@contextmanager
def _told_in_words(watch: Watch) -> Iterator[None]:
    """What ends a run inside is a KitError, and the user hears from where the same command goes on."""
    try:
        yield
    except KitError:
        _say_what_is_kept(watch)
        raise
    except (OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in (*FULL, *NOT_ALLOWED):
            finding = cannot_write(Path(error.filename or watch.folder.checkpoints), error)
        elif backend.is_out_of_memory(error):
            finding = _no_memory(watch, error)
        else:
            raise
        _say_what_is_kept(watch)
        raise KitError(finding) from error


def _say_what_is_kept(watch: Watch) -> None:
    if watch.kept_step and watch.folder.is_ours:
        watch.say(f"the checkpoint of step {watch.kept_step} is kept; a run of the same options goes on from there")


def _no_memory(watch: Watch, error: Exception) -> Finding:
    """Where no ladder stands: the model on its way into the trainer, or between two steps."""
    return problem(
        "out-of-memory",
        f"Memory ran out after step {watch.step}, in no step or evaluation.",
        first_line(error),
        "close what else takes memory, then the same command",
        "--micro-batch-size 1 --gradient-checkpointing on      (a run may go on with these)",
    )


def _save_adapter(watch: Watch) -> None:
    """Into the run folder. Where it cannot be, after another try, and no checkpoint holds the last step: elsewhere.

    Raises KitError: not saved in the run folder.
    """
    error = backend.attempt(lambda: _into_folder(watch))  # safetensors has errors of its own for a full disk
    if not error:
        return
    if isinstance(error, KitError):  # the folder is another run's by now
        _say_where_it_is(watch)
        raise error
    made = made_by(watch.run.method)
    if watch.kept_step == watch.step:
        kept = f"Nothing is lost: the checkpoint of step {watch.step} holds all of it, and only the saving is left."
        details = {}
    else:
        kept = f"No checkpoint of step {watch.step} could be written either; the newest is of step {watch.kept_step}."
        details = {f"{made} saved in": _saved_elsewhere(watch) or "no other folder could be written to"}
    finding = cannot_write(watch.folder.path / made, error)
    raise KitError(
        problem(
            f"{made}-not-saved",
            f"The {made} of step {watch.step} cannot be saved: {finding.why}.",
            kept,
            "close what else takes memory" if backend.is_out_of_memory(error) else finding.fix[0],
            f"then the same command: it saves the {made}",
            details=details,
        )
    ) from error


def _into_folder(watch: Watch) -> None:
    watch.folder.restore()
    with watch.folder.new_folder(made_by(watch.run.method)) as new:
        backend.save_adapter(watch.loaded, new)


def _say_where_it_is(watch: Watch) -> None:
    place = _saved_elsewhere(watch) if watch.step else None
    if place:
        watch.say(f"the {made_by(watch.run.method)} of step {watch.step} is in {place}")


def _saved_elsewhere(watch: Watch) -> Path | None:
    """What the run made in a new folder, in the user's home or where temporary files go."""
    for place in (Path.home(), Path(tempfile.gettempdir())):
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"kit-{made_by(watch.run.method)}-", dir=place))
            backend.save_adapter(watch.loaded, folder)
        except Exception:
            continue
        return folder
    return None


def _newest(watch: Watch) -> Checkpoint | None:
    """The newest whole checkpoint, with the listener at its step; broken ones are named."""
    found, broken = checkpoints.whole(watch.folder.checkpoints)
    for finding in broken:
        watch.on_event(finding.id, f"{finding.what} ({finding.details[0][1]})", details=finding.details)
    if found:
        watch.goes_on_from(found[-1])
        watch.on_event("resumed", f"going on after step {watch.step} of {watch.steps}", step=watch.step)
        return found[-1]
    if watch.folder.back_to(0) or broken:
        watch.on_event("begun-again", "no checkpoint can be used: beginning again with step 1", step=0)
    return None


def _begun(watch: Watch) -> tuple[float | None, tuple[Answer, ...]]:
    """Loss and answers of the untuned model: measured once, when the run begins."""
    there = watch.folder.read_json(BEGUN)
    if there is None:
        with backend.without_virtual_tokens(watch.loaded):
            answers = [vars(answer) for answer in watch.answers()]
            there = {"loss": watch.held_out_loss("base model"), "answers": answers}
        watch.folder.write_json(BEGUN, there)
    return there["loss"], tuple(Answer(**answer) for answer in there["answers"])


def _back_to_the_best(watch: Watch) -> None:
    best = checkpoints.best(checkpoints.whole(watch.folder.checkpoints)[0])
    if best is None:
        raise KitError(
            problem(
                "best-checkpoint-missing",
                "The checkpoint with the lowest held-out loss is gone.",
                "Early stopping keeps its weights, and something deleted it.",
                "the same command again, without --early-stopping",
            )
        )
    backend.load_weights(watch.trainer.model, best.path)
    text = f"the {made_by(watch.run.method)} is that of step {best.about.step}, the best one"
    watch.on_event("best", text, step=best.about.step)
