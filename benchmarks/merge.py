"""Merging the shape of Qwen3-1.7B: memory, time, bits; and 200 real questions through adapter, merged model and GGUF.

python -m benchmarks.merge [--size 1.7B] [--llama FOLDER]

--llama: a trained Llama in the Hugging Face format (stories260K), compared too. Random adapters change nothing that is
measured here: the run behind the parity figures is examples/identity.toml.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import measure
from benchmarks.qwen3_shape import build_model
from kit.support.units import GIB

RANK, QUESTIONS = 16, 200
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = TARGETS[:4]
MOST_GIB = 1.5


def write_adapter(folder: Path, model: Path, rank: int, size: float) -> None:
    """Random factors for every linear layer; B is so small that the update stays below the weights."""
    import numpy as np
    from safetensors.numpy import save_file

    from kit.memory.shape import Shape

    config = json.loads((model / "config.json").read_text("utf-8"))
    shape, rng, weights = Shape.of(config), np.random.default_rng(0), {}
    for layer in range(shape.layers):
        for name, (d_in, d_out) in shape.linears.items():
            part = "self_attn" if name in ATTENTION else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{part}.{name}.lora_"
            weights[f"{stem}A.weight"] = rng.normal(0, d_in**-0.5, (rank, d_in)).astype(np.float32)
            weights[f"{stem}B.weight"] = rng.normal(0, size, (d_out, rank)).astype(np.float32)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model), "r": rank,
            "lora_alpha": rank, "target_modules": list(TARGETS), "bias": "none", "inference_mode": True}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(said), "utf-8", newline="\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (model / name).is_file():
            (folder / name).write_bytes((model / name).read_bytes())


WRITE = """
import sys
from kit import merge
from kit.export import parity_prompts
from kit.export.job import prepare
from kit.export.options import MergeCommand
source, output, base, to, quant = sys.argv[1:]
job = prepare(MergeCommand(source=source, output=output, base_precision=base, to=(to,), quant=(quant,)))
asked = parity_prompts.collect(job.first, job.base.model)
merge.write(job, asked, lambda *_: None)
"""
BY_PEFT = """
import sys, torch
from pathlib import Path
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM
model, adapter, merged = sys.argv[1:]
whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapter)
theirs, equal, differ = whole.merge_and_unload().state_dict(), 0, []
for path in sorted(Path(merged).glob("*.safetensors")):
    with safe_open(path, framework="pt") as file:
        for name in file.keys():
            same = torch.equal(file.get_tensor(name), theirs[name].to(torch.bfloat16))
            equal, differ = equal + same, differ + ([] if same else [name])
print(equal, len(differ))
"""
PARITY = """
import json, sys
from dataclasses import replace
from kit import merge
from kit.export import parity_prompts
from kit.export.job import prepare
from kit.export.options import MergeCommand
source, output, options, questions, most = sys.argv[1:]
job = prepare(MergeCommand(source=source, output=output, **json.loads(options)))
asked = parity_prompts.collect(job.first, job.base.model)
rows = [json.loads(line)["question"] for line in open(questions, encoding="utf-8")][: int(most)]
if asked.chat:
    ids = [asked.chat.prompt_ids([{"role": "user", "content": row}]) for row in rows]
else:
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(job.first.path / "tokenizer.json"))
    ids = [tokenizer.encode(row).ids[: job.base.model.config["max_position_embeddings"]] for row in rows]
asked = replace(asked, sequences=ids, origin=f"{len(ids)} GSM8K questions")
made = merge.write(job, asked, lambda *_: None)
print(json.dumps(merge.verify(job, made, asked, lambda *_: None).to_json()))
"""


def memory(size: str, scratch: Path) -> dict:
    model, adapter = scratch / f"Qwen3-{size}", scratch / "adapter"
    build_model(size, model)
    write_adapter(adapter, model, RANK, 0.002)
    told: dict = {}
    for name, base, to, quant in (("hf_16bit", "16bit", "hf", "f16"), ("hf_nf4", "nf4", "hf", "f16"),
                                  ("gguf_q8_0", "16bit", "gguf", "q8_0")):  # fmt: skip
        done = measure.must(measure.run("-c", WRITE, adapter, scratch / name, base, to, quant))
        written = sum(path.stat().st_size for path in (scratch / name).iterdir())
        peak_gib = round(done.peak_bytes / GIB, 3)
        told[name] = {"wall_s": done.wall_s, "peak_gib": peak_gib, "written_gib": round(written / GIB, 3)}
        print(name, told[name], file=sys.stderr)
    equal, differ = measure.must(measure.run("-c", BY_PEFT, model, adapter, scratch / "hf_16bit")).stdout.split()[-2:]
    told["tensors_bit_equal_to_peft_in_float32_then_one_cast"] = int(equal)
    told["tensors_that_differ"] = int(differ)
    told["peak_at_most_gib"] = MOST_GIB
    return told


def answers(source: Path, scratch: Path, name: str, options: dict) -> dict:
    rows = measure.ROOT / "examples" / "gsm8k.jsonl"
    done = measure.run("-c", PARITY, source, scratch / name, json.dumps(options), rows, QUESTIONS)
    seen = json.loads(measure.must(done).stdout.splitlines()[-1])
    for row in seen["rows"]:
        print(name, row["name"], row["top1_pct"], row["logit_share"], file=sys.stderr)
    kept = ("name", "precision", "template", "ids", "end", "positions", "top1_pct", "largest_logit_difference",
            "logit_share", "passed")  # fmt: skip
    rows = [{key: row[key] for key in kept} for row in seen["rows"]]
    return {name: seen[name] for name in ("prompts", "last_tokens_of_each", "arithmetic")} | {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1.7B")
    parser.add_argument("--llama", type=Path)
    parser.add_argument("--part", choices=("memory", "parity", "all"), default="all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if args.part in ("parity", "all"):
            run = scratch / "run"
            measure.must(measure.run("-m", "kit.train", "--config", "examples/identity.toml", "--output", run))
            both = {"to": ("hf", "gguf"), "quant": ("f16", "q8_0", "q4_0")}
            told = {"tiny_fp32": answers(run, scratch, "fp32", both | {"precision": "fp32"}),
                    "tiny_bf16": answers(run, scratch, "bf16", {}),
                    "tiny_bf16_16bit_base": answers(run, scratch, "other", {"base": "16bit"})}  # fmt: skip
            if args.llama:
                write_adapter(scratch / "stories", args.llama.resolve(), 4, 0.02)
                told["stories260K_fp32"] = answers(scratch / "stories", scratch, "llama", both | {"precision": "fp32"})
            measure.write("parity", told)
        if args.part in ("memory", "all"):
            measure.write("merge", {"what": f"Qwen3-{args.size} shape, rank {RANK}", **memory(args.size, scratch)})


if __name__ == "__main__":
    main()
