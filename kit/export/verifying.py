"""What was written, read again and compared with the tuned model; the record of it, and its table."""

import json
import math
import os
from dataclasses import replace

from rich.table import Table

from envcheck.facts import Finding
from kit.export import parity, shards
from kit.export.job import Job
from kit.export.model_folder import WrittenFiles
from kit.export.parity import Exported, Parity
from kit.export.parity_prompts import ParityPrompts
from kit.models.families import head_dim
from kit.run.layout import NOT_VERIFIED, PARITY
from kit.support.errors import failure, first_line, problem
from kit.support.files import delete, write_whole
from kit.support.progress import OnProgress

SAME = {True: "equal", False: "DIFFER", None: "-"}


def verify(job: Job, written: WrittenFiles, prompts: ParityPrompts, on_progress: OnProgress) -> Parity:
    """The record of it goes beside the model and into the run folder. Raises KitError: not enough memory for it."""
    from kit.backend import candidates, card_error, is_out_of_memory

    device, arithmetic = candidates.choose_device(sum(math.prod(weight.shape) for weight in job.weights))
    reference = candidates.Candidate(
        str(job.base.folder),
        adapters=tuple((str(adapter.path), weight) for adapter, weight in job.adapters if not adapter.is_whole),
        four_bit=job.four_bit or job.base.is_saved_in_four_bit,
        loaded_as=job.first.precision,
        arithmetic=arithmetic,
        device=device,
        combination=job.combination,
    )
    trained = None
    if job.trained_on:
        trained = replace(reference, folder=str(job.trained_on), four_bit=bool(job.trained_in_four_bit))
    against = "the run's model" if job.first.is_whole else "base + adapter"
    try:
        found = parity.compare(reference, against, _exports(job, written), prompts, on_progress, trained)
    except Exception as error:  # of any kind: see device_errors
        again = "merge again into a new folder: this one keeps its mark, as it was not compared"
        if explained := card_error(error, again):
            raise explained from error
        if not is_out_of_memory(error):
            raise
        raise failure(
            "parity-no-memory",
            f"{job.output} is written, and could not be verified: memory ran out.",
            first_line(error),
            "close what else takes memory, and merge again into a new folder",
            details={"marked": NOT_VERIFIED},
        ) from error
    _write_record(job, found)
    return found


def _exports(job: Job, written: WrittenFiles) -> list[Exported]:
    config = job.base.model.config
    width, layers = head_dim(config), int(config.get("num_hidden_layers", 0))
    files = [Exported(name, job.output, name, quant, width, layers) for quant, name in written.gguf.items()]
    if not written.dtype:
        return files
    precision = {kind: name for name, kind in shards.DTYPES.items()}[written.dtype]
    return [Exported("merged model", job.output, "", precision, layers=layers), *files]


def _write_record(job: Job, found: Parity) -> None:
    text = json.dumps(found.to_json(), ensure_ascii=False, indent=1) + "\n"
    for folder in (job.output, job.first.run_folder):
        if folder and os.access(folder, os.W_OK):
            write_whole(folder / PARITY, [text])
    if found.passed:
        delete(job.output / NOT_VERIFIED)
    else:
        finding = not_verified(job, found)
        lines = [finding.what, *(f"{name}: {text}" for name, text in finding.details)]
        write_whole(job.output / NOT_VERIFIED, (f"{line}\n" for line in lines))


def parity_table(found: Parity) -> Table:
    """For the terminal: a line for each file, with what was found and what its bound is."""
    title = f"parity with {found.against}: {found.prompts}, computed in {found.arithmetic}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("text", "ids", "end"):
        table.add_column(name)
    for name in ("top-1 %", "least", "logits", "most"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in found.rows:
        name = row.name if row.reader == "transformers" else f"  in {row.reader}"
        same = (SAME[row.template], SAME[row.ids], SAME[row.end])
        least, most = (row.bound.least_top1_pct, row.bound.most_logit_share) if row.bound else ("-", "-")
        verdict = ("verified" if row.bound else "for info") if row.passed else "DIFFERS"
        table.add_row(name, *same, f"{row.top1_pct:.4g}", str(least), f"{row.logit_share:.1g}", str(most), verdict)
    return table


def not_verified(job: Job, found: Parity) -> Finding:
    """What is said of a parity that was not passed."""
    bad = [row for row in found.rows if not row.passed]
    details = {
        row.name: f"top-1 {row.top1_pct:g} %, logits {row.logit_share:.3g}, first in {row.first_layer}" for row in bad
    }
    has_few_bits = bad[0].precision not in parity.BOUNDS
    return problem(
        "export-not-verified",
        f"{', '.join(details)} in {job.output} does not answer as the tuned model does.",
        f"It is beyond what its number format explains; it keeps the mark {NOT_VERIFIED}.",
        "python -m envcheck           (checks the libraries)",
        f"--quant q8_0                 (if {bad[0].name} has few bits)"
        if has_few_bits
        else "--precision fp32             (shows whether rounding is the reason)",
        details=details,
    )
