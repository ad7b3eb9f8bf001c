"""A plain Hugging Face model: config, tokenizer, template, and the weights in shards with an index."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit.backend import merging
from kit.export.base import INDEX, SINGLE, Base
from kit.export.writer import PlannedTensor, TensorWriter
from kit.models.change import Weight
from kit.support.errors import KitError, problem

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
WORDS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def dtype_of(weight: Weight, base: Base, precision: str) -> str:
    """auto: as in the base; what lay there in 4 bit, or as no float of 16 or 32 bit, in bf16."""
    if precision != "auto":
        return DTYPES[precision]
    own = base.headers[weight.name].dtype
    return own if own in WORDS and not weight.saved_in_four_bit else "BF16"


class Shards:
    """The weights of a model folder, in files of at most `most_bytes` (a larger tensor has a file of its own)."""

    def __init__(self, folder: Path, weights: Sequence[Weight], base: Base, precision: str, most_bytes: int):
        tensors = [PlannedTensor(weight.name, dtype_of(weight, base, precision), weight.shape) for weight in weights]
        self.folder, self.tensors = folder, {tensor.name: tensor for tensor in tensors}
        shards = _grouped(tensors, most_bytes)
        self.names = [SINGLE] if len(shards) == 1 else [
            f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)
        ]  # fmt: skip
        self.shard_of = {one.name: number for number, shard in enumerate(shards) for one in shard}
        self.shards, self.writer, self.current, self.tensor = shards, None, -1, None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def dtype(self) -> str:
        """Of most weights."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
        return max(sizes, key=sizes.get)

    def begin(self, weight: Weight) -> None:
        self.tensor = self.tensors[weight.name]
        number = self.shard_of[weight.name]
        if number != self.current:
            if self.writer:
                self.writer.close()
            self.current = number
            self.writer = TensorWriter(self.folder / self.names[number], self.shards[number])

    def write(self, piece: Any) -> None:
        if merging.overflows(piece, self.tensor.dtype):
            raise KitError(
                problem(
                    "merge-overflows",
                    f"{self.tensor.name} holds numbers beyond the largest of fp16.",
                    "They would become infinity, and every answer nonsense.",
                    "--precision bf16",
                )
            )
        self.writer.write(merging.as_bytes(piece, self.tensor.dtype))

    def end(self) -> None:
        pass

    def close(self) -> None:
        self.writer.close()
        if len(self.names) > 1:
            table = {name: self.names[number] for name, number in self.shard_of.items()}
            index = {"metadata": {"total_size": self.nbytes}, "weight_map": table}
            (self.folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")

    def abort(self) -> None:
        if self.writer:
            self.writer.abort()


def _grouped(tensors: list[PlannedTensor], most_bytes: int) -> list[list[PlannedTensor]]:
    groups: list[list[PlannedTensor]] = [[]]
    for tensor in tensors:
        if groups[-1] and sum(one.nbytes for one in groups[-1]) + tensor.nbytes > most_bytes:
            groups.append([])
        groups[-1].append(tensor)
    return groups


def write_small_files(folder: Path, base: Base, adapter_folder: Path, end_ids: list[int], dtype: str) -> None:
    """Everything but the weights: the tokenizer and template that were trained with, the config without quantisation.

    end_ids: the tokens that end an answer, the trained one first.
    """
    source = adapter_folder if (adapter_folder / "tokenizer.json").is_file() else base.folder
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config = {key: value for key, value in base.model.config.items() if key != "quantization_config"}
    config.pop("torch_dtype", None)
    config["dtype"] = WORDS[dtype]
    settings = dict(base.model.generation)
    if end_ids:
        config["eos_token_id"] = end_ids[0]
        settings["eos_token_id"] = end_ids[0] if len(end_ids) == 1 else end_ids
    if config.get("pad_token_id") is not None:
        settings.setdefault("pad_token_id", config["pad_token_id"])
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", settings)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
