"""The command kit.data; its examples and exit status stand with its options."""

import json
import sys
from dataclasses import asdict

from rich.table import Column, Table
from rich.text import Text

from kit import data, models, prompt
from kit.data.clean import clean
from kit.data.preview import Preview
from kit.options import DataCommand, resolve
from kit.support import console
from kit.support.errors import FAILED

BAR_CHARACTERS = 40


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: check(resolve.load_rows(sys.argv[1:] if argv is None else argv)))


def check(command: DataCommand) -> int:
    rows = command.rows
    chat = prompt.load(models.find(rows.model), rows.template, rows.train_added_tokens)
    with console.progress() as on_progress:
        checked = data.look(rows, chat, on_progress)
    fit = not any(finding.severity == "error" for finding in checked.findings)
    preview = Preview(checked, chat, command.show)
    if command.json_output:
        result = {"fit": fit, **checked.report.to_json(), "findings": list(map(asdict, checked.findings))}
        result |= {"rows": preview.to_json()} if preview.rows else {}
        print(json.dumps(result, ensure_ascii=False, indent=1))
    else:
        show(checked, rows.model, fit)
        if command.show:
            console.stdout.print(preview)
    if command.fix:
        removed, kept, gone = clean(checked, rows, command.fix)
        console.say(f"{command.fix}: {kept:,} rows kept; {removed}: {gone:,} rows removed, and why")
    return 0 if fit else FAILED


def show(checked: data.Data, model: str, fit: bool) -> None:
    """Counts, lengths, findings, verdict."""
    report = checked.report
    for file in report.files:
        console.stdout.print(Text(f"{file['name']}: {file['kind']} ({file['kind_reason']})"))
        console.stdout.print(Text(f"{file['format']} rows: {file['format_reason']}"))
    console.stdout.print(Text(f"tokens of {model}, template {report.template}\n"))
    console.stdout.print(_counts(checked))
    if report.histogram:
        console.stdout.print(_lengths(report))
    console.findings(checked.findings)
    warnings = sum(finding.severity == "warning" for finding in checked.findings)
    words = "fit to train on" if fit else "not fit to train on"
    words += f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    words += " (preferences: kit.train does not train on them yet)" if report.purpose == "preferences" else ""
    console.stdout.print(Text(f"\nverdict: {words}", style="bold green" if fit else "bold red"))


def _counts(checked: data.Data) -> Table:
    report = checked.report
    table = Table("", Column(justify="right"), box=None, show_header=False, pad_edge=False)
    table.add_row("rows read", f"{report.rows_read:,}")
    table.add_row("= to train on", f"{report.rows_trained:,}")
    table.add_row("+ to measure on", f"{report.rows_held_out:,}")
    for code, count in report.rows_left_out.items():
        table.add_row(f"+ left out: {code}", f"{count:,}")
    for name, count in (("cut", report.rows_cut), ("repeat an earlier one", report.rows_twice)):
        if count:
            table.add_row(f"of these {name}", f"{count:,}")
    share_pct = 100 * report.trained_tokens / max(1, report.tokens)
    table.add_row("samples in an epoch", f"{report.samples:,}")
    table.add_row("tokens", f"{report.tokens:,}")
    table.add_row("trained tokens", f"{report.trained_tokens:,} ({share_pct:.0f} %)")
    return table


def _lengths(report: data.DataReport) -> Table:
    """Samples by length, one bar a bin."""
    most = max(count for _, count in report.histogram)
    title = f"length in tokens (median {report.median_tokens:,}, longest {report.longest_tokens:,})"
    columns = (Column("up to", justify="right"), Column("samples", justify="right"), "")
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for longest, count in report.histogram:
        table.add_row(f"{longest:,}", f"{count:,}", "█" * -(-BAR_CHARACTERS * count // most))
    return table


if __name__ == "__main__":
    sys.exit(main())
