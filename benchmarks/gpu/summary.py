"""The records of all jobs -> one object: what a reader wants to know first, then every figure."""

from collections.abc import Iterable
from datetime import UTC, datetime

from benchmarks.flops import needed_flops_per_token, peak_flops
from benchmarks.gpu.catalogue import PROPERTIES, THE_KIT, CardJob
from benchmarks.gpu.shapes import config_of
from benchmarks.gpu.slices import Record
from kit.memory import Shape, trained_params
from kit.options import Run
from kit.support.units import GIB


def combine(jobs: list[CardJob], records: dict[str, Record], about: Record) -> Record:
    """about: machine, versions and whether the jobs ran in small."""
    known = [records[job.name] for job in jobs if job.name in records]
    card = records.get(PROPERTIES, {}).get("figures", {})
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "complete": len(known) == len(jobs),
        "not_run": [job.name for job in jobs if job.name not in records],
        "codes": sorted({record["code"] for record in known}),
        **about,
        "card": card,
        "memory": memory({record["job"]: record for record in known if record["job"].startswith("memory-")}),
        "presets": {record["job"]: preset(record, card) for record in known if record["job"].startswith("preset-")},
        "speeds": speeds([record for record in known if record["job"].startswith(("speed-", "setting-"))], card),
        "micro_batches": [row for record in known if record["job"].startswith("memory-")
                          for row in micro_batches(record, card)],
        "jobs": known,
    }  # fmt: skip


def memory(records: dict[str, Record]) -> Record:
    """planned / measured of all micro-batches, and of each job."""
    rows = {name: record["figures"].get("rows", []) for name, record in records.items()}
    return {"all": bounds(row for found in rows.values() for row in found)} | {
        "each": {name: bounds(found) for name, found in rows.items() if found},
        "planned_over_loaded": {name: record["figures"]["planned_over_loaded"] for name, record in records.items()
                                if "planned_over_loaded" in record["figures"]},
    }  # fmt: skip


def bounds(rows: Iterable[Record]) -> Record:
    """How the bounds stand to the peaks, and how often the verdict was wrong: said fits and ran out, or the other."""
    rows = list(rows)
    fitted, lost = [row for row in rows if "peak_bytes" in row], [row for row in rows if "out_of_memory" in row]

    def range_of(bound: str) -> Record:
        ratios = [row[bound] / row["peak_bytes"] for row in fitted]
        return {"min": round(min(ratios), 3), "max": round(max(ratios), 3)} if ratios else {}

    return {
        "micro_batches": len(fitted),
        "ran_out": len(lost),
        "low_over_peak": range_of("low_bytes"),
        "high_over_peak": range_of("high_bytes"),
        "high_below_peak": sum(row["high_bytes"] < row["peak_bytes"] for row in fitted),
        "low_above_peak": sum(row["low_bytes"] > row["peak_bytes"] for row in fitted),
        "said_fits_and_ran_out": sum(row["verdict"] == "fits" for row in lost),
        "said_will_not_fit_and_fitted": sum(row["verdict"] == "will not fit" for row in fitted),
    }


def share_pct(flops_per_s: float, card: Record, clock_mhz: float | None) -> float | None:
    """Of what the card can do at that clock; None where its rate or the clock is not known."""
    if not (card.get("sms") and clock_mhz):
        return None
    peak = peak_flops(card["name"], tuple(card["capability"]), card["sms"], clock_mhz)
    return round(100 * flops_per_s / peak, 1) if peak else None


def whole_run(record: Record, card: Record) -> Record:
    """Speed, share of the card's peak, share of the time it was busy, clock; or how the job ended."""
    figures, gpu = record["figures"], record["gpu"]
    if "tokens_per_s" not in figures:
        return {"status": record["status"], "why": record["why"]}
    names = ("tool", "tokens_per_s", "tokens_a_pass", "padding_pct", "first_step_after_s", "held_out_loss")
    flops_per_s = figures["tokens_per_s"] * figures["flops_per_token"]
    return {
        "status": record["status"],
        **{name: figures[name] for name in names if name in figures},
        "peak_gib": round(figures["peak_bytes"] / GIB, 2),
        "share_of_peak_pct": share_pct(flops_per_s, card, gpu.get("clock_mhz")),
        **gpu,
    }


def speeds(records: list[Record], card: Record) -> Record:
    """Of each job; over_kit: its tokens/s over those of the kit as it comes."""
    found = {record["job"]: whole_run(record, card) for record in records}
    kit = found.get(THE_KIT, {}).get("tokens_per_s")
    for one in found.values():
        if kit and "tokens_per_s" in one:
            one["over_kit"] = round(one["tokens_per_s"] / kit, 3)
    return found


def preset(record: Record, card: Record) -> Record:
    """A preset as it ran: what its plan chose, and whether it held."""
    figures = record["figures"]
    shown = whole_run(record, card) | {"preset": record["job"].removeprefix("preset-").rpartition("-")[0]}
    if "plan" not in figures:
        return shown
    planned = figures["plan"]
    return shown | {
        "shape": record["model"],
        "limit_gib": round(planned["available_bytes"] / GIB, 2) if planned["available_bytes"] else None,
        "low_gib": round(planned["low_bytes"] / GIB, 2),
        "high_gib": round(planned["high_bytes"] / GIB, 2),
        "verdict": planned["verdict"],
        "micro_batch_size": planned["settings"]["micro_batch_size"],
        "gradient_checkpointing": planned["settings"]["gradient_checkpointing"],
        "given_up": len(figures["given_up"]),
    }


def micro_batches(record: Record, card: Record) -> list[Record]:
    """tokens/s of the full micro-batches in the largest card, by their tokens."""
    rows = [row for row in record["figures"].get("rows", []) if "seconds" in row and not row["padded"]]
    widest = max((row["limit_gib"] for row in rows), default=0)
    made = []
    for row in rows:
        if row["limit_gib"] < widest:
            continue
        tokens = row["samples"] * row["tokens"]
        shape = Shape.of(config_of(record["model"]))
        flops = tokens * needed_flops_per_token(shape, trained_params(shape, Run()), row["tokens"], 1)
        speed = {"tokens_per_s": round(tokens / row["seconds"], 1)}
        clock_mhz = record["gpu"].get("clock_mhz")
        names = ("checkpointing", "samples", "tokens")
        shared = {"share_of_peak_pct": share_pct(flops / row["seconds"], card, clock_mhz)}
        made.append({"job": record["job"], **{name: row[name] for name in names}, **speed, **shared})
    return made
