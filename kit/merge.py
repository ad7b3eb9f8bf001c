"""Make a plain model of a tuned one, and prove that it answers the same.

    python -m kit.merge runs/x -o models/x                              a 16-bit Hugging Face model
    python -m kit.merge runs/x -o models/x --to gguf --quant q8_0       a file for llama.cpp and Ollama
    python -m kit.merge runs/a -o models/ab --add runs/b=0.5            several adapters in one

Exit status: 0 written and verified, 1 failed or not verified (a file NOT-VERIFIED says so), 2 wrong usage.
"""

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from envcheck.facts import Finding
from kit.export import gguf_file, modelfile, parity, prompts, shards, vocabulary, writing
from kit.export.job import QUANTIZE, STEP, Job, MergeCommand, gguf_name, prepare, shares
from kit.export.parity import Exported, Parity
from kit.export.prompts import Prompts
from kit.options.command_line import parse
from kit.run.folder import cannot_write
from kit.run.layout import NOT_VERIFIED, PARITY
from kit.support import console
from kit.support.errors import FAILED, KitError, first_line, problem
from kit.support.files import write_whole
from kit.support.units import GIB

NOT_YET = "Not compared yet with the model that was trained: python -m kit.merge was interrupted, or says below why.\n"


@dataclass(frozen=True)
class Made:
    """What was written: the plain model in the folder itself (its number format, None if not asked for), GGUF files."""

    dtype: str | None
    files: dict[str, str]  # quant -> file
    notes: tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: command_line(sys.argv[1:] if argv is None else argv))


def command_line(argv: list[str]) -> int:
    command = parse(MergeCommand, argv)
    job = prepare(command)
    chat = prompts.chat_of(job.first, job.base.model)
    asked = prompts.of(job.first, chat)
    show(job)
    with console.progress() as shown:
        made = write(job, asked, shown)
        for text in made.notes:
            console.note(text)
        seen = verify(job, made, asked, shown)
    show_parity(seen)
    if command.json_output:
        print(json.dumps(seen.to_json(), ensure_ascii=False, indent=1))
    if not seen.passed:
        console.findings((_not_verified(job, seen),))
        return FAILED
    show_done(job, made)
    return 0


