"""What a run must not lose: its checkpoints, and in the end what it made. Errors of the disk are lived with."""

import tempfile
import time
from pathlib import Path
from typing import Any

from kit import backend
from kit.run import checkpoints
from kit.run.checkpoints import About
from kit.run.folder import cannot_write
from kit.run.layout import made_by
from kit.run.session import Session
from kit.support.errors import KitError, failure, first_line
from kit.support.units import MIB


class Keeper:
    """Writes checkpoints. One that cannot be written stops nothing: earlier ones stay, another try follows; at once
    where memory ran out, which is freed."""

    def __init__(self, session: Session, trainer: Any):
        self.session, self.trainer = session, trainer
        self.last_try_s = time.perf_counter()
        self.size_bytes = 0  # of the last one; unknown before the first

    def is_due(self) -> bool:
        minutes = (time.perf_counter() - self.last_try_s) / 60
        return minutes >= self.session.run.checkpoint_minutes

    def keep(self, loss: float | None = None) -> None:
        """A checkpoint of this moment; loss: held-out, where it was just measured."""
        state, folder = self.session.state, self.session.folder.path
        about = About(state.step, state.tokens, round(state.elapsed_s, 3), loss)
        self.last_try_s = time.perf_counter()
        # whatever the error is: safetensors has some of its own for a full disk, and a checkpoint is no reason to end
        error = backend.attempt(lambda: self._write(about))
        if not error:
            state.kept_step = state.step
            return
        free_bytes = checkpoints.free_bytes(folder)
        where = f"{folder} has {free_bytes / MIB:,.0f} MiB free"
        text = (
            f"no checkpoint at step {state.step}: {first_line(error)}; {where}; the run goes on and tries again later"
        )
        facts = {"step": state.step, "error": type(error).__name__, "free_bytes": free_bytes}
        self.session.journal.event("checkpoint-failed", text, **facts)

    def _write(self, about: About) -> None:
        """Raises KitError before anything is written where there is no room for one as large as the last."""
        folder = self.session.folder.checkpoints
        checkpoints.check_disk(folder, self.size_bytes, "A checkpoint")
        made = checkpoints.write(folder, about, lambda path: backend.save_state(self.trainer, path))
        self.size_bytes = made.count_bytes
        checkpoints.prune(folder, self.session.run.keep_checkpoints)


def check_room(session: Session) -> None:
    """Raises KitError: the disk has too little for the checkpoints and what the run makes."""
    loaded = session.loaded
    need_bytes = (session.run.keep_checkpoints + 2) * backend.state_bytes(loaded) + backend.saved_bytes(loaded)
    checkpoints.check_disk(session.folder.path, need_bytes, "Keeping checkpoints")


def save(session: Session) -> None:
    """What the run made, into its folder. Where it cannot be, after another try, and no checkpoint holds the last step:
    elsewhere.

    Raises KitError: not saved in the run folder.
    """
    error = backend.attempt(lambda: _save_in_folder(session))  # safetensors has errors of its own for a full disk
    if not error:
        return
    if isinstance(error, KitError):  # the folder is another run's by now
        save_elsewhere(session)
        raise error
    made, state = made_by(session.run.method), session.state
    details = {}
    if state.kept_step == state.step:
        kept = f"Nothing is lost: the checkpoint of step {state.step} holds all of it, and only the saving is left."
    else:
        kept = f"No checkpoint of step {state.step} could be written either; the newest is of step {state.kept_step}."
        details = {f"{made} saved in": _in_new_folder(session) or "no other folder could be written to"}
    finding = cannot_write(session.folder.path / made, error)
    raise failure(
        f"{made}-not-saved",
        f"The {made} of step {state.step} cannot be saved: {finding.why}.",
        kept,
        "close what else takes memory" if backend.is_out_of_memory(error) else finding.fix[0],
        f"then the same command: it saves the {made}",
        details=details,
    ) from error


def save_elsewhere(session: Session) -> None:
    """For a run that lost its folder: the user hears where."""
    step = session.state.step
    place = _in_new_folder(session) if step else None
    if place:
        session.say(f"the {made_by(session.run.method)} of step {step} is in {place}")


def _save_in_folder(session: Session) -> None:
    session.folder.restore()
    with session.folder.new_folder(made_by(session.run.method)) as new:
        backend.save_adapter(session.loaded, new)


def _in_new_folder(session: Session) -> Path | None:
    """In the user's home or where temporary files go."""
    for place in (Path.home(), Path(tempfile.gettempdir())):
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"kit-{made_by(session.run.method)}-", dir=place))
            backend.save_adapter(session.loaded, folder)
        except Exception:
            continue
        return folder
    return None
