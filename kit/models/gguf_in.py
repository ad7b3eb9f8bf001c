"""A GGUF file as a model: taken apart once into the cache, and then a model folder like any other. No torch.

Config, tokenizer and template come from its keys; its weights are dequantised when they are needed. What is trained on
such a base is what the file holds: rounded numbers, written as 16 bit.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.models import vocabulary
from kit.models.families import BLOCKS, FAMILIES, WRITTEN_AS_GGUF, Family, biased_layers, family_of, key_value_heads
from kit.models.safetensors_file import WORDS, PlannedTensor, TensorWriter
from kit.models.vocabulary import Vocabulary
from kit.options import LINEAR_LAYERS
from kit.support import console
from kit.support.cache import cache_folder
from kit.support.errors import KitError, describe_error, failure
from kit.support.files import replace_folder
from kit.support.units import GIB
from kit.support.user_shell import quoted

if TYPE_CHECKING:
    import gguf
    import numpy as np

WEIGHTS = "model.safetensors"
PROBED_BYTES = 32 << 20
NAMES = {"rope_theta": "rope.freq_base", "rms_norm_eps": "attention.layer_norm_rms_epsilon"}
SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}


def unpack(path: Path) -> Path:
    """The folder in the cache with the model of the file; made the first time.

    Raises KitError: no GGUF file, or one of a family, a tokenizer or weights that are not read from one; a disk that
    takes no more.
    """
    folder = cache_folder("models") / f"{path.stem[:80]}-{_fingerprint(path)}"
    if folder.is_dir():  # its keys are not read again: those of a large vocabulary take seconds
        return folder
    reader, values = _read(path)
    family, words = _family(path, values), _words(path)
    config = _config(path, values, reader, words)
    places = _places(path, family, config, reader)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        _check_room(beside, path, config, places)
        _write_small_files(beside, config, words)
        _write_weights(beside / WEIGHTS, config, places)
        replace_folder(beside, folder)
    except OSError as error:
        raise failure(
            "gguf-not-unpacked",
            f"{path} cannot be unpacked.",
            describe_error(error),
            "free some room, or set KIT_CACHE to a folder on another disk",
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _read(path: Path) -> "tuple[gguf.GGUFReader, dict[str, Any]]":
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        values = {key: field.contents() for key, field in reader.fields.items()}
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        OverflowError,
        TypeError,
        UnicodeDecodeError,
        MemoryError,
    ) as error:
        raise _unreadable(path, error) from None
    if values.get("split.count", 1) > 1:
        raise _refused(path, "it is one part of several", "llama-gguf-split --merge FIRST-PART OUTPUT.gguf")
    if values.get("general.type", "model") != "model":
        raise _refused(path, f"it holds a {values['general.type']}")
    return reader, values


def _fingerprint(path: Path) -> str:
    """Of its size, its beginning with all keys and the table of tensors, its middle and its end."""
    try:
        size_bytes = path.stat().st_size
        digest = hashlib.sha256(str(size_bytes).encode())
        with path.open("rb") as file:
            for start in (0, size_bytes // 2, max(0, size_bytes - PROBED_BYTES)):
                file.seek(start)
                digest.update(file.read(PROBED_BYTES))
    except OSError as error:
        raise _unreadable(path, error) from None
    return digest.hexdigest()[:16]


def _family(path: Path, values: dict[str, Any]) -> Family:
    architecture = values.get("general.architecture")
    for family in FAMILIES.values():
        if family.gguf_architecture and family.gguf_architecture.lower() == architecture:
            return family
    raise _refused(path, f"its architecture is {architecture}")


def _words(path: Path) -> Vocabulary:
    words, _ = vocabulary.of_gguf(path)
    if words.kind not in ("gpt2", "llama") or (words.kind == "gpt2" and words.pre not in vocabulary.PATTERNS):
        raise _refused(path, f"its tokenizer is {words.kind} {words.pre}")
    return words


def _config(path: Path, values: dict[str, Any], reader: "gguf.GGUFReader", words: Vocabulary) -> dict[str, Any]:
    """config.json as transformers writes it for the family. Raises KitError: kinds of positions that are not read."""
    family = _family(path, values)
    at = f"{family.gguf_architecture.lower()}."
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    scaling = values.get(f"{at}rope.scaling.type", "none")
    if scaling not in ("none", None) or "rope_freqs.weight" in tensors:
        raise _refused(path, "its rotary positions are scaled")
    config: dict[str, Any] = {name: int(values[at + key]) for name, key in SIZES.items()}
    heads = config["num_attention_heads"]
    config |= {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "num_key_value_heads": int(values.get(f"{at}attention.head_count_kv", heads)),
        "head_dim": int(values.get(f"{at}attention.key_length", config["hidden_size"] // heads)),
        "hidden_act": "silu",
        "attention_bias": False,
        "rope_theta": round(float(values.get(at + NAMES["rope_theta"], 10000.0)), 6),
        "rms_norm_eps": float(f"{float(values[at + NAMES['rms_norm_eps']]):.6g}"),  # stored in 32 bit
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "tie_word_embeddings": "output.weight" not in tensors,
        "dtype": WORDS[_dtype(reader)],
    }
    ends = {"bos_token_id": words.special.get("bos"), "eos_token_id": words.special.get("eos")}
    return config | {name: number for name, number in ends.items() if number is not None}


def _dtype(reader: "gguf.GGUFReader") -> str:
    """What the matrices are written as: as they are in the file or, dequantised, in F16, whose step is finer."""
    kinds = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    return kinds.pop() if kinds in ({"BF16"}, {"F32"}) else "F16"


def _write_small_files(folder: Path, config: dict[str, Any], words: Vocabulary) -> None:
    tokenizer = words.tokenizer()
    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    special = {names[name]: words.tokens[number] for name, number in words.special.items() if name in names}
    if words.add_bos:
        tokenizer.post_processor = vocabulary.begins_with(special["bos_token"], words.special["bos"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    generation = {name: config[name] for name in ("bos_token_id", "eos_token_id") if name in config}
    texts = {
        "config.json": config,
        "tokenizer_config.json": settings | special | {"model_max_length": config["max_position_embeddings"]},
        "generation_config.json": generation,
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")
    if words.template:
        (folder / "chat_template.jinja").write_text(words.template, encoding="utf-8", newline="\n")


def _places(
    path: Path, family: Family, config: dict[str, Any], reader: "gguf.GGUFReader"
) -> "dict[str, gguf.ReaderTensor]":
    """Name in transformers -> the weight in the file. Raises KitError: a weight that the family has no place for."""
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    places = {name: tensors.pop(theirs) for name, theirs in _names(family, config) if theirs in tensors}
    if tensors or not places:
        what = next(iter(tensors), "no weights")
        raise _refused(path, f"it holds {what}, which a {family.model_type} has no place for")
    return places


def _names(family: Family, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name in transformers, name in the file) of every weight that the family may have."""
    import gguf

    blocks = config["num_hidden_layers"]
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.gguf_architecture], blocks)
    ours = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    in_attention = [f"self_attn.{layer}" for layer in LINEAR_LAYERS[:4]] + ["self_attn.q_norm", "self_attn.k_norm"]
    in_block = [*in_attention, *(f"mlp.{layer}" for layer in LINEAR_LAYERS[4:]), "input_layernorm",
                "post_attention_layernorm"]  # fmt: skip
    for number in range(blocks):
        ours += [f"{BLOCKS}{number}.{part}.weight" for part in in_block]
        ours += [f"{BLOCKS}{number}.{part}.bias" for part in in_block if part.split(".")[-1] in biased_layers(config)]
    for name in ours:
        if found := theirs.get_name(name, try_suffixes=(".weight", ".bias")):
            yield name, found


