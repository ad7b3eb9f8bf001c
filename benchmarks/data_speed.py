"""The data stage against the bare tokenizer on the same rows: speed, peak memory by number of rows, second start.

python -m benchmarks.data_speed [--data FILE] [--rows 1000000] [--repeats 3]

FILE is a .jsonl of question/answer rows (GSM8K), repeated with changes up to the number of rows. Each figure is taken
in a process of its own; bare and kit take turns.
"""

import argparse
import itertools
import json
import lzma
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure
from kit.backend.device_memory import peak_resident_bytes
from kit.support.units import GIB

QWEN3 = measure.ROOT / "tests" / "data" / "qwen3"
CHUNK_ROWS = 1000


def chat_format(folder: Path):
    """The real Qwen3 tokenizer with its template."""
    from kit import models, prompt

    files = {path.name: path for path in folder.iterdir()}
    return prompt.load(models.Model("qwen3", str(folder), {}, files), "auto")


def unpack_qwen3(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(lzma.decompress((QWEN3 / "tokenizer.json.xz").read_bytes()))
    shutil.copy(QWEN3 / "tokenizer_config.json", folder)


def write_rows(source: Path, rows: int, target: Path) -> None:
    """The source's rows again and again, each time with another number in its question."""
    lines = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    with target.open("w", encoding="utf-8", newline="\n") as file:
        for number, row in zip(range(rows), itertools.cycle(lines), strict=False):
            changed = {"question": f"{row['question']} (Exercise {number})", "answer": row["answer"]}
            file.write(json.dumps(changed, ensure_ascii=False) + "\n")


def texts(path: Path, chat) -> Iterator[list[str]]:
    """The very texts that the kit encodes, a chunk at a time."""
    from kit.data.rows import formats

    with path.open(encoding="utf-8") as file:
        while lines := list(itertools.islice(file, CHUNK_ROWS)):
            found = []
            for line in lines:
                example = formats.convert(json.loads(line), formats.by_name("question-answer"), {})
                for pieces in chat.segments(example.conversations[0].messages, None):
                    found.append("".join(piece.text for piece in pieces))
            yield found


def tokenizers(path: Path, folder: Path) -> dict:
    """The `tokenizers` library alone: only the time inside it counts, not reading and rendering."""
    chat = chat_format(folder)
    seconds, tokens = 0.0, 0
    for chunk in texts(path, chat):
        start_s = time.perf_counter()
        ids = [one.ids for one in chat.tokenizer.encode_batch_fast(chunk, add_special_tokens=False)]
        seconds += time.perf_counter() - start_s
        tokens += sum(map(len, ids))
    return {"seconds": seconds, "tokens": tokens}


def transformers(path: Path, folder: Path) -> dict:
    """The same texts through transformers' tokenizer, as training scripts call it."""
    from transformers import AutoTokenizer

    chat, tokenizer = chat_format(folder), AutoTokenizer.from_pretrained(folder)
    seconds, tokens = 0.0, 0
    for chunk in texts(path, chat):
        start_s = time.perf_counter()
        ids = tokenizer(chunk, add_special_tokens=False)["input_ids"]
        seconds += time.perf_counter() - start_s
        tokens += sum(map(len, ids))
    return {"seconds": seconds, "tokens": tokens}


def kit(path: Path, folder: Path) -> dict:
    """File to samples on disk, chosen and counted; `seconds` is the whole stage."""
    from kit import data
    from kit.options import Rows

    chat = chat_format(folder)
    start_s = time.perf_counter()
    seen = data.read(Rows(data=str(path)), chat)
    seconds = time.perf_counter() - start_s
    report = seen.report
    assert report.rows_read == report.rows_trained + report.rows_held_out + sum(report.rows_left_out.values())
    return {"seconds": seconds, "tokens": report.tokens, "rows": report.rows_read}


PARTS = {"tokenizers": tokenizers, "transformers": transformers, "kit": kit}


def in_process(part: str, path: Path, folder: Path, cache: Path) -> dict:
    done = measure.must(measure.run("-m", "benchmarks.data_speed", "--part", part, "--data", path, "--folder", folder,
                                    env={"KIT_CACHE": str(cache)}))  # fmt: skip
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=measure.ROOT / "examples" / "gsm8k.jsonl")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        figures = PARTS[args.part](args.data, args.folder)
        json.dump(figures | {"peak_gib": round(peak_resident_bytes() / GIB, 3)}, sys.stdout)
        return
    with tempfile.TemporaryDirectory() as scratch:
        measure.write("data_speed", measured(args, Path(scratch)))


def measured(args: argparse.Namespace, scratch: Path) -> dict:
    folder = scratch / "qwen3"
    folder.mkdir()
    unpack_qwen3(folder)
    sizes = [args.rows // 10, args.rows // 4, args.rows // 2, args.rows]
    files = {rows: scratch / f"rows-{rows}.jsonl" for rows in sizes}
    for rows, path in files.items():
        write_rows(args.data, rows, path)
    each = []
    for number in range(args.repeats):
        caches = {part: scratch / f"cache-{part}-{number}" for part in PARTS}
        each.append({part: in_process(part, files[sizes[0]], folder, caches[part])["seconds"] for part in PARTS})
    by_rows = {}
    for rows in sizes:
        first = in_process("kit", files[rows], folder, scratch / "cache")
        second = in_process("kit", files[rows], folder, scratch / "cache")
        by_rows[rows] = {
            "first_s": round(first["seconds"], 2),
            "second_s": round(second["seconds"], 2),
            "tokens": first["tokens"],
            "rows_per_s": round(rows / first["seconds"]),
            "peak_gib": first["peak_gib"],
            "second_peak_gib": second["peak_gib"],
        }
    alone = in_process("tokenizers", files[args.rows], folder, scratch / "none")
    return {
        "rows": args.rows,
        "cores": os.cpu_count(),
        "speed_of_tokenizers_library": ratios(each, "tokenizers") | {"rows": sizes[0]},
        "speed_of_transformers_tokenizer": ratios(each, "transformers") | {"rows": sizes[0]},
        "seconds_each": [{part: round(seconds, 2) for part, seconds in one.items()} for one in each],
        "speed_of_tokenizers_library_all_rows": round(alone["seconds"] / by_rows[args.rows]["first_s"], 3),
        "by_rows": by_rows,
    }


def ratios(each: list[dict], part: str) -> dict:
    """Its time over the kit's, run by run."""
    return measure.spread([round(one[part] / one["kit"], 3) for one in each])


if __name__ == "__main__":
    main()
