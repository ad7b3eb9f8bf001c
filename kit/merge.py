"""Make a plain model of a tuned one, and prove that it answers the same.

    python -m kit.merge runs/x -o models/x                              a 16-bit Hugging Face model
    python -m kit.merge runs/x -o models/x --to gguf --quant q8_0       a file for llama.cpp and Ollama
    python -m kit.merge runs/a -o models/ab --add runs/b=0.5            several adapters in one

Exit status: 0 written and verified, 1 failed or not verified (a file NOT-VERIFIED says so), 2 wrong usage.

May import: support, options, export.
"""

import json
import sys
from pathlib import Path
from typing import Any

from envcheck import other_gpus, probe
from kit.export import parity_prompts, verifying
from kit.export.job import Job, prepare
from kit.export.model_folder import WrittenFiles, write
from kit.export.options import MergeCommand
from kit.export.parity import Parity
from kit.export.tuned_model import in_words
from kit.export.verifying import verify
from kit.options.command_line import from_call, parse
from kit.support import console
from kit.support.callable_module import make_callable
from kit.support.errors import FAILED, KitError
from kit.support.progress import OnProgress
from kit.support.user_shell import quoted


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: command_line(sys.argv[1:] if argv is None else argv))


def command_line(argv: list[str]) -> int:
    command = parse(MergeCommand, argv)
    for text in other_gpus.notes(probe.collect()):
        console.note(text)
    job = prepare(command)  # all that can be wrong is found here, before a weight is read
    show(job)
    with console.progress() as on_progress:
        written, parity = merge(job, on_progress)
    for text in written.notes:
        console.note(text)
    console.stderr.print(verifying.parity_table(parity))
    console.say("top-1: positions with the same likeliest token; logits: largest difference, as a share of their range")
    if command.json_output:
        print(json.dumps(parity.to_json(), ensure_ascii=False, indent=1))
    if not parity.passed:
        console.findings((verifying.not_verified(job, parity),))
        return FAILED
    show_done(job, written)
    return 0


def merge(job: Job, on_progress: OnProgress) -> tuple[WrittenFiles, Parity]:
    """Written, then read again and compared with the tuned model. Raises KitError: no room for it, no memory, ..."""
    prompts = parity_prompts.collect(job.first, job.base.model)
    written = write(job, prompts, on_progress)
    return written, verify(job, written, prompts, on_progress)


def merge_with(source: str | Path, output: str | Path, **options: Any) -> Parity:
    """kit.merge: a plain model of what was tuned, with these options of `kit merge`, and the proof of it.

    Raises KitError: also for an export that does not answer as the tuned model; it keeps the mark NOT-VERIFIED.
    """
    job = prepare(from_call(MergeCommand, {"source": source, "output": output, **options}))
    with console.progress() as on_progress:
        _, parity = merge(job, on_progress)
    if not parity.passed:
        raise KitError(verifying.not_verified(job, parity))
    return parity


def show(job: Job) -> None:
    """What will be done, before it is done."""
    bits = "NF4, dequantised" if job.four_bit or job.base.is_saved_in_four_bit else "16 bit"
    if job.first.is_whole:
        console.say(f"model     {job.base.folder}: {job.reason}")
    else:
        console.say(f"adapter   {in_words(job.adapters)}, {job.first.summary}")
        console.say(f"base      {_as_typed(job.base.folder)} ({bits}): {job.reason}")
    if len(job.adapters) > 1:
        console.say(f"together  {job.combination.way}")
    console.findings(job.findings)


def _as_typed(folder: Path) -> Path:
    """From here, as one would type it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def show_done(job: Job, written: WrittenFiles) -> None:
    console.say(f"done      {job.output}: written, read again and verified", style="bold green")
    if written.dtype:
        console.say(f"          python -m kit.chat {quoted(job.output)}")
    for name in written.gguf.values():
        console.say(f"          {job.output / name}")
    if written.gguf:
        console.say(f"          ollama create {quoted(job.name.lower())} -f {quoted(job.output / 'Modelfile')}")


make_callable(__name__, merge_with)
if __name__ == "__main__":
    sys.exit(main())
