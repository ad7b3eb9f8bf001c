"""A plain Hugging Face model: config, tokenizer, template, and the weights in shards with an index."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kit.backend import merging
from kit.backend.merging import Piece
from kit.export.base import INDEX, SINGLE, Base
from kit.models.change import Weight
from kit.models.safetensors_file import WORDS, PlannedTensor, TensorWriter
from kit.support.errors import failure

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
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


@dataclass(frozen=True)
class ShardPlan:
    """Which tensor goes into which file, in the order of the weights."""

    shards: tuple[tuple[PlannedTensor, ...], ...]

    @property
    def names(self) -> list[str]:
        """Of the files."""
        count = len(self.shards)
        if count == 1:
            return [SINGLE]
        return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]

    @cached_property
    def places(self) -> dict[str, tuple[int, PlannedTensor]]:
        """Tensor -> the number of its file, and how it is written."""
        return {tensor.name: (number, tensor) for number, shard in enumerate(self.shards) for tensor in shard}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for _, tensor in self.places.values())

    @property
    def dtype(self) -> str:
        """Of most weights."""
        sizes: Counter[str] = Counter()
        for _, tensor in self.places.values():
            sizes[tensor.dtype] += tensor.nbytes
        return sizes.most_common(1)[0][0]


def plan(weights: Iterable[Weight], base: Base, precision: str, most_bytes: int) -> ShardPlan:
    """Files of at most so many bytes; a larger tensor has a file of its own."""
    shards: list[list[PlannedTensor]] = [[]]
    for weight in weights:
        tensor = PlannedTensor(weight.name, dtype_of(weight, base, precision), weight.shape)
        if shards[-1] and sum(other.nbytes for other in shards[-1]) + tensor.nbytes > most_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return ShardPlan(tuple(map(tuple, shards)))


class Shards:
    """The weights of a model folder, file after file, with the index that names the file of each."""

    def __init__(self, folder: Path, plan: ShardPlan):
        self.folder, self.plan = folder, plan
        self.number = -1  # of the file that is open
        self.writer: TensorWriter | None = None

    def write(self, weight: Weight, piece: Piece) -> None:
        number, tensor = self.plan.places[weight.name]
        if merging.overflows(piece, tensor.dtype):
            raise failure(
                "merge-overflows",
                f"{tensor.name} holds numbers beyond the largest of fp16.",
                "They would become infinity, and every answer nonsense.",
                "--precision bf16",
            )
        self._file(number).write(merging.as_bytes(piece, tensor.dtype))

    def _file(self, number: int) -> TensorWriter:
        if self.writer is None or number != self.number:
            if self.writer:
                self.writer.close()
            self.number = number
            self.writer = TensorWriter(self.folder / self.plan.names[number], self.plan.shards[number])
        return self.writer

    def end(self, weight: Weight) -> None:
        """Nothing: one tensor lies right behind the other."""

    def close(self) -> None:
        if self.writer:
            self.writer.close()
        names = self.plan.names
        if len(names) > 1:
            files = {tensor: names[number] for tensor, (number, _) in self.plan.places.items()}
            index = {"metadata": {"total_size": self.plan.nbytes}, "weight_map": files}
            (self.folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8", newline="\n")

    def abort(self) -> None:
        if self.writer:
            self.writer.abort()


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
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
