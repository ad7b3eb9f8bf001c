"""Adapters made without training, for the tests of merging; and what PEFT and bitsandbytes make of the same weights.

python tests/kit/exports.py FOLDER      prints one JSON object (in a process of its own: it imports torch)
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

TINY = ROOT / "kit" / "assets" / "tiny"
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


def merged(pairs, four_bit=False, model=TINY, **combination):
    """Name -> the kit's merged weight in float32."""
    import torch

    from kit.backend import merging
    from kit.export import adapters, base

    found = [(adapters.find(path), share) for path, share in pairs]
    weights = base.find(str(model), found[0][0]).weights(found, four_bit, "bf16")
    way = merging.Combination(**combination)
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
    from transformers import AutoModelForCausalLM

    paths = [write_adapter(folder / f"part{number}", seed=number) for number in (1, 2)]
    for path in paths:
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    name, shares, told = "model.layers.0.self_attn.q_proj", [0.7, 0.6], {}
    plain = merged([(write_adapter(folder / "empty", size=0.0), 1.0)])[f"{name}.weight"]
    for way, theirs in (("linear", "cat"), ("ties", "ties_svd")):
        model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
        tuned = PeftModel.from_pretrained(model, str(paths[0]), adapter_name="a")
        tuned.load_adapter(str(paths[1]), adapter_name="b")
        options = {} if way == "linear" else {"svd_rank": 256, "density": 0.5}
        tuned.add_weighted_adapter(["a", "b"], shares, "c", combination_type=theirs, **options)
        layer = tuned.get_submodule(f"base_model.model.{name}")
        wanted = layer.get_delta_weight("c")
        ours = merged(list(zip(paths, shares, strict=True)), way=way)[f"{name}.weight"] - plain
        told[way] = float((ours - wanted).abs().max() / wanted.abs().max())
    pairs = list(zip(paths, shares, strict=True))
    halves = [merged(pairs, way="dare", density=0.5, seed=seed)[f"{name}.weight"] - plain for seed in (1, 1, 2)]
    told["dare_dropped_by_both"] = float((halves[0] == 0).float().mean())
    told["dare_repeats"] = [bool((halves[0] == other).all()) for other in halves[1:]]
    told["dare_mean"] = float((halves[0] * wanted_sum(pairs, name)).sum() / wanted_sum(pairs, name).square().sum())
    return told


def wanted_sum(pairs, name):
    from kit.backend.merging import _delta
    from kit.export import adapters

    return sum(share * _delta(adapters.find(path).updates[name]) for path, share in pairs)


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

    def spoilt(job, asked, show):
        made = write(job, asked, show)
        path = job.output / "model.safetensors"
        weights = load_file(path)
        weights["model.layers.2.mlp.down_proj.weight"] *= 1.5
        save_file(weights, path, metadata={"format": "pt"})
        template = job.output / "chat_template.jinja"
        template.write_text(template.read_text().replace("<|im_start|>user", "<|im_start|>User", 1) + " ")
        return made

    merge.write = spoilt
    sys.exit(merge.main([str(run), "-o", str(output), "--base", "16bit"]))


if __name__ == "__main__":
    if sys.argv[1] == "broken":
        broken(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1]))
