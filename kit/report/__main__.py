"""The command kit.report; its examples and exit status stand with its options."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from envcheck.facts import Finding
from kit.models.adapters import CONFIG
from kit.options.command_line import parse, typed_as
from kit.report import listing
from kit.report.options import ReportCommand
from kit.run.layout import MANIFEST, OPTIONS, REPORT
from kit.run.reading import is_run
from kit.support import console
from kit.support.errors import USAGE, KitError, failure, problem
from kit.support.user_shell import quoted, shell

if TYPE_CHECKING:
    from kit.report.page import AnalysedRun


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: command_line(sys.argv[1:] if argv is None else argv))


def command_line(argv: list[str]) -> int:
    command = parse(ReportCommand, argv)
    if (command.list is None) == (not command.runs):
        raise failure(
            "report-of-what",
            "Either runs or --list DIR must be given.",
            "A page is of one run or of several; a list is of a folder.",
            f"{typed_as('report')} runs/x",
            f"{typed_as('report')} --list runs",
            status=USAGE,
        )
    return show_list(command.list, command.json_output) if command.list else report(command)


def report(command: ReportCommand) -> int:
    from kit.report import comparing, page  # here, not above: a list needs no plots

    wrong = [finding for folder in command.runs if (finding := _not_a_run(folder))]
    if wrong:
        raise KitError(*wrong)
    with console.busy("reading"):
        runs = [page.analyse(folder) for folder in command.runs]
        if len(runs) == 1:
            path, text = command.output or command.runs[0] / REPORT, page.of_run(runs[0])
        else:
            path, text = command.output or comparing.default_path(command.runs), comparing.page(runs)
    page.save(path, text)
    for each in runs:
        for text in each.run.unread:
            console.note(f"{each.run.name}: {text}")
    if command.json_output:
        print(
            json.dumps({"report": str(path), "runs": [_to_json(each) for each in runs]}, ensure_ascii=False, indent=1)
        )
        return 0
    for each in runs:
        console.stdout.print(Text(f"{each.run.name}: {page.WORDS[each.run.status]}. {page.verdict(each.run)}"))
        for line in each.learnt.advice() if each.learnt else (each.why_not,):
            console.stdout.print(Text(f"  {line}"))
    console.stdout.print(Text(f"{path}  ({path.stat().st_size / 1e6:.2f} MB)"))
    return 0


def _to_json(analysed: "AnalysedRun") -> dict[str, Any]:
    from kit.report import page

    run = analysed.run
    return {
        "folder": str(run.folder),
        "status": run.status,
        "verdict": page.verdict(run),
        "losses": run.losses,
        "result": run.result or None,
        "verified": run.verified,
        "unread": run.unread,
        "adapter": analysed.learnt.to_json() if analysed.learnt else None,
        "why_no_adapter": analysed.why_not or None,
    }


def _not_a_run(folder: Path) -> Finding | None:
    try:
        if is_run(folder):
            return None
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
    except OSError as error:
        return problem(
            "run-unreadable",
            f"{folder} cannot be looked into.",
            f"{type(error).__name__}: {error.strerror}",
            f"{shell().show_rights(str(folder))}       (shows who may)",
        )
    if there is None:
        what = f"{folder} is a file." if folder.exists() else f"There is no folder {folder}."
        return problem("report-no-run", what, "A report is of the folder of a run.", "python -m kit.report --list runs")
    if {CONFIG, "config.json"} & set(there) and is_run(folder.absolute().parent):
        return problem(
            "report-of-an-adapter",
            f"{folder} is the {'adapter' if CONFIG in there else 'model'} of a run.",
            "The report is of the run: what was learnt is a part of it.",
            f"python -m kit.report {quoted(folder.parent)}",
        )
    return problem(
        "report-no-run",
        f"{folder} is no run of the kit.",
        f"A run holds {OPTIONS} and {MANIFEST}." if there else "It is empty.",
        f"python -m kit.report --list {quoted(folder)}       (shows the runs below it)",
        details={"found": ", ".join(there[:8])} if there else None,
    )


def show_list(folder: Path, as_json: bool) -> int:
    found, unread = listing.items(folder)
    for place in unread:
        console.note(f"{place} cannot be looked into")
    if as_json:
        print(json.dumps([asdict(item) for item in found], ensure_ascii=False, indent=1))
        return 0
    table = Table(box=None, pad_edge=False)
    for name in ("name", "status", "base", "method", "rank", "data", "held-out loss", "MB", "verified"):
        table.add_column(name, justify="right" if name in ("rank", "held-out loss", "MB") else "left", overflow="fold")
    words = {True: "yes", False: "NO", None: "–"}
    for item in found:
        before = f"{item.loss_before:.3f} → " if item.loss_before is not None and item.loss is not None else ""
        loss = "–" if item.loss is None else f"{before}{item.loss:.3f}"
        size = "–" if item.size_bytes is None else f"{item.size_bytes / 1e6:,.1f}"
        what = (item.path, item.status or item.kind, item.base, item.method or "–", str(item.rank or "–"))
        cells = (*what, item.data or "–", loss, size)
        table.add_row(*map(Text, cells), words[item.verified])
    console.stdout.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
