"""Records as tables."""

from pathlib import Path

from IPython.display import display

from envcheck.card import Table
from kit.notebook.pictures import Picture, stacked
from kit.report import page, plots
from kit.run.prepared import Prepared
from kit.run.record import Answer, Result


def settings(prepared: Prepared) -> Table:
    """What was chosen for this machine, and why."""
    run = prepared.run
    return Table(
        (("option", "value", "why"), *((name, getattr(run, name), why) for name, why in prepared.reasons.items()))
    )


def data(prepared: Prepared) -> Table:
    """Where every row of the files went, and how much of it is trained."""
    seen = prepared.data.report
    return Table(
        (
            ("rows read", "to train on", "held out", "left out", "samples", "tokens", "of them trained"),
            (
                *map("{:,}".format, (seen.rows_read, seen.rows_trained, seen.rows_held_out)),
                f"{sum(seen.rows_left_out.values()):,}",
                *map("{:,}".format, (seen.samples, seen.tokens, seen.trained_tokens)),
            ),
        )
    )


def report(folder: Path) -> Picture:
    """The figures of a run as a table, and the plots of its report."""
    seen = page.analyse(Path(folder))
    figures_of = page.figures(seen.run)
    display(Table((tuple(figures_of), tuple(figures_of.values()))))
    drawn = plots.of_run(seen.run) | (plots.of_adapter(seen.learnt) if seen.learnt else {})
    return stacked(list(drawn.items()), f"the plots of {seen.run.name}", columns=2)


def before_and_after(result: Result) -> Table:
    """The run's questions, answered by the untuned and by the tuned model."""
    pairs = zip(result.before, result.after, strict=True)
    return Table((("question", "before", "after", "tokens/s before, after"),
                  *((one.question, one.text, two.text, _speeds(one, two)) for one, two in pairs)))  # fmt: skip


def _speeds(*answers: Answer) -> str:
    return ", ".join(f"{answer.tokens_per_s:.0f}" for answer in answers)
