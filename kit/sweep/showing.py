"""The record of a sweep -> terminal, files and page."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kit.run.folder import cannot_write
from kit.support.errors import KitError
from kit.support.files import write_whole
from kit.sweep import plotting
from kit.sweep.results import Sweep
from kit.sweep.trials import name_of

PAGE, PLOT = "sweep.html", "plot.svg"
FILE_WIDTH = 200  # characters
LEFT = {"vs best", "status", "verdict", "target_modules"}  # columns of words


def save(sweep: Sweep) -> None:
    """Every file of the sweep's folder; the plot once there is a loss. Raises KitError: the disk does not take them."""
    from kit.report import page  # here, not above: it imports matplotlib

    try:
        sweep.save()
        if plot := plotting.plot(sweep):
            write_whole(sweep.folder / PLOT, [plot])
    except OSError as error:
        raise KitError(cannot_write(Path(error.filename or sweep.folder), error)) from error
    page.save(sweep.folder / PAGE, page_of(sweep))


def show(console: Console, sweep: Sweep) -> None:
    """A row for each setting, the best one bold."""
    show_table(console, *sweep.cells(), [setting is sweep.best for setting in sweep.settings])


def show_table(console: Console, head: list[str], rows: list[list[str]], bold: list[bool]) -> None:
    """Where no terminal limits it, as wide as it is; in a narrow one the names break, the figures do not."""
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(head):
        width = None if name in ("status", "verdict") else max(len(row[place]) for row in rows)
        table.add_column(name, justify="left" if name in LEFT else "right", overflow="fold", min_width=width)
    for row, is_bold in zip(rows, bold, strict=True):
        table.add_row(*map(Text, row), style="bold" if is_bold else "")
    if not console.is_terminal:
        console = Console(file=console.file, width=FILE_WIDTH, highlight=False)
    console.print(table)


def page_of(sweep: Sweep) -> str:
    """The page as HTML, every text escaped."""
    from kit.report import page

    return page.render(
        "sweep.html.jinja",
        title=f"Sweep {sweep.folder.name}",
        refresh_s=None,
        outcome=sweep.outcome(),
        notes=sweep.notes,
        table=sweep.html_table(),
        plot=plotting.drawn(sweep),
        trials=[(name_of(trial.values), trial) for trial in sweep.trials],
    )