def _from_here(folder: Path) -> Path:
    """As one would type it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def show(job: Job) -> None:
    """What will be done, before it is done."""
    name = "NF4, dequantised" if job.four_bit or job.base.is_saved_in_four_bit else "16 bit"
    if job.first.is_whole:
        console.say(f"model     {job.base.folder}: {job.reason}")
    else:
        console.say(f"adapter   {shares(job.adapters)}, {job.first.summary}")
        console.say(f"base      {_from_here(job.base.folder)} ({name}): {job.reason}")
    if len(job.adapters) > 1:
        console.say(f"together  {job.command.combine}")
    console.findings(job.findings)


def write(job: Job, asked: Prompts, show: Any) -> Made:
    """Everything into a folder beside, which takes the name when it is whole; it is marked until it is verified."""
    output = job.output
    with _beside(output) as part:
        try:
            made = _fill(part, job, asked, show)
            (part / NOT_VERIFIED).write_text(NOT_YET, encoding="utf-8")
            if output.is_dir():
                output.rmdir()
            part.rename(output)
        except OSError as error:
            raise KitError(cannot_write(Path(error.filename or output), error)) from error
    return made


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[Path]:
    part = output.with_name(f".{output.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise KitError(cannot_write(part, error)) from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(part: Path, job: Job, asked: Prompts, show: Any) -> Made:
    chat, command, sinks, notes = asked.chat, job.command, [], []
    end = chat.tokenizer.token_to_id(chat.end_token) if chat else None
    ends = job.base.model.end_ids(end)
    plain = None
    if "hf" in command.to:
        plain = shards.Shards(part, job.weights, job.base, command.precision, int(command.shard_gib * GIB))
        sinks.append(plain)
    files = {quant: gguf_name(job, quant) for quant in job.quants}
    if files:
        words = _vocabulary(job, asked)
        config = job.base.model.config
        for quant in job.written_quants:
            name = files.get(quant, f".{STEP}.gguf")
            sinks.append(gguf_file.GgufFile(part / name, quant, job.weights, config, words, job.output.absolute().name))
            if sinks[-1].fallbacks:
                notes.append(
                    f"{name}: {len(sinks[-1].fallbacks)} matrices in F16, their rows do not divide into blocks."
                )
    writing.write(job.weights, job.combination, sinks, show)
    if plain:
        shards.write_small_files(part, job.base, job.first.path, ends, plain.dtype)
    for quant in files.keys() - set(job.written_quants):
        _quantize(part, files, quant)
    (part / f".{STEP}.gguf").unlink(missing_ok=True)
    if files:
        notes += _write_modelfiles(part, job, asked, files, words, ends)
    return Made(plain.dtype if plain else None, files, tuple(notes))


def _vocabulary(job: Job, asked: Prompts) -> vocabulary.Vocabulary:
    chat, config = asked.chat, job.base.model.config
    folder = job.first.path if (job.first.path / "tokenizer.json").is_file() else job.base.folder
    end_token, template = (chat.end_token, chat.template_text) if chat else ("", "")
    return vocabulary.of(folder, config["vocab_size"], end_token, template, config)


def _quantize(part: Path, files: dict[str, str], quant: str) -> None:
    """By llama-quantize, of the file in F16."""
    source = part / files.get(STEP, f".{STEP}.gguf")
    command = [QUANTIZE, str(source), str(part / files[quant]), quant.upper()]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not (part / files[quant]).is_file():
        raise KitError(
            problem(
                "gguf-quantize-failed",
                f"{QUANTIZE} did not make a {quant} file.",
                (done.stderr.strip().splitlines() or ["It said nothing."])[-1],
                "--quant q8_0             (written without it)",
            )
        )


def _write_modelfiles(
    part: Path, job: Job, asked: Prompts, files: dict[str, str], words: vocabulary.Vocabulary, ends: list[int]
) -> list[str]:
    """One for each file, and `Modelfile` for the first."""
    chat, config = asked.chat, job.base.model.config
    bos = words.tokens[words.special["bos"]] if words.add_bos else ""
    found = modelfile.turns(chat, bos) if chat else None
    run = job.first.run
    wanted = max(modelfile.CONTEXT_TOKENS, run.max_length_tokens if run else 0)
    stops = [words.tokens[number] for number in ends]
    for number, name in enumerate(files.values()):
        text = modelfile.text(
            name, found, stops, min(wanted, config["max_position_embeddings"]), job.base.model.generation
        )
        for target in [f"Modelfile.{name.removesuffix('.gguf')}", *(["Modelfile"] if number == 0 else [])]:
            (part / target).write_text(text, encoding="utf-8")
    if chat and not found:
        return ["The chat template is more than Ollama's language was given: the Modelfile has none and says so."]
    return []


def verify(job: Job, made: Made, asked: Prompts, show: Any) -> Parity:
    """The files read again and compared; the record beside them and in the run folder. Raises KitError: no memory."""
    exports = [Exported(name, job.output, name, quant, gguf_file.head_dim(job.base.model.config))
               for quant, name in made.files.items()]  # fmt: skip
    if made.dtype:
        precision = {kind: name for name, kind in shards.DTYPES.items()}[made.dtype]
        exports.insert(0, Exported("merged model", job.output, "", precision))
    from kit.backend import comparing, is_out_of_memory

    device, arithmetic = comparing.place(sum(math.prod(weight.shape) for weight in job.weights))
    reference = comparing.Candidate(
        str(job.base.folder),
        adapters=tuple((str(adapter.path), weight) for adapter, weight in job.adapters if not adapter.is_whole),
        four_bit=job.four_bit or job.base.is_saved_in_four_bit,
        loaded_as=job.first.precision,
        arithmetic=arithmetic,
        device=device,
        combination=job.combination,
    )
    other = job.trained_in_four_bit not in (None, reference.four_bit)
    trained = replace(reference, four_bit=not reference.four_bit) if other else None
    try:
        against = "the run's model" if job.first.is_whole else "base + adapter"
        seen = parity.compare(reference, against, exports, asked, show, trained)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise KitError(_no_memory(job, error)) from error
    text = json.dumps(seen.to_json(), ensure_ascii=False, indent=1) + "\n"
    for folder in (job.output, job.first.run_folder):
        if folder and os.access(folder, os.W_OK):
            write_whole(folder / PARITY, [text])
    if seen.passed:
        (job.output / NOT_VERIFIED).unlink()
    else:
        finding = _not_verified(job, seen)
        lines = [finding.what, *(f"{name}: {text}" for name, text in finding.details)]
        write_whole(job.output / NOT_VERIFIED, (f"{line}\n" for line in lines))
    return seen


def show_parity(seen: Parity) -> None:
    title = f"parity with {seen.against}: {seen.prompts}, computed in {seen.arithmetic}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("text", "ids", "end"):
        table.add_column(name)
    for name in ("top-1 %", "least", "logits", "most"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in seen.rows:
        name = row.name if row.reader == "transformers" else f"  in {row.reader}"
        words = ({True: "equal", False: "DIFFER", None: "-"}[one] for one in (row.template, row.ids, row.end))
        least, most = (row.bound.least_top1_pct, row.bound.most_logit_share) if row.bound else ("-", "-")
        verdict = ("verified" if row.bound else "for info") if row.passed else "DIFFERS"
        table.add_row(name, *words, f"{row.top1_pct:.4g}", str(least), f"{row.logit_share:.1g}", str(most), verdict)
    console.stderr.print(table)
    console.say("top-1: positions with the same likeliest token; logits: largest difference, as a share of their range")


def _not_verified(job: Job, seen: Parity) -> Finding:
    bad = [row for row in seen.rows if not row.passed]
    failed = {
        row.name: f"top-1 {row.top1_pct:g} %, logits {row.logit_share:.3g}, first in {row.first_layer}" for row in bad
    }
    return problem(
        "export-not-verified",
        f"{', '.join(failed)} in {job.output} does not answer as the tuned model does.",
        "It is beyond what its number format explains; it keeps the mark NOT-VERIFIED.",
        "python -m envcheck           (checks the libraries)",
        f"--quant q8_0                 (if {bad[0].name} has few bits)" if made_of_few_bits(bad[0].precision)
        else "--precision fp32             (shows whether rounding is the reason)",
        details=failed,
    )  # fmt: skip


def made_of_few_bits(precision: str) -> bool:
    return precision not in parity.BOUNDS


def _no_memory(job: Job, error: Exception) -> Finding:
    return problem(
        "parity-no-memory",
        f"{job.output} is written, and could not be verified: memory ran out.",
        first_line(error),
        "close what else takes memory, and merge again into a new folder",
        details={"marked": NOT_VERIFIED},
    )


def show_done(job: Job, made: Made) -> None:
    console.say(f"done      {job.output}: written, read again and verified", style="bold green")
    if made.dtype:
        console.say(f"          python -m kit.chat {job.output}")
    for name in made.files.values():
        console.say(f"          {job.output / name}")
    if made.files:
        console.say(f"          ollama create {job.output.absolute().name.lower()} -f {job.output / 'Modelfile'}")


if __name__ == "__main__":
    sys.exit(main())
