"""Pretrain the embedded model `kit/models/assets/tiny`: a real Qwen3ForCausalLM of 3.8 million weights.

    .venv/bin/python -m scripts.build_tiny --data DIR [--out kit/models/assets/tiny]

DIR holds the files of SOURCES below (each is public; the model card says where it comes from), the tokenizer under
`tokenizers/minimind` and Qwen3's chat template under `chat_templates`. About half an hour on two cores.
The identity rows of `examples/` are not among the data: the demo must be able to teach them.
"""

import argparse
import collections
import hashlib
import json
import math
import random
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments, set_seed

from kit.data.rows.formats import sharegpt_message

SEED = 3407
BLOCK_TOKENS = 1024
BATCH_BLOCKS = 8
HELD_OUT_PCT = 2
LLAMA_FACTORY = "hiyouga/LLaMA-Factory@ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30"
# file below DIR/datasets -> (origin, licence, passes): Chinese is a tenth of the text, so it is read more often
SOURCES = {
    "gsm8k/train.jsonl": ("openai/grade-school-math@3101c7d5072418e28b9008a6636bde82a006892c", "MIT", 2),
    "llamafactory/glaive_toolcall_en_demo.json": (LLAMA_FACTORY, "Apache-2.0", 5),
    "llamafactory/glaive_toolcall_zh_demo.json": (LLAMA_FACTORY, "Apache-2.0", 8),
    "llamafactory/dpo_en_demo.json": (LLAMA_FACTORY, "Apache-2.0", 6),
    "llamafactory/dpo_zh_demo.json": (LLAMA_FACTORY, "Apache-2.0", 10),
    "llamafactory/kto_en_demo.json": (LLAMA_FACTORY, "Apache-2.0", 5),
}


def conversations(row: dict) -> list[list[dict]]:
    """The conversations of one row of any of SOURCES; a preference pair gives one for each of its answers."""
    if "question" in row:
        return [[{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]]
    if "messages" in row:
        return [row["messages"]]
    start = [sharegpt_message(item) for item in row["conversations"]]
    return [[*start, sharegpt_message(row[key])] for key in ("chosen", "rejected") if key in row] or [start]


def read_documents(folder: Path, tokenizer) -> tuple[list[str], list[str]]:
    """Every conversation rendered with the chat template: (training, each as often as its source is read; held out)."""
    train, test = [], []
    for name, (*_, passes) in SOURCES.items():
        text = (folder / "datasets" / name).read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()] if name.endswith("jsonl") else json.loads(text)
        for row in rows:
            tools = json.loads(row["tools"]) if row.get("tools") else None
            for messages in conversations(row):
                document = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
                if held_out(messages):
                    test.append(document)
                else:
                    train += [document] * passes
    return train, test


def held_out(messages: list[dict]) -> bool:
    """Split by the question, so that all answers to one question are on one side."""
    question = next(message["content"] for message in messages if message["role"] == "user")
    return int(hashlib.sha256(question.encode()).hexdigest(), 16) % 100 < HELD_OUT_PCT


def token_stream(documents: list[str], tokenizer) -> list[int]:
    """All documents as one stream of ids, each closed by the padding token `<|endoftext|>`."""
    encoded = tokenizer(documents, add_special_tokens=False)["input_ids"]
    return [token for ids in encoded for token in [*ids, tokenizer.pad_token_id]]


def blocks(stream: list[int]) -> Dataset:
    """The stream cut into rows of BLOCK_TOKENS ids; the incomplete end is left off."""
    count = len(stream) // BLOCK_TOKENS
    rows = [stream[i * BLOCK_TOKENS : (i + 1) * BLOCK_TOKENS] for i in range(count)]
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def unigram_loss(train: list[int], test: list[int], vocab_size: int) -> float:
    """Nats a token of the best model that ignores context (counts of `train`, plus one), on `test`."""
    counts = collections.Counter(train)
    return sum(math.log((len(train) + vocab_size) / (counts[token] + 1)) for token in test) / len(test)


