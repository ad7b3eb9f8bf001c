"""GGUF files: the tokenizer there and back, tensors and keys, what is refused, and the Modelfile for Ollama."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from kit import models, prompt
from kit.export import gguf_file, llama_cpp, modelfile, quants
from kit.export.gguf_file import GgufFile, GgufModel
from kit.export.job import prepare
from kit.export.modelfile import Modelfile
from kit.export.options import MergeCommand
from kit.models import vocabulary
from kit.models.change import Weight
from kit.prompt import ChatFormat
from kit.support.errors import KitError
from tests.kit.exports import TINY, write_adapter

TEXTS = (
    "Hello, it's 12345 o'clock.\n\n\tdef f(x):\r\n  return x  # naïve Ωmega  ",
    "请用一句话介绍你自己。 Привет 안녕 שלום 🤖👩‍🚀",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    " leading, trailing ",
)

OTHER_FAMILIES = sorted((Path(__file__).parents[1] / "data" / "families").glob("*.json"))


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def words(folder: Path, template: str = "{{ messages }}") -> vocabulary.Vocabulary:
    config = json.loads((folder / "config.json").read_text())
    return vocabulary.of_folder(folder, config["vocab_size"], "<|im_end|>", template, config)


@pytest.mark.parametrize("name", ["tiny", "qwen3"])
def test_the_tokenizer_that_llama_cpp_makes_of_it(name, qwen3_folder) -> None:
    from tokenizers import Tokenizer

    folder = TINY if name == "tiny" else qwen3_folder
    original, rebuilt = Tokenizer.from_file(str(folder / "tokenizer.json")), words(folder).tokenizer()
    for text in TEXTS:
        assert ids(rebuilt, text) == ids(original, text)
        assert rebuilt.decode(ids(rebuilt, text), skip_special_tokens=False) == text


def test_a_tokenizer_there_and_back(tmp_path) -> None:
    import gguf

    found = words(TINY)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "qwen3")
    found.add_to(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    again, values = vocabulary.of_gguf(tmp_path / "x.gguf")
    assert again == found
    assert values["tokenizer.ggml.add_bos_token"] is False


def test_names_and_types_of_qwen3s_tokens(qwen3_folder) -> None:
    found = words(qwen3_folder)
    assert (found.kind, found.pre, len(found.tokens)) == ("gpt2", "qwen2", 151_936)
    assert found.special == {"bos": 151_643, "eos": 151_645, "eot": 151_645, "padding": 151_643}
    kinds = {
        token: found.types[found.tokens.index(token)] for token in ("<|im_end|>", "<think>", "Ġthe", "[PAD151700]")
    }
    assert list(kinds.values()) == [vocabulary.CONTROL, vocabulary.USER_DEFINED, vocabulary.NORMAL, vocabulary.UNUSED]


def sentencepiece(folder: Path) -> Path:
    """A tokenizer as Llama 2 has it: spaces as a sign, merges, single bytes for the rest."""
    pieces = ["▁", "t", "h", "e", "c", "a", "▁t", "he", "▁the", "▁c", "at"]
    merges = [["▁", "t"], ["h", "e"], ["▁t", "he"], ["▁", "c"], ["a", "t"]]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    added = [{"id": number, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False} for number, token in enumerate(tokens[:3])]  # fmt: skip
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "pre_tokenizer": None,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]},
        "post_processor": {"type": "TemplateProcessing", "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges},
    }  # fmt: skip
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}')
    return folder


def test_a_sentencepiece_tokenizer(tmp_path) -> None:
    from tokenizers import Tokenizer

    folder = sentencepiece(tmp_path / "llama")
    found = vocabulary.of_folder(folder, 270, "</s>", "", {})
    assert (found.kind, found.add_bos, found.merges) == ("llama", True, [])
    assert found.special == {"bos": 1, "eos": 2, "eot": 2, "unknown": 0}
    original, rebuilt = Tokenizer.from_file(str(folder / "tokenizer.json")), found.tokenizer()
    for text in ("the cat", "that the é cat", "tthe"):
        assert ids(rebuilt, text) == ids(original, text)


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"}},
        {"model": {"type": "WordPiece"}},
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise(tmp_path, change) -> None:
    whole = json.loads((TINY / "tokenizer.json").read_text("utf-8")) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(KitError) as error:
        vocabulary.of_folder(tmp_path, 6400, "<|im_end|>", "", {})
    assert error.value.findings[0].id == "gguf-tokenizer-unknown"


# tensors and keys


class Piece:
    """What the file needs of a tensor."""

    def __init__(self, numbers):
        self.numbers = numbers

    def numpy(self):
        return self.numbers


CONFIG = {
    "model_type": "qwen3", "num_hidden_layers": 1, "max_position_embeddings": 512, "hidden_size": 64, "head_dim": 16,
    "intermediate_size": 80, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "vocab_size": 6400, "tie_word_embeddings": True,
}  # fmt: skip
SHAPES = {
    "model.embed_tokens.weight": (6400, 64),
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.0.self_attn.k_norm.weight": (16,),
    "model.layers.0.mlp.down_proj.weight": (64, 80),
    "model.norm.weight": (64,),
    "lm_head.weight": (6400, 64),
}


def write(path: Path, quant: str, **config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    weights = [Weight(name, path, shape) for name, shape in SHAPES.items()]
    values = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}
    file = GgufFile(path, quant, GgufModel("name", weights, CONFIG | config, words(TINY, "{{ template }}")))
    for weight in weights:
        for part in np.array_split(values[weight.name], 3):
            file.write(weight, Piece(part))
        file.end(weight)
    file.close()
    return values


@pytest.mark.parametrize("quant", list(gguf_file.TYPES))
def test_a_file_that_the_gguf_package_reads(tmp_path, quant) -> None:
    import gguf

    values = write(tmp_path / "x.gguf", quant)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found.keys() == {"token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_k_norm.weight",
                            "blk.0.ffn_down.weight", "output_norm.weight"}  # fmt: skip
    assert found["output_norm.weight"].tensor_type.name == "F32"
    matrix = found["blk.0.attn_q.weight"]
    assert matrix.tensor_type.name == gguf_file.TYPES[quant][0]
    wanted = values["model.layers.0.self_attn.q_proj.weight"]
    again = gguf.quants.dequantize(matrix.data, matrix.tensor_type)
    steps = {"q4_0": 8, "q4_1": 15, "q5_0": 16, "q5_1": 31, "q8_0": 127, "bf16": 256, "f16": 2048, "f32": 1e9}
    assert np.abs(again - wanted).max() <= 2 * np.abs(wanted).max() / steps[quant]
    odd = found["blk.0.ffn_down.weight"].tensor_type.name  # rows of 80 are no whole blocks of 32
    assert odd == (gguf_file.TYPES[quant][0] if quant in ("f32", "f16", "bf16") else "F16")


def test_keys_of_qwen3(tmp_path) -> None:
    write(tmp_path / "x.gguf", "q8_0")
    _, values = vocabulary.of_gguf(tmp_path / "x.gguf")
    wanted = {
        "general.architecture": "qwen3", "general.file_type": 7, "qwen3.context_length": 512,
        "qwen3.embedding_length": 64, "qwen3.block_count": 1, "qwen3.feed_forward_length": 80,
        "qwen3.attention.head_count": 4, "qwen3.attention.head_count_kv": 2, "qwen3.attention.key_length": 16,
        "qwen3.attention.value_length": 16, "qwen3.rope.freq_base": 5e5, "qwen3.vocab_size": 6400,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": "{{ template }}",
    }  # fmt: skip
    assert {key: values[key] for key in wanted} == wanted
    assert values["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)


def test_an_own_head_is_written_and_a_shared_one_is_not(tmp_path) -> None:
    weights = [Weight(name, tmp_path, shape) for name, shape in SHAPES.items()]
    assert "lm_head.weight" not in gguf_file.slots(weights, CONFIG, "f16")
    own = gguf_file.slots(weights, CONFIG | {"tie_word_embeddings": False}, "q4_0")
    assert (own["lm_head.weight"].name, own["lm_head.weight"].kind.name) == ("output.weight", "Q8_0")


def test_llamas_rotary_order_is_the_one_that_transformers_undoes() -> None:
    numbers = np.arange(32 * 3).reshape(32, 3)
    heads, half = 4, 4
    undone = gguf_file.permuted(numbers, heads).reshape(heads, half, 2, 3).swapaxes(2, 1).reshape(numbers.shape)
    assert (undone == numbers).all()
    assert not (gguf_file.permuted(numbers, heads) == numbers).all()


def test_a_number_too_large_for_f16(tmp_path) -> None:
    weights = [Weight("model.embed_tokens.weight", tmp_path, (6400, 64))]
    file = GgufFile(tmp_path / "x.gguf", "f16", GgufModel("name", weights, CONFIG, words(TINY)))
    with pytest.raises(KitError) as error:
        file.write(weights[0], Piece(np.full((6400, 64), 1e5, np.float32)))
    file.abort()
    assert error.value.findings[0].id == "merge-overflows"


def test_a_weight_without_a_place(tmp_path) -> None:
    weights = [Weight("model.layers.0.visual.weight", tmp_path, (64, 64))]
    with pytest.raises(KitError) as error:
        gguf_file.slots(weights, CONFIG, "f16")
    assert error.value.findings[0].id == "gguf-weight-unknown"


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gemma3"},
        {"rope_scaling": {"rope_type": "yarn"}, "rope_parameters": None},
        {"attention_bias": True},
        {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]},
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "max_position_embeddings": 32768},
        {"sliding_window": 256},
    ],
)
def test_families_that_are_not_written(config) -> None:
    gguf_file.check_config(CONFIG)
    with pytest.raises(KitError) as error:
        gguf_file.check_config(CONFIG | config)
    assert error.value.findings[0].id == "gguf-family-unknown"


@pytest.mark.parametrize("path", OTHER_FAMILIES, ids=lambda path: path.stem)
def test_families_that_the_kit_does_not_know(path: Path) -> None:
    config = json.loads(path.read_text())
    with pytest.raises(KitError) as error:
        gguf_file.check_config(config)
    (found,) = error.value.findings
    assert (found.id, dict(found.details)["model_type"]) == ("gguf-family-unknown", config["model_type"])
    assert "qwen3, qwen2, llama, mistral" in found.why


# formats that llama-quantize makes


def test_formats_that_need_llama_cpp(tmp_path, monkeypatch) -> None:
    adapter = write_adapter(tmp_path / "a")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for quant, word in (("q4_k_m", "llama-quantize"), ("q9_0", "no number format")):
        with pytest.raises(KitError) as error:
            prepare(MergeCommand(source=adapter, output=tmp_path / "out", to=("gguf",), quant=(quant,)))
        assert error.value.findings[0].id == "gguf-quant-not-here"
        assert word in error.value.findings[0].why
        assert "q8_0" in error.value.findings[0].fix[0]
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    job = prepare(MergeCommand(source=adapter, output=tmp_path / "out", to=("gguf",), quant=("q8_0", "q4_k_m")))
    assert quants.written_here(job.quants) == ("q8_0", "f16")


def test_without_the_package(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(KitError) as error:
        prepare(MergeCommand(source=write_adapter(tmp_path / "a"), output=tmp_path / "out", to=("gguf",)))
    assert error.value.findings[0].fix == ("python -m pip install gguf",)


@pytest.mark.parametrize("works", [True, False])
def test_llama_quantize_is_called_with_the_file_in_f16(tmp_path, monkeypatch, works) -> None:
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$3" > "$2"\n' if works else "#!/bin/sh\necho no good >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    (tmp_path / ".f16.gguf").write_bytes(b"x")
    if works:
        quants.quantize(tmp_path / ".f16.gguf", tmp_path / "m.gguf", "q4_k_m")
        assert (tmp_path / "m.gguf").read_text() == "Q4_K_M\n"
        return
    with pytest.raises(KitError) as error:
        quants.quantize(tmp_path / ".f16.gguf", tmp_path / "m.gguf", "q4_k_m")
    assert error.value.findings[0].why == "no good"


# Modelfile

CONVERSATIONS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be\nbrief."}, {"role": "user", "content": "Hi {there}"}],
    [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "5"},
    ],
]


def by_go(template: str, messages: list[dict]) -> str:
    """The few words of Go's template language that a Modelfile of the kit uses."""
    start = re.match(r"{{ if not \.System }}(.*?){{ end }}", template, re.DOTALL)
    text, rest = "", template[start.end() :] if start else template
    if start and not any(message["role"] == "system" for message in messages):
        text = start[1]
    loop = re.fullmatch(r"{{ range \.Messages }}(.*){{ end }}{{ end }}(.*?)", rest, re.DOTALL)
    parts = re.split(r'{{ (?:else )?if eq \.Role "(\w+)" }}', loop[1])
    branches = dict(zip(parts[1::2], parts[2::2], strict=True))
    return text + "".join(branches[one["role"]].replace("{{ .Content }}", one["content"]) for one in messages) + loop[2]


