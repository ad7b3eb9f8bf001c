"""The results of a card as a page: one file, no script, nothing from a network."""

from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from benchmarks.gpu.slices import Record
from kit import report
from kit.support.units import GIB

BASE = Path(report.__file__).parent
RAN = {"tokens/s": "tokens_per_s", "of peak, %": "share_of_peak_pct", "busy, %": "busy_pct", "clock, MHz": "clock_mhz"}
# head of a column -> key of the figure
PRESETS = {
    "preset": "preset", "shape": "shape", **RAN, "limit, GiB": "limit_gib", "planned low": "low_gib",
    "high": "high_gib", "peak": "peak_gib", "verdict": "verdict", "given up": "given_up",
    "at once": "micro_batch_size", "checkpointing": "gradient_checkpointing",
}  # fmt: skip
SPEEDS = {
    "job": "job", "x the kit's": "over_kit", **RAN, "W": "power_w", "peak, GiB": "peak_gib",
    "tokens a pass": "tokens_a_pass", "padding, %": "padding_pct", "first step, s": "first_step_after_s",
    "loss": "held_out_loss",
}  # fmt: skip
MEMORY = {
    "job": "job", "fitted": "micro_batches", "ran out": "ran_out", "low / peak": "low_over_peak",
    "high / peak": "high_over_peak", "low above": "low_above_peak", "high below": "high_below_peak",
    "said fits, ran out": "said_fits_and_ran_out", "said no, fitted": "said_will_not_fit_and_fitted",
}  # fmt: skip
STAYS = {"job": "job", **{name: name for name in ("weights", "adapter", "gradients", "optimizer")}}
MICRO_BATCHES = {
    "job": "job", "checkpointing": "checkpointing", "samples": "samples", "tokens each": "tokens",
    "tokens/s": "tokens_per_s", "of peak, %": "share_of_peak_pct",
}  # fmt: skip


class Section(NamedTuple):
    """A table with what has to be known to read it."""

    title: str
    note: str
    heads: list[str]
    rows: list[list[str]]


def render(result: Record) -> str:
    loader = jinja2.FileSystemLoader([Path(__file__).parent, BASE])
    found = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return found.get_template("gpu.html.jinja").render(
        result=result,
        refresh_s=None,
        title=f"Measured on {result['card'].get('name') or 'no card: a rehearsal'}",
        failed=[record for record in result["jobs"] if record["status"] != "done"],
        verdict=verdict(result),
        told=told(result),
        figures=figures(result),
        sections=sections(result),
    )


def sections(result: Record) -> list[Section]:
    memory = result["memory"]
    return [
        section(
            "Presets",
            "As a user takes them, with rows of up to 1,024 tokens, held to what a card of that size leaves. Of peak: "
            "operations that a step needs, without those done again, over what the SMs can do at the clock they had. "
            "Busy: share of the time in which at least one kernel ran (nvidia-smi).",
            PRESETS,
            [one for one in result["presets"].values() if "limit_gib" in one],
        ),
        section(
            "Speed, beside the peers and with other settings",
            "The same rows, eight samples a step. Loss: of the same held-out rows after the same steps, by one ruler. "
            "First step: seconds from the start of the program.",
            SPEEDS,
            [{"job": name, **one} for name, one in result["speeds"].items() if "tokens_per_s" in one],
        ),
        section(
            "Memory, planned and measured",
            "Bounds over the peak that torch's allocator reserved: low must not be above 1, high not below it.",
            MEMORY,
            [{"job": name, **one} for name, one in {"all": memory["all"], **memory["each"]}.items()],
        ),
        section(
            "What stays in memory",
            "Planned over measured bytes.",
            STAYS,
            [{"job": name, **one} for name, one in memory["planned_over_loaded"].items()],
        ),
        section("Tokens/s by the tokens of a micro-batch", "", MICRO_BATCHES, result["micro_batches"]),
    ]


def section(title: str, note: str, columns: dict[str, str], rows: list[Record]) -> Section:
    return Section(title, note, list(columns), [[figure(row.get(key)) for key in columns.values()] for row in rows])


def figure(value: Any) -> str:
    """A number as a reader wants it; – for what is not known."""
    if value in (None, "", {}):
        return "–"
    if isinstance(value, dict):
        return f"{value['min']:.2f} to {value['max']:.2f}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def verdict(result: Record) -> str:
    """The first thing to know: did every job end well, and did the plan hold?"""
    ended = [record["status"] for record in result["jobs"]]
    words = [f"{ended.count('done')} of {len(ended) + len(result['not_run'])} jobs done"]
    words += [f"{ended.count(how)} {how}" for how in sorted({*ended} - {"done"})]
    if result["not_run"]:
        words.append(f"{len(result['not_run'])} not run yet: the same command goes on")
    wrong = result["memory"]["all"]
    if wrong["micro_batches"]:
        tried = f"{wrong['micro_batches'] + wrong['ran_out']} micro-batches tried"
        words.append(f"{tried}, {wrong['said_fits_and_ran_out']} ran out of memory that the plan said fit")
    return "; ".join(words) + "."


def told(result: Record) -> list[str]:
    """What the jobs without a table found."""
    done = {record["job"]: record["figures"] for record in result["jobs"] if record["status"] == "done"}
    words = []
    if found := done.get("resume"):
        where = ", ".join(found["state_differs_in"])
        state = f"its state differs in {where}" if where else "its state is the same to the last bit"
        words.append(f"A run that was killed goes on after step {found['went_on_after_step']}: {state}; its losses are "
                     f"{found['losses_of_resumed_apart']:g} apart, those of a repeat "
                     f"{found['losses_of_repeats_apart']:g}.")  # fmt: skip
    if found := done.get("ladder"):
        words.append(f"Memory that runs out: {'; '.join(found['given_up']) or 'it did not'}. The run finished.")
    return words


def figures(result: Record) -> dict[str, str]:
    card, versions = result["card"], result["versions"]
    total_bytes = card.get("total_bytes")
    return {
        "card": card.get("name", "none"),
        "its memory, GiB": f"{total_bytes / GIB:.2f}" if total_bytes else "–",
        "SMs": figure(card.get("sms")),
        "highest clock, MHz": figure(card.get("most_clock_mhz")),
        "driver": figure(result["machine"].get("driver")),
        **{name: figure(versions.get(name)) for name in ("torch", "unsloth", "trl", "transformers", "bitsandbytes")},
        "measured": result["measured"],
    }
