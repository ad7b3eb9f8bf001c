"""Small models of random weights and a family's true architecture, with the embedded tokenizer. A process of its own:
python -m tests.kit.small_families FOLDER MODEL_TYPE..."""

import json
import shutil
import sys
from pathlib import Path

from kit import models
from kit.models import vocabulary

SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.15, "tie_word_embeddings": False,
    "sliding_window": None,
}  # fmt: skip
CUTS_AS_QWEN = ("qwen2",)
TOKENS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


def main(folder: Path, names: list[str]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    own = json.loads((models.TINY / "config.json").read_text())
    for name in names:
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **SIZES, **{key: own.get(key) for key in TOKENS})
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for place, weight in model.named_parameters():
            if weight.dim() == 1:  # norms and biases: what starts as one or zero would hide a place taken wrongly
                torch.nn.init.normal_(weight, 1.0 if "norm" in place else 0.0, 0.3)
        target = Path(shutil.copytree(models.TINY, folder / name, ignore=shutil.ignore_patterns("*.safetensors")))
        model.save_pretrained(target)
        if name in CUTS_AS_QWEN:
            cut_as_qwen(target / "tokenizer.json")


def cut_as_qwen(path: Path) -> None:
    """transformers cuts texts for such a model_type by a pattern of its own, whatever tokenizer.json has."""
    (pattern,) = vocabulary.PATTERNS["qwen2"]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    whole = json.loads(path.read_text(encoding="utf-8"))
    whole |= {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]}}
    path.write_text(json.dumps(whole), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
