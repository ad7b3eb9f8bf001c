"""A GGUF file as the base of a run: its weights, tokenizer, config and template are those that went into it."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from kit import models, prompt
from kit.export import gguf_file
from kit.models import gguf_in, vocabulary
from kit.models.change import Weight
from kit.models.families import FAMILIES, biased_layers
from kit.models.headers import headers
from kit.support.errors import KitError
from tests.kit.exports import TINY

CONFIG = json.loads((TINY / "config.json").read_text()) | {"num_hidden_layers": 2, "intermediate_size": 128}
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, "head_dim": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64,
}  # fmt: skip
QWEN2 = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
MISTRAL = LLAMA | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
MESSAGES = [{"role": "user", "content": "Wer bist du? 你好 12"}]


@pytest.fixture(autouse=True)
def own_models(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))


def weights_of(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Name in transformers -> random numbers, for a model of this config."""
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, pairs = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {
            f"{at}self_attn.q_proj.weight": (heads, width), f"{at}self_attn.k_proj.weight": (pairs, width),
            f"{at}self_attn.v_proj.weight": (pairs, width), f"{at}self_attn.o_proj.weight": (width, heads),
            f"{at}mlp.gate_proj.weight": (inner, width), f"{at}mlp.up_proj.weight": (inner, width),
            f"{at}mlp.down_proj.weight": (width, inner), f"{at}input_layernorm.weight": (width,),
            f"{at}post_attention_layernorm.weight": (width,),
        }  # fmt: skip
        for layer_name in biased_layers(config):
            bias = f"{at}self_attn.{layer_name}.bias"
            shapes[bias] = shapes[bias.replace(".bias", ".weight")][:1]
        if config["model_type"] == "qwen3":
            shapes |= {f"{at}self_attn.q_norm.weight": (head,), f"{at}self_attn.k_norm.weight": (head,)}
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def write_gguf(path: Path, config: dict, numbers: dict[str, np.ndarray], quant: str = "f32", **values: object) -> Path:
    """As `kit merge` writes it. values: further keys."""
    weights = [Weight(name, path, array.shape) for name, array in numbers.items()]
    slots = gguf_file.slots(weights, config, quant)
    writer = gguf.GGUFWriter(path, FAMILIES[config["model_type"]].gguf_architecture.lower())
    gguf_file._add_metadata(writer, config, "made", quant)
    vocabulary.of_folder(TINY, config["vocab_size"], "<|im_end|>", "{{ messages[0].content }}", config).add_to(writer)
    for key, value in values.items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    for name, array in numbers.items():
        slot = slots[name]
        rows = gguf_file.permuted(array, slot.permuted_heads) if slot.permuted_heads else array
        writer.add_tensor(slot.name, gguf.quants.quantize(rows, slot.kind), raw_dtype=slot.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(folder: str) -> dict[str, np.ndarray]:
    """Name -> numbers in 32 bit of a folder's weights."""
    found = {}
    for name, tensor in headers(Path(folder) / gguf_in.WEIGHTS).items():
        raw = np.fromfile(tensor.file, np.uint8, tensor.nbytes, offset=tensor.start_bytes)
        kind = {"F32": np.float32, "F16": np.float16}.get(tensor.dtype)
        numbers = raw.view(kind) if kind else (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        found[name] = numbers.reshape(tensor.shape).astype(np.float32)
    return found


FAMILIES_READ = [CONFIG, *(CONFIG | other for other in (LLAMA, QWEN2, MISTRAL))]


@pytest.mark.parametrize("config", FAMILIES_READ, ids=lambda config: config["model_type"])
@pytest.mark.parametrize("quant", ["f32", "f16", "bf16", "q8_0", "q4_1"])
def test_the_weights_are_those_of_the_file(tmp_path, config: dict, quant: str) -> None:
    numbers = weights_of(config)
    model = models.find(str(write_gguf(tmp_path / "x.gguf", config, numbers, quant)))
    found = read(model.location)
    assert found.keys() == numbers.keys()
    for name, ours in numbers.items():
        kind = gguf_file.slots([Weight(name, tmp_path, ours.shape)], config, quant)[name].kind
        in_file = gguf.quants.dequantize(gguf.quants.quantize(ours, kind), kind)
        written = gguf.GGMLQuantizationType[{"f32": "F32", "bf16": "BF16"}.get(quant, "F16")]
        expected = gguf.quants.dequantize(gguf.quants.quantize(in_file, written), written)
        assert np.array_equal(found[name], expected), name


def test_config_tokenizer_and_template_are_those_of_the_file(tmp_path) -> None:
    path = write_gguf(tmp_path / "x.gguf", CONFIG, weights_of(CONFIG), "f16")
    model, tiny = models.find(str(path)), models.find("tiny")
    same = ("model_type", "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim",
            "num_attention_heads", "num_key_value_heads", "vocab_size", "rms_norm_eps", "tie_word_embeddings",
            "max_position_embeddings")  # fmt: skip
    assert {name: model.config[name] for name in same} == {name: CONFIG[name] for name in same}
    assert model.config["dtype"] == "float16"
    chat, own = prompt.load(model, "auto"), prompt.load(tiny, "auto")
    assert (chat.template_text, chat.end_token, chat.end_id) == ("{{ messages[0].content }}", "<|im_end|>", own.end_id)
    qwen3 = [prompt.load(either, "qwen3").prompt_ids(MESSAGES) for either in (model, tiny)]
    assert qwen3[0] == qwen3[1]


def test_a_file_is_unpacked_once_and_again_where_it_changed(tmp_path) -> None:
    path = write_gguf(tmp_path / "x.gguf", CONFIG, weights_of(CONFIG))
    first = models.find(str(path)).location
    (Path(first) / "left.txt").touch()
    assert models.find(str(path)).location == first
    assert (Path(first) / "left.txt").is_file()
    write_gguf(path, CONFIG, weights_of(CONFIG, seed=1))
    assert models.find(str(path)).location != first


def refused(path: Path, id: str) -> str:
    with pytest.raises(KitError) as error:
        models.find(str(path))
    (finding,) = error.value.findings
    assert finding.id == id
    assert finding.fix
    cache = path.parent / "cache" / "models"
    assert not cache.is_dir() or not list(cache.iterdir()), "nothing half done is left"
    return finding.what


@pytest.mark.parametrize("content", [b"", b"no", b"GGUF", b"GGUF" + b"\xff" * 64, b"{}" * 100])
def test_what_is_no_gguf_file_is_said(tmp_path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    assert str(path) in refused(path, "gguf-unreadable")


def test_a_file_that_is_cut_short_is_said(tmp_path) -> None:
    path = write_gguf(tmp_path / "x.gguf", CONFIG, weights_of(CONFIG))
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "gguf-unreadable")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"general.type": "adapter"}, "adapter"),
        ({"general.type": "mmproj"}, "mmproj"),
        ({"split.count": 3}, "part"),
        ({"qwen3.rope.scaling.type": "yarn"}, "rotary"),
        ({"tokenizer.ggml.pre": "unheard-of"}, "unheard-of"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, monkeypatch, values: dict, word: str) -> None:
    monkeypatch.setattr(gguf.GGUFWriter, "add_type", lambda *_: None)
    monkeypatch.setattr(gguf.GGUFWriter, "add_tokenizer_pre", lambda self, name: None)
    values = {"tokenizer.ggml.pre": "qwen2"} | values
    assert word in refused(write_gguf(tmp_path / "x.gguf", CONFIG, weights_of(CONFIG), **values), "gguf-not-read")


def test_a_weight_without_a_place_is_named(tmp_path) -> None:
    path = tmp_path / "x.gguf"
    numbers = weights_of(CONFIG)
    write_gguf(path, CONFIG | {"num_hidden_layers": 2}, numbers)
    assert models.find(str(path))
    with_bias = numbers | {"model.layers.0.self_attn.q_proj.bias": np.ones(CONFIG["num_attention_heads"] * 32, "f4")}
    shutil.rmtree(tmp_path / "cache")
    assert "blk.0.attn_q.bias" in refused(write_gguf(path, CONFIG, with_bias), "gguf-not-read")


def test_numbers_beyond_16_bit_are_refused(tmp_path) -> None:
    numbers = weights_of(CONFIG)
    numbers["model.layers.0.input_layernorm.weight"][3] = 1e6  # norms lie in 32 bit
    path = write_gguf(tmp_path / "x.gguf", CONFIG, numbers, "f16")
    assert "input_layernorm" in refused(path, "gguf-overflows")


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, monkeypatch) -> None:
    path = write_gguf(tmp_path / "x.gguf", CONFIG, weights_of(CONFIG))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(path, "disk-too-full")
