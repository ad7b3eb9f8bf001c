"""The folder of a merge: written beside, and named once all of it is there; marked until it is verified."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kit.export import modelfile, quants, shards, writing
from kit.export.gguf_file import GgufFile, GgufModel
from kit.export.job import Job
from kit.export.parity_prompts import ParityPrompts
from kit.models import vocabulary
from kit.models.vocabulary import Vocabulary
from kit.prompt import never_thinking
from kit.run.folder import cannot_write
from kit.run.layout import NOT_VERIFIED
from kit.support.errors import KitError
from kit.support.files import delete, new_part, replace, write_whole
from kit.support.progress import OnProgress

NOT_YET = "Not compared yet with the model that was trained: python -m kit.merge was interrupted, or says below why.\n"
HELPER = ".f16.gguf"  # a file for llama-quantize, where none in F16 is asked for


@dataclass(frozen=True)
class WrittenFiles:
    """dtype: of the 16-bit model in the folder itself, None if it was not asked for. gguf: quant -> file."""

    dtype: str | None
    gguf: dict[str, str]
    notes: tuple[str, ...]


def write(job: Job, prompts: ParityPrompts, on_progress: OnProgress) -> WrittenFiles:
    """Raises KitError: the disk takes no more, a weight that no number format can hold, ..."""
    with _beside(job.output) as folder:
        try:
            written = fill(folder, job, prompts, on_progress)
            write_whole(folder / NOT_VERIFIED, [NOT_YET])
            if job.output.is_dir():
                job.output.rmdir()
            replace(folder, job.output)
        except OSError as error:
            raise KitError(cannot_write(Path(error.filename or job.output), error)) from error
    return written


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A new folder, which is gone afterwards unless it was renamed."""
    try:
        folder = new_part(output)
    except OSError as error:
        raise KitError(cannot_write(output, error)) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill(folder: Path, job: Job, prompts: ParityPrompts, on_progress: OnProgress) -> WrittenFiles:
    """All files into a folder: each weight is made once, whatever number of files it goes into."""
    plan, end_ids = job.shard_plan, job.base.model.end_ids(prompts.chat.end_id if prompts.chat else None)
    words = _vocabulary(job, prompts) if job.quants else None
    gguf_files = _gguf_files(folder, job, words) if words else []
    plain = [shards.Shards(folder, plan)] if plan else []
    writing.write(job.weights, job.combination, [*plain, *gguf_files], on_progress)
    notes = [f"{file.path.name}: {file.fallbacks} matrices in F16, their rows do not divide into blocks."
             for file in gguf_files if file.fallbacks]  # fmt: skip
    if plan:
        shards.write_small_files(folder, job.base, job.first.path, end_ids, plan.dtype)
    if words:
        _quantize(folder, job.gguf_names)
        notes += _write_modelfiles(folder, job, prompts, words, [words.tokens[number] for number in end_ids])
    return WrittenFiles(plan.dtype if plan else None, job.gguf_names, tuple(notes))


def _vocabulary(job: Job, prompts: ParityPrompts) -> Vocabulary:
    chat, config = prompts.chat, job.base.model.config
    folder = job.first.path if (job.first.path / "tokenizer.json").is_file() else job.base.folder
    end_token, template = (chat.end_token, never_thinking(chat.template_text)) if chat else ("", "")
    return vocabulary.of_folder(folder, config["vocab_size"], end_token, template, config)


def _gguf_files(folder: Path, job: Job, words: Vocabulary) -> list[GgufFile]:
    model = GgufModel(job.name, job.weights, job.base.model.config, words)
    here = quants.written_here(job.quants)
    return [GgufFile(folder / job.gguf_names.get(quant, HELPER), quant, model) for quant in here]


def _quantize(folder: Path, names: dict[str, str]) -> None:
    """The files that are not written here."""
    source = folder / names.get(quants.STARTS_FROM, HELPER)
    for quant in names.keys() - set(quants.written_here(tuple(names))):
        quants.quantize(source, folder / names[quant], quant)
    delete(folder / HELPER)


def _write_modelfiles(folder: Path, job: Job, prompts: ParityPrompts, words: Vocabulary, stops: list[str]) -> list[str]:
    """Returns notes for the user."""
    chat, model, run = prompts.chat, job.base.model, job.first.run
    bos = words.tokens[words.special["bos"]] if words.add_bos else ""
    turns = modelfile.turns(chat, bos) if chat else None
    wanted_tokens = max(modelfile.CONTEXT_TOKENS, run.max_length_tokens if run else 0)
    context_tokens = min(wanted_tokens, model.config["max_position_embeddings"])
    modelfile.Modelfile(turns, stops, context_tokens, model.generation).write(folder, job.gguf_names.values())
    if chat and not turns:
        return ["The chat template is more than Ollama's language was given: the Modelfile has none and says so."]
    return []
