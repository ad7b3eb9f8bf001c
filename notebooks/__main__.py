"""Run the notebooks, each in a fresh kernel: python -m notebooks [02 05 ...]

Without --check the outputs are saved, and README.md's pictures and CLAIMS.md are made of them; one notebook runs at a
time, because seconds are in those outputs. With it nothing is written, and two run at once with a thread each: what CI
does. Exit status: 0 all ran without an error, 1 not.
"""

import argparse
import base64
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from notebooks import claims

FOLDER = Path(__file__).parent
CELL_SECONDS = 600  # longer than any cell takes: a hang ends
ENDINGS = {"image/svg+xml": "svg", "image/png": "png"}
PICTURE = "picture"  # tag of the cell whose first picture stands for the notebook
console = Console(highlight=False)


def main(argv: list[str] | None = None) -> int:
    options = _options().parse_args(argv)
    chosen = [path for path in every() if not options.names or path.name[:2] in options.names]
    if options.check:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch in each kernel
    longest_first = chosen[::-1]
    start_s = time.perf_counter()
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("cells"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars, ThreadPoolExecutor(2 if options.check else 1) as pool:
        run = partial(execute, bars=bars, save=not options.check)
        seconds = dict(zip(longest_first, pool.map(run, longest_first), strict=True))
    table = Table("notebook", "seconds", box=None, pad_edge=False)
    for path in chosen:
        taken_s = seconds[path]
        table.add_row(path.name, "failed" if taken_s is None else f"{taken_s:.0f}")
    table.add_row("together", f"{time.perf_counter() - start_s:.0f}")
    console.print(table)
    if not options.check:
        claims.PAGE.write_text(claims.page(), encoding="utf-8", newline="\n")
    return 1 if None in seconds.values() else 0


def every() -> list[Path]:
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def execute(path: Path, bars: Progress, save: bool) -> float | None:
    """Seconds from the start of the kernel to the last cell; None: a cell failed, and nothing was saved."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )  # fmt: skip
    bar = bars.add_task(path.name, total=sum(cell.cell_type == "code" for cell in notebook.cells))
    client.on_cell_executed = lambda cell, cell_index, execute_reply: bars.advance(bar)
    start_s = time.perf_counter()
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError, TimeoutError) as error:
        bars.stop_task(bar)
        console.print(f"{path.name} failed", style="red")
        console.print(Text.from_ansi(str(error)), soft_wrap=True)
        return None
    if save:
        nbformat.write(_tidied(notebook), path)
        _save_picture(notebook, path)
    bars.stop_task(bar)
    return time.perf_counter() - start_s


def _tidied(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what differs from machine to machine."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({name: cell.metadata[name] for name in ("tags",) if name in cell.metadata})
    return notebook


def _save_picture(notebook: nbformat.NotebookNode, path: Path) -> None:
    """pictures/NN.svg or .png: the first picture of the cell with the tag."""
    pictures = [
        (ENDINGS[kind], output.data[kind])
        for cell in notebook.cells
        if PICTURE in cell.metadata.get("tags", [])
        for output in cell.outputs
        for kind in ENDINGS
        if kind in output.get("data", {})
    ]
    if pictures:
        ending, data = pictures[0]
        raw = base64.b64decode(data) if ending == "png" else "".join(data).encode()
        (FOLDER / "pictures").mkdir(exist_ok=True)
        (FOLDER / "pictures" / f"{path.name[:2]}.{ending}").write_bytes(raw)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NN", help="numbers of notebooks; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
