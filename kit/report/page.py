"""The record of a run -> report.html: one file, no script, nothing from a network, every text escaped."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from envcheck.facts import Finding
from kit.memory import Part
from kit.models.adapters import CONFIG
from kit.options.methods import LORA, METHODS
from kit.report import plots
from kit.report.adapter import Learnt, held, learnt
from kit.run.layout import ADAPTER, MANIFEST, REPORT, made_by
from kit.run.reading import RunRecord, read
from kit.support.errors import KitError, problem
from kit.support.files import write_whole
from kit.support.redacting import value_text, without_folders
from kit.support.units import GIB
from kit.support.untrusted import dict_or_empty, dicts_in, finite_number, texts_in
from kit.support.user_shell import quoted, shell

REFRESH_S = 60
WORDS = {"finished": "Finished", "interrupted": "Interrupted", "failed": "Failed", "running": "Running",
         "stopped": "Stopped without a word", "unknown": "Unknown"}  # fmt: skip
MACHINE = {"os": "system", "container": "container", "python": "Python", "cpu_count": "CPU cores",
           "ram_gib": "memory, GiB", "disk_free_gib": "free on disk, GiB", "driver": "NVIDIA driver"}  # fmt: skip
GPU = {"name": "graphics card", "vram_gib": "its memory, GiB", "pcie": "PCIe",
       "compute_capability": "compute capability"}  # fmt: skip


@dataclass(frozen=True)
class AnalysedRun:
    """A run with what its adapter learnt, or in words why that is not known."""

    run: RunRecord
    learnt: Learnt | None
    why_not: str


def write(folder: Path) -> Path:
    """folder/report.html of the run there, as far as it has come. Seconds, where the base's weights have to be read.

    Raises KitError: it cannot be written; nothing else for files that are missing or broken.
    """
    return save(folder / REPORT, of_run(analyse(folder)))


def analyse(folder: Path) -> AnalysedRun:
    """The run there and what it learnt. Raises nothing for files that are missing or broken."""
    run = read(folder)
    made = folder / made_by(run.method)
    try:
        if not (made / (CONFIG if made.name == ADAPTER else "config.json")).is_file():
            return AnalysedRun(run, None, f"There is no {made.name}{' yet' if run.status == 'running' else ''}.")
        if run.status == "running":
            return AnalysedRun(run, None, "It is looked at when the run has ended.")
        summary = held(made)
        return AnalysedRun(run, None, summary) if summary else AnalysedRun(run, learnt(made), "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, re.error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return AnalysedRun(run, None, without_folders(f"The {made.name} cannot be looked at: {reason}."))


def save(path: Path, page: str) -> Path:
    try:
        write_whole(path, [page.encode(errors="replace").decode()])  # half of a surrogate pair is no text
    except OSError as error:
        raise KitError(_cannot_write(path, error)) from None
    return path


def _cannot_write(path: Path, error: OSError) -> Finding:
    return problem(
        "report-not-written",
        f"{path} cannot be written.",
        f"{type(error).__name__}: {error.strerror}",
        "-o another/place.html",
        f"{shell().show_rights(str(path.parent))}       (shows who may write there)",
    )


def of_run(analysed: AnalysedRun) -> str:
    """The page as text."""
    run, what_it_learnt = analysed.run, analysed.learnt
    parts, peaks = _parts(run), _peaks(run)
    return render(
        "run.html.jinja",
        run=run,
        title=run.name,
        word_of_status=WORDS[run.status],
        tone="good" if run.status == "finished" else "busy" if run.status == "running" else "bad",
        verdict=verdict(run),
        refresh_s=REFRESH_S if run.status == "running" else None,
        figures=figures(run),
        plots=plots.of_run(run),
        memory_plot=plots.memory(run, parts, peaks),
        memory_over_time=plots.memory_over_time(run),
        parts=parts,
        peaks=peaks,
        data=_data(run),
        lengths_plot=plots.lengths(run),
        left_out=_left_out(run),
        learnt=what_it_learnt,
        why_not=analysed.why_not,
        adapter_plots=plots.of_adapter(what_it_learnt) if what_it_learnt else {},
        events=_events(run),
        notes=[without_folders(text) for text in texts_in(run.manifest.get("notes"))],
        parity=_parity(run),
        merge=_merge_command(run),
        machine=_machine(run),
        written=datetime.now().astimezone().isoformat(" ", "seconds"),
        versions={name: version for name, version in dict_or_empty(run.manifest.get("versions")).items() if version},
    )


def render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> jinja2.Environment:
    """Every value is escaped, but for the plots, which are marked as safe: matplotlib escapes their texts."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"gib": gib, "clock": clock, "figure": figure}
    return found


