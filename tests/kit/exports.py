"""Adapters made without training, for the tests of merging; and what PEFT and bitsandbytes make of the same weights.

python tests/kit/exports.py FOLDER           prints one JSON object (in a process of its own: it imports torch)
python tests/kit/exports.py kinds FOLDER     an adapter of every kind, by PEFT; how the kit merges it; what PEFT answers
python tests/kit/exports.py chats FOLDER     what kit.chat answers with these
"""

import contextlib
import functools
import io
import json
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.processes import run_python
from tests.support.results import record_of

ROOT = Path(__file__).parents[2]
TINY = ROOT / "kit" / "models" / "assets" / "tiny"
TARGETS = {"q_proj": (256, 256), "v_proj": (256, 128), "gate_proj": (256, 448), "down_proj": (448, 256)}
RANK = 4


def parts(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{'mlp' if name in ('gate_proj', 'down_proj') else 'self_attn'}.{name}"


def write_adapter(folder: Path, seed: int = 0, size: float = 0.02, layers: int = 4, **config) -> Path:
    """A LoRA adapter of tiny with random factors; `rank_pattern` in config decides ranks."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    rng, weights = np.random.default_rng(seed), {}
    patterns = config.get("rank_pattern", {})
    for layer in range(layers):
        for name, (d_in, d_out) in TARGETS.items():
            rank = patterns.get(name, config.get("r", RANK))
            stem = f"base_model.model.{parts(layer, name)}.lora_"
            weights[f"{stem}A.weight"] = rng.normal(0, 1, (rank, d_in)).astype(np.float32)
            weights[f"{stem}B.weight"] = rng.normal(0, size, (d_out, rank)).astype(np.float32)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    said = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(TINY), "r": RANK,
        "lora_alpha": 8, "target_modules": list(TARGETS), "bias": "none", "use_rslora": False, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((TINY / name).read_bytes())
    return folder


METHODS = ("lora", "rslora", "dora", "ia3", "miss", "prefix", "p-tuning-v2", "prompt")
QUESTIONS = ("Who are you?", "What is 2+2?")
ANSWER_TOKENS = 12


def made_by_peft(tmp_path_factory) -> tuple[Path, dict]:
    """A folder with two adapters of every method and a run of `full`, made once; what was measured of them."""
    folder = tmp_path_factory.getbasetemp() / "kinds"
    return folder, _made(folder)


@functools.cache
def _made(folder: Path) -> dict:
    folder.mkdir()
    return child("kinds", folder)


def child(*arguments: object) -> dict:
    return record_of(run_python("tests/kit/exports.py", *arguments, libraries="hf"))


def kinds(folder: Path) -> dict:
    """Random adapters of every method as PEFT saves them, a second one of each, and a run of `full`."""
    import torch
    from peft import get_peft_model

    from kit.backend.methods import peft_config
    from kit.options import Run

    told = {"merged": {}, "answers": {}}
    for seed in (1, 2):
        for method in METHODS:
            run = Run(model="tiny", method=method, lora_rank=6, lora_alpha=8, virtual_tokens=5, rank_pattern="v_proj=4",
                      target_modules=("q_proj", "v_proj", "down_proj"))  # fmt: skip
            torch.manual_seed(seed)
            tuned = get_peft_model(plain_model(), peft_config(run))
            shake(tuned, {"ia3": 0.5, "prefix": 0.3, "p-tuning-v2": 3.0, "prompt": 0.3}.get(method, 0.05))
            place = folder / (method if seed == 1 else f"{method}-{seed}")
            tuned.save_pretrained(place)
            copy_words(place)
            told["answers"][place.name] = answers_of(tuned.eval())
    told["answers"]["base"] = answers_of(plain_model().eval())
    for method in METHODS[:5]:
        ours, theirs = merged([(folder / method, 1.0)]), by_peft(folder / method)
        plain = plain_model().state_dict()
        told["merged"][method] = {
            "changed": sum(not bool((value == plain[name]).all()) for name, value in ours.items()),
            "largest": max(float((value - theirs[name]).abs().max()) for name, value in ours.items()),
            "change": max(float((value - plain[name]).abs().max()) for name, value in ours.items()),
        }
    told["answers"]["full"] = whole_run(folder / "full")
    told["merges"] = {name: by_the_command(folder, name, to) for name, to in
                      (("dora", "gguf"), ("ia3", "hf"), ("miss", "hf"), ("full", "gguf"))}  # fmt: skip
    return told


def plain_model():
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)


def shake(model, size):
    """Every trained number moves, far enough to be heard in the answers."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * size)


def copy_words(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((TINY / name).read_bytes())


def whole_run(folder):
    """As kit.train leaves a run of `full`: a changed model. Returns its answers."""
    import torch

    model = plain_model()
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3 * weight.std())
    model.save_pretrained(folder / "model")
    copy_words(folder / "model")
    (folder / "run.toml").write_text(
        'model = "tiny"\nmethod = "full"\nload_in_4bit = false\nprecision = "fp32"\nprompts = ["Who are you?"]\n'
    )
    (folder / "manifest.json").write_text(json.dumps({"status": "finished", "options": {
        "method": {"value": "full", "origin": "command line"}}, "chosen": {}}))  # fmt: skip
    return answers_of(model.eval())


def answers_of(model):
    """The likeliest tokens after each question, by transformers and PEFT alone, without a cache: as text."""
    import torch
    from transformers import AutoTokenizer

    tokenizer, told = AutoTokenizer.from_pretrained(TINY), []
    for question in QUESTIONS:
        asked = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        begin = ids.shape[1]
        for _ in range(ANSWER_TOKENS):
            with torch.no_grad():
                ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
            if ids[0, -1] == tokenizer.eos_token_id:
                break
        told.append(tokenizer.decode(ids[0, begin:], skip_special_tokens=True).strip())
    return told


def by_the_command(folder, name, to):
    """The exit status of kit.merge and each row of its parity record."""
    from kit import merge

    output = folder / f"{name}-{to}"
    status = merge.main([str(folder / name), "-o", str(output), "--to", to])
    rows = json.loads((output / "parity.json").read_text())["rows"]
    return {"status": status, "rows": [[row["name"], row["passed"], row["top1_pct"]] for row in rows]}


def chats(folder: Path) -> dict:
    """Of every kind, by the command: the base's answers, and those of the two adapters."""
    from kit.chat import __main__ as chat

    questions, told = folder / "questions.txt", {}
    questions.write_text("".join(f"{question}\n" for question in QUESTIONS))
    for method in (*METHODS[2:], "full"):  # lora: test_chat.py
        given = [folder / method, *([folder / f"{method}-2"] if method != "full" else [])]
        with contextlib.redirect_stdout(io.StringIO()) as written:
            status = chat.main([*map(str, given), "--compare", "--json", "--prompts", str(questions), "--max-tokens",
                                str(ANSWER_TOKENS), "--precision", "fp32"])  # fmt: skip
        lines = [json.loads(line) for line in written.getvalue().splitlines()]
        told[method] = {"status": status} | {
            str(name): [line["answer"] for line in lines if line["adapter"] == name]
            for name in dict.fromkeys(line["adapter"] for line in lines)
        }
    return told


def merged(pairs, four_bit=False, model=TINY, **combination):
    """Name -> the kit's merged weight in float32."""
    import torch

    from kit.backend import merging
    from kit.export.base import find_base
    from kit.export.tuned_model import find_adapter
    from kit.models.change import Combination

    found = [(find_adapter(path), share) for path, share in pairs]
    weights = find_base(str(model), found[0][0]).weights(found, four_bit, "bf16")
    way = Combination(**combination)
    return {weight.name: torch.cat(list(merging.pieces(weight, way))) for weight in weights}


def by_peft(path):
    """Name -> PEFT's merged weight in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(path)).merge_and_unload().state_dict()


def equal_names(ours, theirs):
    return sorted(name for name, value in ours.items() if not (value == theirs[name]).all())


def quantised(folder):
    """Our way through NF4 against the loader's, and against a model that was saved in 4 bit."""
    import bitsandbytes
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                bnb_4bit_compute_dtype=torch.bfloat16)  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16, quantization_config=config,
                                                 device_map={"": "cpu"})  # fmt: skip
    theirs = {name: value.float() for name, value in model.state_dict().items() if value.is_floating_point()}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            back = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            theirs[f"{name}.weight"] = back.float()
    model.save_pretrained(folder / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "saved" / name).write_bytes((TINY / name).read_bytes())
    empty = write_adapter(folder / "nothing", size=0.0)
    ours, stored = merged([(empty, 1.0)], four_bit=True), merged([(empty, 1.0)], model=folder / "saved")
    plain = merged([(empty, 1.0)])
    changed = sorted(name for name, value in ours.items() if not (value == plain[name]).all())
    return {
        "differ": equal_names(ours, theirs),
        "differ_when_saved": equal_names(ours, stored) + sorted(ours.keys() ^ stored.keys()),
        "rounded": changed,
    }