def chat_of(folder: Path, template: str) -> ChatFormat:
    files = {path.name: path for path in folder.iterdir()}
    return prompt.load(models.Model("qwen3", str(folder), {}, files), template)


@pytest.mark.parametrize("name", ["auto", "chatml", "qwen3", "qwen3-instruct-2507", "qwen3-no-thinking", "plain"])
def test_ollama_gets_the_text_of_training(qwen3_folder, name) -> None:
    chat = chat_of(qwen3_folder, name)
    found = modelfile.turns(chat, "")
    assert found
    for messages in CONVERSATIONS:
        assert by_go(found.template(), messages) == chat.question(messages)


def test_a_default_system_text_is_kept(qwen3_folder) -> None:
    from dataclasses import replace

    text = (
        "{%- if messages[0].role != 'system' %}{{- '[S]Be kind.[/S]' }}{%- endif %}"
        "{%- for m in messages %}{{- '[' + m.role[0]|upper + ']' + m.content + '[/' + m.role[0]|upper + ']' }}"
        "{%- endfor %}{{- '[A]' if add_generation_prompt else '' }}"
    )
    chat = replace(chat_of(qwen3_folder, "chatml"), template_text=text, end_token="[/A]")
    found = modelfile.turns(chat, "")
    assert found.start.startswith("[S]Be kind.")
    for messages in CONVERSATIONS:
        assert by_go(found.template(), messages) == chat.question(messages)


