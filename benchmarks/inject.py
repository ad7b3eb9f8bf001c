"""kit.train with one fault provoked in it: python -m benchmarks.inject FAULT OPTIONS OF KIT.TRAIN

The files of the kit are as they are; a fault stands before, behind or in place of one function of this process.
Signals are sent, disks are filled and folders are deleted in earnest. Step 3 is where it happens, if no other is named.
"""

import ctypes
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from kit import backend, train
from kit.backend import loading, methods, training
from kit.run import keeping, measuring, recording, watch

STEP = 3
WRITES_ALL, READS_ALL = 1, 2  # capabilities of root: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
CAPABILITY_VERSION = 0x20080522  # two words of 32 bits each for effective, permitted, inheritable
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.47 GiB"
Act = Callable[..., None]


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def output() -> Path:
    return Path(option("--output"))


def before(owner: Any, name: str, act: Act) -> None:
    """`act` is called with the arguments of each call of owner.name, first."""
    original = getattr(owner, name)

    def together(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, together)


def behind(owner: Any, name: str, act: Act) -> None:
    original = getattr(owner, name)

    def together(*args: Any, **kwargs: Any) -> Any:
        done = original(*args, **kwargs)
        act(*args, **kwargs)
        return done

    setattr(owner, name, together)


def at_step(step: int, act: Callable[[], None]) -> Act:
    """For what is handed the session, or has it: once, when that step is done."""
    numbers: Iterator[int] = count()

    def look(owner: Any, *_: Any) -> None:
        if getattr(owner, "session", owner).state.step == step and next(numbers) == 0:
            act()

    return look


def in_step(act: Callable[[], None], step: int = STEP) -> None:
    """When the step is done and nothing of it is written yet."""
    numbers: Iterator[int] = count()

    def look(self: watch.Watch, done: int, *_: Any) -> None:
        if done == step and next(numbers) == 0:
            act()

    before(watch.Watch, "on_step", look)


def memory_runs_out(owner: Any, name: str, calls: range = range(1 << 30), *, at_end: bool = False) -> None:
    """On these calls of the function, counted from 0; before it works or, at the end, when its work is done."""
    numbers = count()

    def fail(*_: Any, **__: Any) -> None:
        if next(numbers) in calls:
            raise RuntimeError(OUT_OF_MEMORY)

    (behind if at_end else before)(owner, name, fail)


def memory_runs_out_in_training(step: int, times: int) -> None:
    """In the forward pass of that step; step 0: of the preflight."""
    numbers, make = count(), backend.trainer

    def made(*args: Any) -> Any:
        trainer = make(*args)
        trying = []
        before(watch.Watch, "on_begin", lambda _: trying.append(True))
        behind(watch.Watch, "on_begin", lambda _: trying.clear())

        def fail(*_: Any, **__: Any) -> None:
            here = bool(trying) if step == 0 else not trying and trainer.state.global_step == step - 1
            if here and trainer.model.training and next(numbers) < times:
                raise RuntimeError(OUT_OF_MEMORY)

        behind(trainer, "compute_loss", fail)
        return trainer

    backend.trainer = made


def memory_runs_out_in_evaluation(wanted: Callable[[int], bool], times: int) -> None:
    numbers = count()

    def fail(trainer: Any, _: Any) -> None:
        if not trainer.model.training and wanted(trainer.state.global_step) and next(numbers) < times:
            raise RuntimeError(OUT_OF_MEMORY)

    before(training, "collate", fail)


def not_a_number(step: int = STEP) -> None:
    """The first row of that step, wherever it is computed, gives nan in the middle of the model."""
    make, bad = backend.trainer, {}

    def made(*args: Any) -> Any:
        trainer = make(*args)
        row = list(trainer._get_train_sampler())[(step - 1) * trainer.run.batch_size]
        bad["ids"] = trainer.samples[int(row)].ids

        def look(_: Any, values: tuple, named: dict[str, Any]) -> None:
            ids = named.get("input_ids", values[0] if values else None)
            length = len(bad["ids"])
            bad["places"] = [place for place in range(len(ids)) if ids[place, :length].tolist() == bad["ids"]]

        def spoil(_: Any, __: Any, given: Any) -> Any:
            if trainer.model.training and trainer.state.global_step == step - 1:
                given = given.clone()
                given[bad["places"]] = float("nan")
            return given

        layer = next(part for name, part in trainer.model.named_modules() if name.endswith("layers.1.mlp.down_proj"))
        trainer.model.register_forward_pre_hook(look, with_kwargs=True)
        layer.register_forward_hook(spoil)
        return trainer

    backend.trainer = made


def fill_disk() -> None:
    """To the last byte: what the disk of the run folder has left goes into one file beside the folder."""
    with (output().parent / "ballast").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def take_rights() -> None:
    """The run folder and all in it may be read only."""
    for path in (*output().rglob("*"), output()):
        path.chmod(0o555 if path.is_dir() else 0o444)