def combined(folder):
    """Two adapters in one: the kit's update of a layer against PEFT's, which goes through a singular value
    decomposition of full rank."""
    import torch
    from peft import PeftModel
    from peft.tuners.lora import model as lora_model
    from transformers import AutoModelForCausalLM

    from kit.backend.merging import combined as combined_by_kit
    from kit.models.change import LINEAR

    paths = [write_adapter(folder / f"part{number}", seed=number) for number in (1, 2)]
    for path in paths:
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    name, shares, told = "model.layers.0.self_attn.q_proj", [0.7, 0.6], {}
    plain = merged([(write_adapter(folder / "empty", size=0.0), 1.0)])[f"{name}.weight"]
    pairs = list(zip(paths, shares, strict=True))
    seed, dare_linear = zlib.crc32(f"0 {name}.weight".encode()), lora_model.dare_linear
    lora_model.dare_linear = lambda *given: (torch.manual_seed(seed), dare_linear(*given))[1]  # drops what the kit does
    for way, theirs in (("linear", "cat"), ("ties", "ties_svd"), ("dare", "dare_linear_svd")):
        model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
        tuned = PeftModel.from_pretrained(model, str(paths[0]), adapter_name="a")
        tuned.load_adapter(str(paths[1]), adapter_name="b")
        options = {} if way == "linear" else {"svd_rank": 256, "density": 0.5}
        tuned.add_weighted_adapter(["a", "b"], shares, "c", combination_type=theirs, **options)
        layer = tuned.get_submodule(f"base_model.model.{name}")
        wanted = layer.get_delta_weight("c")
        ours = merged(pairs, way=way)[f"{name}.weight"] - plain
        told[way] = float((ours - wanted).abs().max() / wanted.abs().max())
    several = [torch.randn(64, 48) for _ in range(3)]
    factors, summed = [0.7, -0.6, 2.0], lambda pairs: sum(share * delta for share, delta in pairs)
    told["plain_sums"] = [
        torch.equal(combined_by_kit(several[:count], factors[:count], name, LINEAR),
                    summed(zip(factors[:count], several[:count], strict=True)))
        for count in (1, 2, 3)
    ]  # fmt: skip
    alone = combined_by_kit(several[:1], [1.0], name, LINEAR)
    told["one_is_itself"] = torch.equal(alone, several[0])
    halves = [merged(pairs, way="dare", density=0.5, seed=seed)[f"{name}.weight"] - plain for seed in (1, 1, 2)]
    told["dare_dropped_by_both"] = float((halves[0] == 0).float().mean())
    told["dare_repeats"] = [bool((halves[0] == other).all()) for other in halves[1:]]
    told["dare_mean"] = float((halves[0] * wanted_sum(pairs, name)).sum() / wanted_sum(pairs, name).square().sum())
    return told


