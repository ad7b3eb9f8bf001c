"""Loaded model + samples -> Result: measure, train, measure again; from where an earlier try broke off."""

from kit import backend, checkpoints
from kit.backend import Loaded
from kit.checkpoints import Checkpoint
from kit.data import Data
from kit.errors import KitError, problem
from kit.folder import RunFolder
from kit.options import Run
from kit.prompt import ChatFormat
from kit.record import Answer, Result
from kit.watch import Say, Show, Watch

BEGUN = "begun.json"  # what was measured before the first step


class Interrupted(Exception):
    """Stopped by Ctrl-C or SIGTERM between two steps; `result` holds what is finished."""

    def __init__(self, result: Result):
        super().__init__(f"stopped after step {result.steps}")
        self.result = result


def fit(loaded: Loaded, run: Run, data: Data, chat: ChatFormat, folder: RunFolder, show: Show, say: Say) -> Result:
    """Train the adapter of `loaded` and save it to folder/adapter, from the newest whole checkpoint if there is one.

    Raises KitError: out of memory at the last rung, a number that is none, a full disk; Interrupted: stopped on
    request, with a checkpoint and the adapter saved.
    """
    watch = Watch(loaded, run, data, chat, folder, show, say)
    checkpoint = _newest(folder, say)
    if checkpoint:
        watch.goes_on_from(checkpoint)
        watch.on_event("resumed", f"going on after step {checkpoint.about.step} of {watch.steps}", step=watch.step)
    trainer = watch.trainer = backend.trainer(loaded, run, data.train, folder.checkpoints, watch)
    checkpoints.check_disk(folder.path, (run.keep_checkpoints + 2) * backend.state_bytes(loaded), "Keeping checkpoints")
    loss_before, before = _begun(watch)
    with watch.signals():
        try:
            if checkpoint and watch.is_over:  # the trainer would do one step more
                backend.load_weights(trainer.model, checkpoint.path)
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        except KitError:
            if watch.step:
                watch.keep()  # the weights are those of the last good step
            raise
    if watch.stopped_early:
        _back_to_the_best(watch)
    with folder.new_folder("adapter") as new:
        backend.save_adapter(loaded, new)
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
        after=watch.answers() if ended else (),
    )
    if not ended:
        raise Interrupted(result)
    return result


def _newest(folder: RunFolder, say: Say) -> Checkpoint | None:
    """The newest whole checkpoint; broken ones are named."""
    found, broken = checkpoints.whole(folder.checkpoints)
    for finding in broken:
        folder.add_line("events.jsonl", {"kind": finding.id, "text": finding.what, "details": finding.details})
        say(f"{finding.what} ({finding.details[0][1]})")
    return found[-1] if found else None


def _begun(watch: Watch) -> tuple[float | None, tuple[Answer, ...]]:
    """Loss and answers of the untuned model: measured once, when the run begins."""
    there = watch.folder.read_json(BEGUN)
    if there is None:
        answers = [vars(answer) for answer in watch.answers()]
        there = {"loss": watch.held_out_loss("base model"), "answers": answers}
        watch.folder.write_json(BEGUN, there)
    return there["loss"], tuple(Answer(**answer) for answer in there["answers"])


def _back_to_the_best(watch: Watch) -> None:
    found, _ = checkpoints.whole(watch.folder.checkpoints)
    measured = [one for one in found if one.about.loss is not None]
    best = min(measured, key=lambda one: one.about.loss, default=None)
    if best is None:
        raise KitError(
            problem(
                "best-checkpoint-missing",
                "The checkpoint with the lowest held-out loss is gone.",
                "Early stopping keeps its adapter, and something deleted it.",
                "the same command again, without --early-stopping",
            )
        )
    backend.load_weights(watch.trainer.model, best.path)
    watch.on_event("best", f"the adapter is that of step {best.about.step}, the best one", step=best.about.step)