def obey_rights() -> None:
    """From now on this process may write what its user may write, also where that is root. See capset(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    words = (ctypes.c_uint32 * 6)()
    if libc.capget(header, words):
        raise OSError(ctypes.get_errno(), "capget")
    for place in (0, 1):  # effective, permitted
        words[place] &= ~(1 << WRITES_ALL | 1 << READS_ALL)
    if libc.capset(header, words):
        raise OSError(ctypes.get_errno(), "capset")


def send(number: int) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


def killed() -> None:
    """As by kill -9 or the task manager."""
    psutil.Process().kill()


def twice_interrupted() -> None:
    """The second time while the checkpoint is written that the first one asks for."""
    in_step(send(signal.SIGINT))
    before(
        keeping.Keeper, "keep", at_step(STEP, lambda: before(backend, "save_state", lambda *_: send(signal.SIGINT)()))
    )


def killed_while_writing(step: int) -> None:
    """When the files of a checkpoint are there and it has no name yet."""

    def look(trainer: Any, _: Path) -> None:
        if trainer.state.global_step == step:
            killed()

    behind(backend, "save_state", look)


def shift_clock(seconds: float) -> None:
    """time.time, time.time_ns and datetime.now from now on; the clock that only goes forward is left alone."""
    import datetime as dates

    now, now_ns, real = time.time, time.time_ns, dates.datetime

    class Shifted(real):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.now(tz) + dates.timedelta(seconds=seconds)

    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)
    dates.datetime = recording.datetime = Shifted


def wait_for_other() -> None:
    """Tells that the step is done, and goes on when it is told to."""
    (output().parent / "waiting").touch()
    while not (output().parent / "go").exists():
        time.sleep(0.05)


def lose_data() -> None:
    """The data file and the cache of what was encoded from it are gone."""
    Path(option("--data")).unlink()
    shutil.rmtree(os.environ["KIT_CACHE"])


def change_data() -> None:
    with Path(option("--data")).open("a", encoding="utf-8", newline="\n") as file:
        file.write('{"question": "new?", "answer": "new"}\n')


def protect_at_step() -> None:
    obey_rights()
    in_step(take_rights)


FAULTS: dict[str, Callable[[], None]] = {
    "oom-load": lambda: memory_runs_out(loading, "_load_by_transformers"),
    "oom-adapt": lambda: memory_runs_out(methods, "_by_peft"),
    "oom-trainer": lambda: memory_runs_out(backend, "trainer"),
    "oom-preflight-once": lambda: memory_runs_out_in_training(0, 1),
    "oom-preflight": lambda: memory_runs_out_in_training(0, 1 << 30),
    "oom-step-once": lambda: memory_runs_out_in_training(STEP, 1),
    "oom-step": lambda: memory_runs_out_in_training(STEP, 1 << 30),
    "oom-between-steps": lambda: memory_runs_out(watch.Watch, "on_step", range(STEP, STEP + 1)),
    "oom-evaluation-once": lambda: memory_runs_out_in_evaluation(lambda step: step == STEP, 1),
    "oom-evaluation": lambda: memory_runs_out_in_evaluation(lambda step: step == STEP, 1 << 30),
    "oom-last-evaluation": lambda: memory_runs_out_in_evaluation(lambda step: step == 6, 1 << 30),
    "oom-answers-before": lambda: memory_runs_out(backend, "answer", range(1, 2)),
    "oom-answers-after": lambda: memory_runs_out(backend, "answer", range(8, 9)),
    "oom-checkpoint-once": lambda: memory_runs_out(backend, "save_state", range(2, 3), at_end=True),
    "oom-checkpoint": lambda: memory_runs_out(backend, "save_state"),
    "oom-adapter-once": lambda: memory_runs_out(backend, "save_adapter", range(1)),
    "oom-adapter": lambda: memory_runs_out(backend, "save_adapter"),
    "nan": not_a_number,
    "kill-before-checkpoint": lambda: before(keeping.Keeper, "keep", at_step(1, killed)),
    "kill": lambda: before(keeping.Keeper, "keep", at_step(STEP, killed)),
    "kill-while-writing": lambda: killed_while_writing(STEP),
    "disk-first-checkpoint": lambda: before(keeping.Keeper, "keep", at_step(1, fill_disk)),
    "disk-later-checkpoint": lambda: before(keeping.Keeper, "keep", at_step(STEP, fill_disk)),
    "disk-small-files": lambda: behind(watch.Watch, "on_begin", lambda _: fill_disk()),
    "disk-adapter": lambda: before(backend, "save_adapter", lambda *_: fill_disk()),
    "disk-manifest": lambda: before(measuring, "answers", at_step(6, fill_disk)),
    "read-only-start": obey_rights,
    "read-only": protect_at_step,
    "clock-back": lambda: in_step(lambda: shift_clock(-86_400)),
    "clock-forward": lambda: in_step(lambda: shift_clock(365 * 86_400)),
    "second-process": lambda: in_step(wait_for_other),
    "sigterm": lambda: in_step(send(signal.SIGTERM)),
    "ctrl-c": lambda: in_step(send(signal.SIGINT)),
    "ctrl-c-twice": twice_interrupted,
    "folder-deleted": lambda: in_step(lambda: shutil.rmtree(output())),
    "data-lost": lambda: in_step(lose_data),
    "data-changed": lambda: in_step(change_data),
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.exit(train.main(sys.argv[2:]))
