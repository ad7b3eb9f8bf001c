"""A run in a notebook: one picture that changes while it goes on."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from IPython.display import display, update_display

from kit.notebook.pictures import Picture, progress_bar
from kit.report import plots
from kit.run.prepared import Prepared
from kit.run.reading import read
from kit.run.record import Result
from kit.support import console
from kit.support.progress import OnProgress
from kit.support.units import clock
from kit.train import train as train_prepared

REDRAW_S, REPLOT_S = 0.4, 2.0  # a plot costs about 0.1 s of the training


class LiveOutput:
    """An output of the cell that is drawn again and again."""

    def __init__(self) -> None:
        self.id = f"live-{time.monotonic_ns()}"
        display(Picture(progress_bar("starting", 0, ""), "starting"), display_id=self.id)

    def draw(self, words: str, share: float, plot: str) -> None:
        update_display(Picture(progress_bar(words, share, plot), words), display_id=self.id)


class Live:
    """How far the run is, the time left, the losses so far."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.output = LiveOutput()
        self.begun_s: dict[str, float] = {}
        self.drawn_s = self.plotted_s = 0.0
        self.plot = ""

    def show(self, stage: str, done: int, total: int, detail: str) -> None:
        now_s = time.monotonic()
        begun_s = self.begun_s.setdefault(stage, now_s)
        if now_s - self.drawn_s < REDRAW_S and done < total:
            return
        self.drawn_s = now_s
        left = f"{clock((now_s - begun_s) / (done - 1) * (total - done))} left" if 1 < done < total else ""
        if now_s - self.plotted_s >= REPLOT_S:
            self.plotted_s = now_s
            self._read_losses()
        words = "   ".join(filter(None, (f"{stage} {done}/{total}", detail, left)))
        self.output.draw(words, done / max(1, total), self.plot)

    def end(self, result: Result) -> None:
        self._read_losses()
        time_and_speed = f"{clock(result.train_s)}   {result.tokens_per_s:,.0f} tokens/s"
        self.output.draw(f"trained {result.steps} steps   {time_and_speed}", 1, self.plot)

    def _read_losses(self) -> None:
        self.plot = plots.of_run(read(self.folder)).get(plots.LOSSES, "")


def train(prepared: Prepared) -> Result:
    """kit.train's run, with the losses drawn as they come. The notebook's stop button ends it after the step, and the
    same cell goes on from there."""
    live: list[Live] = []

    @contextmanager
    def progress() -> Iterator[OnProgress]:
        live.append(Live(prepared.output))
        yield live[0].show

    result = train_prepared(prepared, progress)
    for one in live:
        one.end(result)
    return result


def train_all(runs: Mapping[str, Prepared]) -> dict[str, Result]:
    """Several runs one after another: how far all are, and the losses of each in one plot."""
    output = LiveOutput()
    results: dict[str, Result] = {}
    drawn_s = 0.0

    def draw(words: str, share: float) -> None:
        plot = plots.compared([(name, read(runs[name].output)) for name in results]) if results else ""
        output.draw(words, share, plot)

    @contextmanager
    def progress() -> Iterator[OnProgress]:
        def show(stage: str, done: int, total: int, detail: str) -> None:
            nonlocal drawn_s
            if time.monotonic() - drawn_s >= REPLOT_S:
                drawn_s = time.monotonic()
                words = f"{len(results) + 1}/{len(runs)} {name}   {stage} {done}/{total}   {detail}"
                draw(words, (len(results) + done / max(1, total)) / len(runs))

        yield show

    for name, prepared in runs.items():
        with console.saying_to(console.QUIET):
            results[name] = train_prepared(prepared, progress)
    draw(f"trained {len(runs)} runs   {clock(sum(result.train_s for result in results.values()))}", 1)
    return results
