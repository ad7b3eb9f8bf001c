"""Several runs on one page: results side by side, the options they differ in, their losses in one plot."""

from collections.abc import Sequence
from pathlib import Path

from kit.report import plots
from kit.report.adapter import HELD
from kit.report.page import WORDS, AnalysedRun, figures, render, verdict
from kit.run.reading import RunRecord

PAGE = "comparison.html"
PLACES = {"output"}  # options that say where, not what


def page(analysed: Sequence[AnalysedRun]) -> str:
    """The page as text."""
    runs = [each.run for each in analysed]
    named = list(zip(names(runs), runs, strict=True))
    numbers = [figures(run) for _, run in named]
    results = {name: [each[name] for each in numbers] for name in numbers[0]}
    results[f"rank holding {100 * HELD:.0f} %"] = [
        f"{each.learnt.rank_for(HELD)} of {each.learnt.rank}" if each.learnt else "–" for each in analysed
    ]
    return render(
        "comparison.html.jinja",
        title="Comparison of " + ", ".join(name for name, _ in named),
        refresh_s=None,
        runs=[(name, WORDS[run.status], verdict(run)) for name, run in named],
        results=results,
        differences=differences(runs),
        plot=plots.compared(named) if any(run.steps or run.losses for _, run in named) else "",
        samples=_samples(named),
    )


def names(runs: Sequence[RunRecord]) -> list[str]:
    """Each run's folder; with the folder above it, or a number, where two would have one name."""
    found = [run.name for run in runs]
    if len(set(found)) < len(found):
        found = ["/".join(run.folder.absolute().parts[-2:]) for run in runs]
    if len(set(found)) < len(found):
        found = [f"{number}: {name}" for number, name in enumerate(found, start=1)]
    return found


def differences(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Option -> its value in each run, where they are not all the same; the content of the data too."""
    options = [run.options for run in runs]
    known = dict.fromkeys(name for each in options for name in each if name not in PLACES)
    found = {name: [each[name]["value"] if name in each else "–" for each in options] for name in known}
    found["data, SHA-256"] = [str(run.data.get("sha256", "–"))[:12] for run in runs]
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def default_path(runs: Sequence[Path]) -> Path:
    """Beside the first run."""
    return runs[0].absolute().parent / PAGE


def _samples(runs: Sequence[tuple[str, RunRecord]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Question -> the newest answer of each run that was asked it."""
    questions = dict.fromkeys(sample.question for _, run in runs for sample in run.samples if sample.answers)
    newest = [(name, {sample.question: sample.answers[-1] for sample in run.samples if sample.answers})
              for name, run in runs]  # fmt: skip
    return [
        (question, [(f"{name}, {answers[question][0]}", answers[question][1])
                    for name, answers in newest if question in answers])
        for question in questions
    ]  # fmt: skip
