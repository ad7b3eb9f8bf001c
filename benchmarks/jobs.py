"""Jobs that every tool can do: random weights of a real architecture, a tokenizer, chat rows of varied length.

J1 is a small Qwen3 whose steps are bound by the overheads of a tool, "0.6B" has the shape of Qwen3-0.6B. Tokenizer and
words are made from the Python files of the standard library; seeds are fixed, so all runs of one Python are alike.
"""

import json
import math
import random
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measure
from benchmarks.qwen3_shape import DATA

J1 = {
    "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip
COMMON = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0,
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000, "torch_dtype": "bfloat16", "pad_token_id": 0, "eos_token_id": 2, "use_cache": True,
}  # fmt: skip
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# what TRL needs to know the answers: the same text as ChatML
TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SEED = 3407
TRAIN_ROWS, HELD_OUT_ROWS = 1000, 100
SPREAD, SHORTEST_TOKENS = 0.7, 20


class Lengths(NamedTuple):
    """Of rows, drawn from a log-normal distribution."""

    median_tokens: int
    longest_tokens: int


SHORT = Lengths(110, 400)


def build(
    name: str, folder: Path, draw: Callable[[Path], None] = measure.draw_weights, lengths: Lengths = SHORT
) -> None:
    """Folder/model, folder/train.jsonl, folder/held_out.jsonl. draw: writes weights beside a config.json."""
    model = folder / "model"
    model.mkdir(parents=True)
    text = [path.read_text("utf-8", "ignore") for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))]
    tokenizer = _tokenizer(text)
    tokenizer.save(str(model / "tokenizer.json"))
    _write(model / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[2], "pad_token": SPECIAL[0],
        "model_max_length": 4096, "padding_side": "right", "chat_template": TEMPLATE,
    })  # fmt: skip
    _write(model / "config.json", COMMON | (J1 if name == "J1" else _published(name)))
    draw(model)
    rows = _rows(tokenizer, re.findall("[A-Za-z]{3,10}", " ".join(text)), lengths)
    for file, part in (("train.jsonl", rows[:TRAIN_ROWS]), ("held_out.jsonl", rows[TRAIN_ROWS:])):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8", newline="\n")


def _published(size: str) -> dict[str, Any]:
    config = json.loads((DATA / f"Qwen3-{size}.config.json").read_text("utf-8"))
    return {name: config[name] for name in J1}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8", newline="\n")


def _tokenizer(text: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=J1["vocab_size"], special_tokens=list(SPECIAL), initial_alphabet=letters, show_progress=False,
    ))  # fmt: skip
    return made


def _rows(tokenizer: Any, words: list[str], lengths: Lengths) -> list[dict[str, Any]]:
    """Questions take 15 to 50 % of a row's tokens, the answers the rest."""
    chance = random.Random(SEED)

    def text(tokens: int) -> str:
        start = chance.randrange(len(words) - lengths.longest_tokens)
        ids = tokenizer.encode(" ".join(words[start : start + tokens])).ids
        return tokenizer.decode(ids[: max(1, tokens)])

    made = []
    for _ in range(TRAIN_ROWS + HELD_OUT_ROWS):
        drawn = chance.lognormvariate(math.log(lengths.median_tokens), SPREAD)
        tokens = round(min(lengths.longest_tokens, max(SHORTEST_TOKENS, drawn)))
        question = max(1, round(tokens * chance.uniform(0.15, 0.5)) - 8)
        messages = [("user", text(question)), ("assistant", text(max(1, tokens - question - 12)))]
        made.append({"messages": [{"role": role, "content": content} for role, content in messages]})
    return made
