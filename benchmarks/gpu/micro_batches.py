"""Micro-batches of one model, forward and back, in less and less of the card: peak, seconds, and what the plan said.

python -m benchmarks.gpu.micro_batches MODEL SPEC      prints one JSON object

SPEC, as JSON. options: of kit.options.Run, settled. ways: of checkpointing, the first as the model is adapted; a later
one is switched on then. sizes_gib: of cards, the largest first. grid: [[samples, tokens, padded], ...]; padded: the
first sample is half as long. The peak is what torch's allocator reserved; in a smaller card only those micro-batches
are tried whose peak is near it.
"""

import gc
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from benchmarks import inside
from kit.memory import Plan, plan
from kit.options import Run
from kit.support.errors import KitError
from kit.support.units import GIB

NEAR = (0.5, 1.5)  # of a smaller card's memory


class Spec(NamedTuple):
    options: dict[str, Any]
    ways: list[str]
    limits_gib: list[float]
    grid: list[tuple[int, int, bool]]


def measured(spec: Spec, looked: inside.Look, model: Any) -> list[dict[str, Any]]:
    """The rows: each way, each limit, each micro-batch."""
    from kit.backend.methods import recompute_activations

    rows: list[dict[str, Any]] = []
    for way in spec.ways:
        if way != spec.ways[0]:
            recompute_activations(looked.loaded)
        peaks: dict[Any, int] = {}
        for limit_gib in spec.limits_gib:
            set_limit(looked.loaded.device, limit_gib)
            for point in spec.grid:
                known = peaks.get(tuple(point), 0) / (limit_gib * GIB)
                if limit_gib != spec.limits_gib[0] and not NEAR[0] < known < NEAR[1]:
                    continue
                cost = cost_of(looked, model, *point)
                peaks[tuple(point)] = cost.get("peak_bytes", 0)
                names = dict(zip(("samples", "tokens", "padded"), point, strict=True))
                rows.append({"checkpointing": way, "limit_gib": limit_gib, **names, **cost})
    return rows


def set_limit(device: str, limit_gib: float) -> None:
    import torch

    if device == "cuda":
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * GIB / total_bytes))


def cost_of(looked: inside.Look, model: Any, samples: int, tokens: int, padded: bool) -> dict[str, Any]:
    """Peak and seconds of one micro-batch on a card, or that memory ran out; on a CPU the bytes that autograd keeps."""
    if looked.loaded.device != "cuda":
        return {"saved_bytes": looked.saved_bytes(model, samples, tokens, padded)}
    batch, items = looked.batch(samples, tokens, padded)
    try:
        passes = [_passes(looked, model, batch, items) for _ in range(2)]  # the first makes the kernels ready
    except Exception as error:
        from kit.backend import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return {"out_of_memory": str(error).splitlines()[0]}
    finally:
        model.zero_grad()
    peak_bytes, allocated_bytes, _ = passes[0]
    return {"peak_bytes": peak_bytes, "allocated_bytes": allocated_bytes, "seconds": round(passes[1][2], 4)}


def _passes(looked: inside.Look, model: Any, batch: Any, items: Any) -> tuple[int, int, float]:
    import torch

    model.zero_grad()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start_s = time.perf_counter()
    looked.compute(model, dict(batch), num_items_in_batch=items).backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated(), time.perf_counter() - start_s


def planned(folder: Path, spec: Spec, row: dict[str, Any]) -> Plan:
    """The plan of that micro-batch, of a card of that limit."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    way = {"gradient_checkpointing": row["checkpointing"], "micro_batch_size": row["samples"]}
    lengths = SimpleNamespace(longest_tokens=row["tokens"], samples=1, tokens=row["tokens"])
    made = plan(config, Run(**{**spec.options, **way}), lengths, int(row["limit_gib"] * GIB))
    assert made, "these shapes are known"
    return made


def with_plan(folder: Path, spec: Spec, row: dict[str, Any]) -> dict[str, Any]:
    made = planned(folder, spec, row)
    return {**row, "low_bytes": made.low_bytes, "high_bytes": made.high_bytes, "verdict": made.verdict}


def main() -> None:
    folder, spec = Path(sys.argv[1]), Spec(**json.loads(sys.argv[2]))
    options = {**spec.options, "gradient_checkpointing": spec.ways[0]}
    if options["device"] == "cuda":
        options["vram_limit_gib"] = spec.limits_gib[0]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            real = inside.look(str(folder), options, partial(measured, spec), Path(scratch))
    except KitError as error:
        if error.findings[0].id != "out-of-memory-at-load":
            raise
        smallest = {"checkpointing": spec.ways[0], "limit_gib": spec.limits_gib[0], "samples": 1, "tokens": 1}
        row = with_plan(folder, spec, {**smallest, "padded": False, "out_of_memory": error.findings[0].why})
        print(json.dumps({"loaded": False, "rows": [row]}))
        return
    rows = [with_plan(folder, spec, row) for row in real.pop("grid")]
    parts = {part.name: part.low_bytes for part in planned(folder, spec, rows[0]).parts}
    parts["weights"] = sum(parts.get(name, 0) for name in ("4-bit weights", "weights", "embedding", "head", "norms"))
    ratios = {name: round(parts[name] / real[name], 4) for name in real if real[name]}
    print(json.dumps({"loaded": True, "planned_over_loaded": ratios, "rows": rows}))


if __name__ == "__main__":
    main()