def gib(count_bytes: Any) -> str:
    count_bytes = finite_number(count_bytes)
    if count_bytes is None:
        return "–"
    return "< 0.01" if 0 < count_bytes < 0.005 * GIB else f"{count_bytes / GIB:.2f}"


def clock(seconds: Any) -> str:
    """Hours, minutes, seconds."""
    if (seconds := finite_number(seconds)) is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def figure(value: Any, form: str = ",.0f") -> str:
    """A number in that form; a dash where there is none."""
    value = finite_number(value)
    return "–" if value is None else format(value, form)


def verdict(run: RunRecord) -> str:
    """The outcome in a sentence or two."""
    before, after = run.loss_before, run.loss_after
    where = f"step {run.last_step:,}" + (f" of {run.planned_steps:,}" if run.planned_steps else "")
    if run.status == "failed":
        reason = without_folders(run.failure) or "the reason was told on the screen only."
        return f"It ended after {where}: {reason}"
    if run.status == "interrupted":
        return f"Stopped on request after {where}. The same command goes on from there."
    if run.status == "stopped":
        return f"The process ended after {where}: killed, or the power failed. The same command goes on."
    if run.status == "running":
        return f"At {where}{_left(run)}."
    if run.status == "unknown":
        return f"No word of how it went: {MANIFEST} is missing or broken."
    if before is None or after is None:
        return f"All of {where}. No rows were held out, so nobody knows whether it learnt or memorised."
    if after >= before:
        return f"All of {where}, but the held-out loss did not fall: {before:.3f} before, {after:.3f} after."
    text = f"Held-out loss {before:.3f} → {after:.3f}, {100 * (1 - after / before):.0f} % lower."
    best_step, best = min(run.losses, key=lambda point: point[1])
    if best < 0.99 * after:
        text += f" It was lower at step {best_step:,} ({best:.3f}): --early-stopping keeps the best adapter."
    return text


def _left(run: RunRecord) -> str:
    """By the mean time of a step so far."""
    elapsed_s = run.steps[-1].get("elapsed_s") if run.steps else None
    if not (elapsed_s and run.planned_steps and run.last_step):
        return ""
    return f", about {clock(elapsed_s / run.last_step * max(0, run.planned_steps - run.last_step))} left"


def figures(run: RunRecord) -> dict[str, str]:
    """The run in numbers."""
    last = run.steps[-1] if run.steps else {}
    result = run.result
    seconds = finite_number(result.get("train_s")) or last.get("elapsed_s")
    tokens = finite_number(result.get("tokens")) or last.get("tokens")
    trained, params = finite_number(run.plan.get("trained_params")), finite_number(run.plan.get("params"))
    return {
        "method": run.method,
        "held-out loss before": figure(run.loss_before, ".3f"),
        "held-out loss after": figure(run.loss_after, ".3f"),
        "steps": figure(run.last_step) + (f" of {run.planned_steps:,}" if run.planned_steps else ""),
        "tokens": figure(tokens),
        "time": clock(seconds),
        "tokens/s": figure(tokens / seconds if tokens and seconds else None),
        "peak memory, GiB": gib(result.get("peak_memory_bytes")),
        "trained weights": figure(trained) + (f" ({100 * trained / params:.2f} %)" if trained and params else ""),
    }


