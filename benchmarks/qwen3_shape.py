"""Three 4-bit LoRA steps of a Qwen3 model of real shape with random weights: no download, real memory and speed.

python -m benchmarks.qwen3_shape [--size 0.6B] [--tokens 256] [--repeats 2]
"""

import argparse
import json
import lzma
import shutil
import tempfile
from pathlib import Path

from benchmarks import measure
from kit.support.units import GIB

DATA = measure.ROOT / "tests" / "data" / "qwen3"
STEPS = 3


def build_model(size: str, folder: Path) -> None:
    """Config and tokenizer of the published model, weights drawn at random in bf16."""
    folder.mkdir()
    shutil.copy(DATA / f"Qwen3-{size}.config.json", folder / "config.json")
    shutil.copy(DATA / "tokenizer_config.json", folder)
    (folder / "tokenizer.json").write_bytes(lzma.decompress((DATA / "tokenizer.json.xz").read_bytes()))
    measure.draw_weights(folder)


def build_rows(folder: Path, tokens: int) -> Path:
    """Rows of nearly `tokens` tokens with Qwen3's template: GSM8K answers, one after the other, cut between words."""
    from kit import models, prompt

    chat = prompt.load(models.find(str(folder)), "auto")
    rows = [json.loads(line) for line in (measure.ROOT / "examples" / "gsm8k.jsonl").read_text("utf-8").splitlines()]
    words = " ".join(f"{row['question']} {row['answer']}" for row in rows).split(" ")
    made = []
    while len(made) < 8:
        row = {"question": f"Story {len(made)}", "answer": ""}
        while True:
            longer = {**row, "answer": f"{row['answer']} {words[0]}".strip()}
            messages = [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": longer["answer"]},
            ]
            text = "".join(piece.text for pieces in chat.segments(messages) for piece in pieces)
            if len(chat.tokenizer.encode(text).ids) > tokens:
                break
            row = longer
            words.pop(0)
        made.append(row)
    path = folder.parent / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8", newline="\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="0.6B")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    walls, peaks, records, lengths = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / f"Qwen3-{args.size}"
        build_model(args.size, model)
        rows = build_rows(model, args.tokens)
        for number in range(args.repeats):
            output = Path(scratch) / f"run{number}"
            done = measure.must(measure.run(
                "-m", "kit.train", "--preset", "cpu", "--model", model, "--data", rows, "--output", output, "--json",
                "--max-steps", STEPS, "--batch-size", 1, "--micro-batch-size", 1, "--max-length-tokens", args.tokens,
                "--held-out-rows", 0, "--prompts", "Who are you?", "--sample-tokens", 8,
            ))  # fmt: skip
            walls.append(done.wall_s)
            peaks.append(round(done.peak_bytes / GIB, 3))
            records.append(json.loads(done.stdout))
            lengths.append(json.loads((output / "data.json").read_text("utf-8"))["median_tokens"])
    measure.write(
        f"qwen3_{args.size.lower().replace('.', 'p')}_cpu",
        {
            "what": f"Qwen3-{args.size} shape, random weights, 4 bit, checkpointing off, {STEPS} steps",
            "batch": f"1 x {args.tokens} tokens",
            "wall_s": measure.spread(walls),
            "peak_gib": measure.spread(peaks),
            "tokens_per_s": measure.spread([record["tokens_per_s"] for record in records]),
            "median_row_tokens": lengths[-1],
        },
    )


if __name__ == "__main__":
    main()