def test_a_template_that_does_more_is_not_guessed(qwen3_folder) -> None:
    from dataclasses import replace

    text = "{%- for m in messages %}{{- loop.index ~ m.content }}{%- endfor %}{{- 'A:' }}"
    chat = replace(chat_of(qwen3_folder, "chatml"), template_text=text)
    assert modelfile.turns(chat, "") is None
    written = Modelfile(None, ["<|im_end|>"], 4096, {}).text("x.gguf")
    assert "TEMPLATE" not in written
    assert "llama-server --jinja" in written


def test_a_start_token_is_not_written_twice(qwen3_folder) -> None:
    from dataclasses import replace

    text = "{{- '<s>' }}{%- for m in messages %}{{- '[' + m.role + ']' + m.content }}{%- endfor %}{{- '[assistant]' }}"
    chat = replace(chat_of(qwen3_folder, "chatml"), template_text=text)
    assert by_go(modelfile.turns(chat, "").template(), CONVERSATIONS[0]) == "<s>[user]Hi[assistant]"
    assert by_go(modelfile.turns(chat, "<s>").template(), CONVERSATIONS[0]) == "[user]Hi[assistant]"


def test_lines_of_the_modelfile(qwen3_folder) -> None:
    found = modelfile.turns(chat_of(qwen3_folder, "auto"), "")
    settings = {"temperature": 0.6, "do_sample": 1}
    lines = Modelfile(found, ["<|im_end|>", "<|endoftext|>"], 4096, settings).text("x-Q8_0.gguf")
    assert lines.splitlines()[1] == "FROM ./x-Q8_0.gguf"
    assert lines.endswith('PARAMETER stop "<|endoftext|>"\nPARAMETER num_ctx 4096\nPARAMETER temperature 0.6\n')