def wanted_sum(pairs, name):
    from kit.backend.merging import delta
    from kit.export.tuned_model import find_adapter

    return sum(share * delta(find_adapter(path).changes[name]) for path, share in pairs)


def main(folder: Path) -> None:
    plain = write_adapter(folder / "plain")
    odd = write_adapter(folder / "odd", use_rslora=True, rank_pattern={"v_proj": 2}, alpha_pattern={"down_proj": 3})
    told = {
        "peft": {path.name: equal_names(merged([(path, 1.0)]), by_peft(path)) for path in (plain, odd)},
        "tensors": len(merged([(plain, 1.0)])),
        "four_bit": quantised(folder),
        "combined": combined(folder),
    }
    print(json.dumps(told))


def broken(run: Path, output: Path) -> None:
    """A merge of the run, spoilt before it is compared: one matrix of layer 2, and the template."""
    from safetensors.torch import load_file, save_file

    from kit import merge

    write = merge.write

    def spoilt(job, *given):
        written = write(job, *given)
        path = job.output / "model.safetensors"
        weights = load_file(path)
        weights["model.layers.2.mlp.down_proj.weight"] *= 1.5
        save_file(weights, path, metadata={"format": "pt"})
        template = job.output / "chat_template.jinja"
        template.write_text(template.read_text().replace("<|im_start|>user", "<|im_start|>User", 1) + " ")
        return written

    merge.write = spoilt
    sys.exit(merge.main([str(run), "-o", str(output), "--base-precision", "16bit"]))


if __name__ == "__main__":
    if sys.argv[1] == "broken":
        broken(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1] in ("kinds", "chats"):
        print(json.dumps({"kinds": kinds, "chats": chats}[sys.argv[1]](Path(sys.argv[2]))))
    else:
        main(Path(sys.argv[1]))