def _parts(run: RunRecord) -> list[Part]:
    sizes = [(str(part.get("name")), finite_number(part.get("low_bytes")), finite_number(part.get("high_bytes")))
             for part in dicts_in(run.plan.get("parts"))]  # fmt: skip
    return [Part(name, int(low), int(high)) for name, low, high in sizes if low is not None and high]


def _peaks(run: RunRecord) -> list[tuple[str, float]]:
    """What was measured: in the preflight and of the whole run."""
    found = [("preflight", finite_number(event.get("peak_memory_bytes"))) for event in run.events
             if event.get("kind") == "preflight"][-1:]  # fmt: skip
    found.append(("measured peak", finite_number(run.result.get("peak_memory_bytes"))))
    return [(name, peak) for name, peak in found if peak]


def _left_out(run: RunRecord) -> dict[str, float]:
    return {str(code): count for code, value in dict_or_empty(run.data.get("rows_left_out")).items()
            if (count := finite_number(value)) is not None}  # fmt: skip


def _data(run: RunRecord) -> dict[str, Any]:
    """Counts, and whether they add up."""
    names = ("rows_read", "rows_trained", "rows_held_out", "rows_cut", "rows_twice", "samples", "tokens",
             "trained_tokens", "median_tokens", "longest_tokens", "padding_pct")  # fmt: skip
    counts = {name: finite_number(run.data.get(name)) for name in names}
    kept = (counts["rows_trained"], counts["rows_held_out"])
    left_out = sum(_left_out(run).values())
    files = [
        {name: value_text(file.get(name)) for name in ("name", "format")}
        | {name: finite_number(file.get(name)) for name in ("rows", "weight")}
        for file in dicts_in(run.data.get("files"))
    ]
    return counts | {
        "files": files,
        "template": value_text(run.data.get("template")),
        "adds_up": None if None in kept else sum(filter(None, kept)) + left_out == counts["rows_read"],
    }


def _parity(run: RunRecord) -> list[dict[str, Any]]:
    """Rows as in the record, each value of the kind that the page shows."""
    found = []
    for row in dicts_in(run.parity.get("rows")):
        bound = dict_or_empty(row.get("bound"))
        numbers = ("positions", "top1_pct", "largest_logit_difference", "logit_share")
        found.append(
            {name: value_text(row.get(name)) for name in ("name", "reader", "precision", "template", "ids", "end")}
            | {name: finite_number(row.get(name)) for name in numbers}
            | {"least_top1_pct": finite_number(bound.get("least_top1_pct")), "passed": row.get("passed") is True}
            | {"most_logit_share": finite_number(bound.get("most_logit_share"))}
            | {"first_layer": without_folders(str(row.get("first_layer") or ""))}
        )
    return found


def _merge_command(run: RunRecord) -> str:
    """What makes something of the run; "" where nothing can: virtual tokens change no weight."""
    method = METHODS.get(run.method, LORA)
    if method.learns_virtual_tokens:
        return ""
    return f"python -m kit.merge {quoted(run.name)} -o DIR{' --to gguf' if method.trains_whole_model else ''}"


def _events(run: RunRecord) -> list[dict[str, Any]]:
    return [
        {
            "step": finite_number(event.get("step")),
            "kind": value_text(event.get("kind")),
            "text": without_folders(str(event.get("text", ""))),
        }
        for event in run.events
    ]


def _machine(run: RunRecord) -> list[tuple[str, str]]:
    facts = dict_or_empty(run.manifest.get("facts"))
    cards: Iterable[dict[str, Any]] = dicts_in(facts.get("gpu"))
    found = [(word, value_text(facts[name])) for name, word in MACHINE.items() if facts.get(name) is not None]
    return found + [
        (word, value_text(card[name])) for card in cards for name, word in GPU.items() if card.get(name) is not None
    ]