# llama.cpp, where its server is

SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
if "broken" in sys.argv[sys.argv.index("-m") + 1]:
    sys.exit("unknown model architecture")
class Handler(BaseHTTPRequestHandler):
    def answer(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())
    def do_GET(self):
        self.answer({{}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        likeliest = [{{"id": 1, "logprob": -0.5}}, {{"id": 0, "logprob": -2.0}}]
        self.answer({{"/apply-template": {{"prompt": "the template's"}}, "/tokenize": {{"tokens": [5, 6]}},
                      "/completion": {{"completion_probabilities": [{{"top_logprobs": likeliest}}],
                                       "prompt": asked.get("prompt")}}}}[self.path])
    def log_message(self, *_): pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def test_llama_cpp_is_asked_and_stopped(tmp_path, monkeypatch) -> None:
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text(SERVER.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert llama_cpp.is_here()
    found = llama_cpp.ask(tmp_path / "x.gguf", [[{"role": "user", "content": "Hi"}]], ["text"], [[1, 2], [3]], 1)
    assert found == llama_cpp.Answers(["the template's"], ["the template's"], [[5, 6]], [{1: -0.5, 0: -2.0}] * 2)
    with pytest.raises(llama_cpp.CannotRead, match="unknown model architecture"):
        llama_cpp.ask(tmp_path / "broken.gguf", [], [], [[1]], 1)


def test_differences_to_llama_cpp() -> None:
    logits = np.log(np.array([0.2, 0.7, 0.1]))
    right = {1: float(logits[1]), 0: float(logits[0])}
    assert llama_cpp.differences([logits], [right]) == pytest.approx((1, 0, 0))
    equal, largest, share = llama_cpp.differences([logits, logits], [right, {0: float(logits[0]) + 0.5}])
    assert (equal, largest) == (1, pytest.approx(0.5))
    assert share == pytest.approx(0.5 / (logits[1] - logits[2]))
