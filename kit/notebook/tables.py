"""Records as tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from IPython.display import display

from envcheck.card import Table
from kit.memory import GIB
from kit.notebook.pictures import Picture, stacked
from kit.record import Answer, Result
from kit.report import page, plots
from kit.report.reading import read
from kit.train import Prepared


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
    seen = page.look(Path(folder))
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


def figures(runs: Mapping[str, Path] | Sequence[Path]) -> Table:
    """Runs side by side: loss before and after, trained weights, time, memory."""
    named = runs if isinstance(runs, Mapping) else {Path(folder).name: Path(folder) for folder in runs}
    lines = []
    for name, folder in named.items():
        seen = read(Path(folder))
        result, plan = seen.result, seen.plan
        lines.append((name, f"{plan.get('trained_params', 0):,}", f"{seen.loss_before:.3f}", f"{seen.loss_after:.3f}",
                      f"{result['train_s']:.1f}", f"{result['peak_memory_bytes'] / GIB:.2f}"))  # fmt: skip
    heads = ("run", "trained weights", "held-out loss before", "after", "training, s", "peak memory, GiB")
    return Table((heads, *lines))