def _check_room(folder: Path, path: Path, config: dict[str, Any], places: "dict[str, gguf.ReaderTensor]") -> None:
    width = 4 if config["dtype"] == "float32" else 2
    need_bytes = width * sum(int(tensor.n_elements) for tensor in places.values())
    left_bytes = shutil.disk_usage(folder).free
    if need_bytes > left_bytes:
        raise failure(
            "disk-too-full",
            f"{path} unpacked needs {need_bytes / GIB:.2f} GiB; the disk of the cache has {left_bytes / GIB:.2f} left.",
            "A GGUF file is trained on as 16-bit weights, which are written once.",
            "free some room, or set KIT_CACHE to a folder on another disk",
        )


def _write_weights(target: Path, config: dict[str, Any], places: "dict[str, gguf.ReaderTensor]") -> None:
    import gguf

    kind = next(kind for kind, word in WORDS.items() if word == config["dtype"])
    planned = [PlannedTensor(name, kind, tuple(map(int, reversed(place.shape)))) for name, place in places.items()]
    writer = TensorWriter(target, planned)
    try:
        with console.progress() as on_progress:
            for number, (name, place) in enumerate(places.items(), start=1):
                writer.write(_as_bytes(name, place, config, gguf.GGMLQuantizationType[kind]))
                on_progress("unpacking", number, len(places), "weights")
        writer.close()
    except BaseException:
        writer.abort()
        raise


def _as_bytes(
    name: str, place: "gguf.ReaderTensor", config: dict[str, Any], kind: "gguf.GGMLQuantizationType"
) -> memoryview:
    import gguf
    import numpy as np

    numbers = gguf.quants.dequantize(place.data, place.tensor_type)
    if heads := paired_heads(place.name, config):
        numbers = unpaired(numbers, heads)
    if kind.name == "F16" and np.abs(numbers).max(initial=0) > np.finfo(np.float16).max:
        raise failure(
            "gguf-overflows",
            f"{name} holds numbers beyond the largest of 16 bit.",
            "They would become infinity, and every answer nonsense.",
            "a GGUF file in BF16 or F32",
        )
    return np.ascontiguousarray(gguf.quants.quantize(numbers, kind)).data.cast("B")


def paired_heads(name: str, config: dict[str, Any]) -> int:
    """Heads of a weight, by its name in the file, whose rotary pairs lie side by side there; 0: it lies as in
    transformers."""
    family = family_of(config)
    if not (family and family.gguf_pairs_neighbours):
        return 0
    heads = {"attn_q.weight": config["num_attention_heads"], "attn_k.weight": key_value_heads(config)}
    return int(heads.get(name.split(".", 2)[-1], 0))


def unpaired(numbers: "np.ndarray", heads: int) -> "np.ndarray":
    """The rows of a query or key matrix as transformers orders them: rotary pairs half a head apart."""
    half = numbers.shape[0] // heads // 2
    return numbers.reshape(heads, half, 2, *numbers.shape[1:]).swapaxes(1, 2).reshape(numbers.shape)


def _unreadable(path: Path, error: Exception) -> KitError:
    return failure(
        "gguf-unreadable",
        f"{path} cannot be read as a GGUF file.",
        describe_error(error),
        "download it again",
        f"--model {quoted(path.with_suffix(''))}        (a folder with safetensors)",
    )


def _refused(path: Path, why: str, *fix: str) -> KitError:
    known = ", ".join(WRITTEN_AS_GGUF)
    return failure(
        "gguf-not-read",
        f"{path.name} cannot be trained on: {why}.",
        f"GGUF files of {known} are read, whole and with plain rotary positions.",
        *(fix or ("--model OWNER/NAME        (the same model as safetensors)",)),
    )