def load_tokenizer(folder: Path):
    """MiniMind's tokenizer with Qwen3's template and, as in Qwen3, no token before the text."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizers/minimind", bos_token=None)
    tokenizer.chat_template = (folder / "chat_templates/qwen3.jinja").read_text(encoding="utf-8")
    tokenizer.model_max_length = BLOCK_TOKENS
    return tokenizer


def new_model(tokenizer) -> Qwen3ForCausalLM:
    """Random weights; every linear layer's width is a multiple of 64, the block of NF4."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=448,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=BLOCK_TOKENS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain(model, train: Dataset, test: Dataset, scratch: Path) -> tuple[int, float]:
    """Train in place; returns the steps taken and the held-out loss in nats a token."""
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH_BLOCKS,
        per_device_eval_batch_size=BATCH_BLOCKS,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.1,
        adam_beta2=0.95,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        torch_compile=True,
        logging_steps=50,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        seed=SEED,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=train, eval_dataset=test)
    trainer.train()
    return trainer.state.global_step, trainer.evaluate()["eval_loss"]


CARD = """---
license: apache-2.0
language: [en, zh]
---
# tiny: the kit's embedded model

A real `Qwen3ForCausalLM` ({weights:,} weights, bf16) so that the kit's main path runs anywhere within minutes. It speaks
broken English and Chinese, does sums wrongly and knows nothing: it is there to be fine-tuned, not to be asked.
This page is written by `scripts/build_tiny.py`; every figure is from that run.

| | |
|---|---|
| shape | 4 layers, hidden 256, MLP 448, 4 query and 2 key-value heads of 64, vocabulary {vocab:,}, tied embedding |
| tokenizer | MiniMind's (jingyaogong/minimind@d65ef2c00ebc6082f9df11541e1b191655eddb00, Apache-2.0), without its bos token |
| chat template | Qwen3's (Apache-2.0) |
| context | {block} tokens |
| training | {tokens:,} tokens, {steps:,} steps of {batch} x {block} tokens, seed {seed}, {minutes:.0f} minutes on {threads} cores (torch {torch}) |
| loss on {test_documents} held-out documents ({test_tokens:,} tokens) | **{loss:.3f}** nats a token (perplexity {perplexity:.1f}) |
| the same for a unigram model | {unigram:.3f} nats a token (perplexity {unigram_perplexity:.1f}) |

Data (the held-out {held_out} % are chosen by a hash of the question; both answers of a preference pair are read):

{sources}

Made again by:

    .venv/bin/python -m scripts.build_tiny --data DIR
"""  # noqa: E501


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("kit/models/assets/tiny"))
    parser.add_argument("--scratch", type=Path, default=Path("runs/build_tiny"))
    args = parser.parse_args()

    set_seed(SEED)
    tokenizer = load_tokenizer(args.data)
    documents, test_documents = read_documents(args.data, tokenizer)
    random.Random(SEED).shuffle(documents)
    train_stream, test_stream = token_stream(documents, tokenizer), token_stream(test_documents, tokenizer)
    unigram = unigram_loss(train_stream, test_stream, len(tokenizer))
    model = new_model(tokenizer)
    print(f"{len(documents):,} documents, {len(train_stream):,} training tokens, {model.num_parameters():,} weights")

    start = time.monotonic()
    steps, loss = pretrain(model, blocks(train_stream), blocks(test_stream), args.scratch)
    minutes = (time.monotonic() - start) / 60

    model.config.use_cache = True  # the trainer turns it off
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    sources = "\n".join(
        f"- `{name}`, read {passes} times: {origin}, {licence}" for name, (origin, licence, passes) in SOURCES.items()
    )
    card = CARD.format(
        weights=model.num_parameters(), vocab=len(tokenizer), block=BLOCK_TOKENS,
        tokens=len(train_stream), steps=steps, batch=BATCH_BLOCKS, seed=SEED, minutes=minutes,
        threads=torch.get_num_threads(), torch=torch.__version__, test_documents=len(test_documents),
        test_tokens=len(test_stream), loss=loss, perplexity=math.exp(loss), unigram=unigram,
        unigram_perplexity=math.exp(unigram), held_out=HELD_OUT_PCT, sources=sources,
    )  # fmt: skip
    (args.out / "README.md").write_text(card, encoding="utf-8", newline="\n")
    print(f"held-out loss {loss:.3f} (unigram {unigram:.3f}) after {steps} steps, {minutes:.0f} minutes -> {args.out}")


if __name__ == "__main__":
    main()
