"""Merged weights -> a GGUF file for llama.cpp and Ollama, with the `gguf` package: no compiler, no llama.cpp build."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kit.backend.merging import Piece
from kit.models.change import Weight
from kit.models.families import WRITTEN_AS_GGUF, Family, family_of, head_dim, key_value_heads, window_tokens
from kit.models.gguf_in import paired_heads
from kit.models.vocabulary import Vocabulary
from kit.support.errors import failure

if TYPE_CHECKING:
    import gguf
    import numpy as np

# Types that the gguf package can write, with the type of embedding and head: below 8 bits these stay at Q8_0, because
# every token passes through them (llama-quantize keeps them wider too).
TYPES = {
    "f32": ("F32", "F32"),
    "f16": ("F16", "F16"),
    "bf16": ("BF16", "BF16"),
    "q8_0": ("Q8_0", "Q8_0"),
    "q5_1": ("Q5_1", "Q8_0"),
    "q5_0": ("Q5_0", "Q8_0"),
    "q4_1": ("Q4_1", "Q8_0"),
    "q4_0": ("Q4_0", "Q8_0"),
}
FILE_TYPES = {"f32": "ALL_F32"} | {name: f"MOSTLY_{name.upper()}" for name in TYPES if name != "f32"}
EMBEDDING, HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class Slot:
    """Where a weight goes: its name there, type, and the heads whose rows llama.cpp orders otherwise (0: none)."""

    name: str
    kind: "gguf.GGMLQuantizationType"
    permuted_heads: int = 0


@dataclass(frozen=True)
class GgufModel:
    """What the files of one model share. config: its config.json."""

    name: str
    weights: Sequence[Weight]
    config: dict[str, Any]
    vocabulary: Vocabulary


class GgufFile:
    """One file of one type, written as the weights come."""

    def __init__(self, path: Path, quant: str, model: GgufModel):
        self.path = path
        self.slots = slots(model.weights, model.config, quant)
        quantised = [] if TYPES[quant][0] in ("F16", "F32") else list(self.slots.values())
        self.fallbacks = sum(slot.kind.name == "F16" for slot in quantised)  # wider than asked for, by their shape
        self.held: list[np.ndarray] = []  # of a weight whose rows are reordered once all are there
        self.writer, self.file = _with_head(path, quant, model, self.slots)

    def write(self, weight: Weight, piece: Piece) -> None:
        slot = self.slots.get(weight.name)
        if slot and slot.permuted_heads:
            self.held.append(piece.numpy())
        elif slot:
            self._put(slot, piece.numpy())

    def end(self, weight: Weight) -> None:
        import numpy as np

        slot = self.slots.get(weight.name)
        if not slot:
            return
        if self.held:
            self._put(slot, permuted(np.concatenate(self.held), slot.permuted_heads))
            self.held.clear()
        self.writer.write_padding(self.file, self.file.tell())

    def _put(self, slot: Slot, numbers: "np.ndarray") -> None:
        import gguf
        import numpy as np

        if slot.kind.name == "F16" and (np.abs(numbers) > np.finfo(np.float16).max).any():
            raise failure(
                "merge-overflows",
                f"{slot.name} holds numbers beyond the largest of F16.",
                "They would become infinity, and every answer nonsense.",
                "--quant bf16",
            )
        self.file.write(np.ascontiguousarray(gguf.quants.quantize(numbers, slot.kind)).data)

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.writer.close()

    def abort(self) -> None:
        self.file.close()


def _family(config: dict[str, Any]) -> Family:
    """Of a config that `check_config` has let through."""
    family = family_of(config)
    assert family, config.get("model_type")
    return family


def _with_head(path: Path, quant: str, model: GgufModel, slots: dict[str, Slot]) -> "tuple[gguf.GGUFWriter, BinaryIO]":
    """The file with its keys and the table of its tensors, up to where the first one begins."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[_family(model.config).gguf_architecture]])
    _add_metadata(writer, model.config, model.name, quant)
    model.vocabulary.add_to(writer)
    for weight in model.weights:
        slot = slots.get(weight.name)
        if slot:
            shape = gguf.quant_shape_to_byte_shape(weight.shape, slot.kind)
            writer.add_tensor_info(slot.name, shape, np.dtype(np.uint8), int(np.prod(shape)), slot.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout, "opened with the header"
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    return writer, file


def slots(weights: Sequence[Weight], config: dict[str, Any], quant: str) -> dict[str, Slot]:
    """Weight -> its place in the file. A head that is the embedding has none.

    Raises KitError: a weight that the format has no name for.
    """
    import gguf

    architecture = gguf.MODEL_ARCH[_family(config).gguf_architecture]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    found, unnamed = {}, []
    for weight in weights:
        if weight.name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        name = names.get_name(weight.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            unnamed.append(weight.name)
        else:
            found[weight.name] = Slot(name, _kind(name, weight.shape, quant), paired_heads(name, config))
    if unnamed:
        raise failure(
            "gguf-weight-unknown",
            f"A GGUF file of a {config['model_type']} has no place for {unnamed[0]}.",
            "A file without it would be another model.",
            "--to hf        (and convert_hf_to_gguf.py of llama.cpp)",
        )
    return found


def nbytes(weights: Sequence[Weight], config: dict[str, Any], quant: str) -> int:
    """Of the weights in a file of that type."""
    import gguf

    found, total = slots(weights, config, quant), 0
    for weight in weights:
        if weight.name in found:
            block, block_bytes = gguf.GGML_QUANT_SIZES[found[weight.name].kind]
            total += math.prod(weight.shape) // block * block_bytes
    return total


def _kind(name: str, shape: tuple[int, ...], quant: str) -> "gguf.GGMLQuantizationType":
    """Norms in F32; a matrix whose rows do not divide into blocks in F16, as llama.cpp does it."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if len(shape) < 2:
        return kinds.F32
    kind = kinds[TYPES[quant][1 if name in (EMBEDDING, HEAD) else 0]]
    return kind if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else kinds.F16


def permuted(numbers: "np.ndarray", heads: int) -> "np.ndarray":
    """The rows of a query or key matrix as llama.cpp orders them."""
    half = numbers.shape[0] // heads // 2
    return numbers.reshape(heads, 2, half, *numbers.shape[1:]).swapaxes(1, 2).reshape(numbers.shape)


def _add_metadata(writer: "gguf.GGUFWriter", config: dict[str, Any], name: str, quant: str) -> None:
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[quant]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(key_value_heads(config))
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if _family(config).gguf_pairs_neighbours:
        writer.add_rope_dimension_count(head_dim(config))


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Under rope_parameters since transformers 5, before it at the top with rope_scaling."""
    found = config.get("rope_parameters") or {**(config.get("rope_scaling") or {})}
    return {"rope_theta": config.get("rope_theta", 10000.0), **found}


def check_config(config: dict[str, Any]) -> None:
    """Raises KitError: a family or a kind of positions that is not written here."""
    family, rope = family_of(config), _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    unsupported = {}
    if not family or not family.gguf_architecture:
        unsupported["model_type"] = config.get("model_type")
    if kind != "default":
        unsupported["rope_type"] = kind
    unsupported |= {name: True for name in ("attention_bias", "mlp_bias", "use_sliding_window") if config.get(name)}
    if config.get("use_sliding_window") is not False and (window := window_tokens(config)):
        unsupported["sliding_window"] = window
    if unsupported:
        raise failure(
            "gguf-family-unknown",
            "This model is not of a kind that the kit writes as GGUF.",
            f"Written and compared are {', '.join(WRITTEN_AS_GGUF)}, with plain positions and without a window.",
            "--to hf        (and convert_hf_to_gguf.py of llama.cpp)",
            details=unsupported,
        )
