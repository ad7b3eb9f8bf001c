"""The results of a card as a page: one file, no script, nothing from a network."""

from pathlib import Path
from typing import Any

import jinja2

from benchmarks.gpu.slices import Record
from kit.report import page as report
from kit.support.units import GIB

BASE = Path(report.__file__).parent


def render(result: Record) -> str:
    loader = jinja2.FileSystemLoader([Path(__file__).parent, BASE])
    found = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["figure"] = figure
    failed = [record for record in result["jobs"] if record["status"] != "done"]
    name = result["card"].get("name") or "a rehearsal without a card"
    return found.get_template("gpu.html.jinja").render(
        result=result, title=f"Measured on {name}", failed=failed, verdict=verdict(result), figures=figures(result)
    )


def figure(value: Any) -> str:
    """A number as a reader wants it; – for what is not known."""
    if value is None or value == "":
        return "–"
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
        words.append(f"of {wrong['micro_batches'] + wrong['ran_out']} micro-batches the plan said of "
                     f"{wrong['said_fits_and_ran_out']} that they fit, and memory ran out")  # fmt: skip
    return "; ".join(words) + "."


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
