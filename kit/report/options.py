"""The options of kit.report."""

from pathlib import Path
from typing import Annotated

from kit.options.option import Door, Typed


class ReportCommand(Door):
    """What happened in a run, as one HTML page.

      kit report runs/x                      runs/x/report.html, also of a run under way
      kit report runs/x runs/y -o both.html  compares runs in one page
      kit report --list runs                 every run and adapter there

    Exit status: 0 done, 1 failed, 2 wrong usage."""

    door = "report"

    runs: Annotated[tuple[Path, ...], Typed(positional=True)] = ()
    """Run folders; more than one are compared."""
    output: Annotated[Path | None, Typed(short="-o")] = None
    """The page. Default: report.html in the run; comparison.html beside the first of several."""
    list: Path | None = None
    """List the runs and adapters under this folder instead."""
