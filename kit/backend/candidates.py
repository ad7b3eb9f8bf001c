"""What models answer to the same token ids: logits of the last tokens, hidden states layer by layer. One at a time."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.backend.device import has_card
from kit.backend.merging import combined
from kit.backend.precision import nf4_config, torch_dtype
from kit.backend.silence import silence
from kit.models.change import LINEAR, Combination
from kit.prompt import thinking_switch

if TYPE_CHECKING:
    import numpy as np
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

COPIES = 2  # of a model in memory while transformers reads a GGUF file


@dataclass(frozen=True)
class Candidate:
    """A model to ask. adapters: PEFT folders with the weight of each; gguf: a file in the folder.

    four_bit: the base in NF4, loaded in `loaded_as` (bf16, fp16 or fp32) as in training. arithmetic: bf16 or fp32.
    combination: of several adapters.
    """

    folder: str
    adapters: tuple[tuple[str, float], ...] = ()
    gguf: str = ""
    four_bit: bool = False
    loaded_as: str = "bf16"
    arithmetic: str = "fp32"
    device: str = "cpu"
    head_dim: int = 0
    combination: Combination = LINEAR


def logits(candidate: Candidate, prompts: Sequence[Sequence[int]], last: int) -> "list[np.ndarray]":
    """For each prompt an array (its last tokens, vocabulary) in float32."""
    import torch

    with _loaded(candidate) as model:
        inputs = [torch.tensor([list(ids)], device=model.device) for ids in prompts]
        outputs = (model(input_ids=ids, use_cache=False, logits_to_keep=min(last, ids.shape[1])) for ids in inputs)
        return [output.logits[0].float().cpu().numpy() for output in outputs]


def layers(candidate: Candidate, ids: Sequence[int]) -> "list[np.ndarray]":
    """What goes into the first block and comes out of each: arrays (tokens, hidden) in float32."""
    import torch

    with _loaded(candidate) as model:
        inputs = torch.tensor([list(ids)], device=model.device)
        states = model(input_ids=inputs, use_cache=False, output_hidden_states=True).hidden_states
        return [state[0].float().cpu().numpy() for state in states]


@contextmanager
def _loaded(candidate: Candidate) -> "Iterator[PreTrainedModel]":
    import torch

    with silence(), torch.no_grad():
        model = _load(candidate)
        try:
            yield model.eval()
        finally:
            del model
            gc.collect()


def _load(candidate: Candidate) -> "PreTrainedModel":
    """With transformers and PEFT only: none of the code that merged has a part in it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    options: dict[str, Any] = {"attn_implementation": "eager"}
    if candidate.device != "cpu" or candidate.four_bit:
        options["device_map"] = {"": candidate.device}
    arithmetic = torch_dtype(candidate.arithmetic)
    if candidate.gguf:
        config = AutoConfig.from_pretrained(candidate.folder, gguf_file=candidate.gguf, trust_remote_code=False)
        config.head_dim = candidate.head_dim  # of the file too, but transformers does not read it for every family
        options |= {"gguf_file": candidate.gguf, "config": config}
    else:
        options["use_safetensors"] = True
    if candidate.four_bit:
        model = _four_bit(candidate, options, torch_dtype(candidate.loaded_as), arithmetic)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            candidate.folder, dtype=arithmetic, trust_remote_code=False, **options
        )
    return _with_adapters(model, candidate) if candidate.adapters else model


def _four_bit(
    candidate: Candidate, options: dict[str, Any], loaded_as: "torch.dtype", arithmetic: "torch.dtype"
) -> "PreTrainedModel":
    """The weights as training saw them; only what is computed with them may be more exact."""
    import bitsandbytes
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(candidate.folder, trust_remote_code=False)
    if not getattr(config, "quantization_config", None):
        options["quantization_config"] = nf4_config(arithmetic)
    model = AutoModelForCausalLM.from_pretrained(candidate.folder, dtype=loaded_as, trust_remote_code=False, **options)
    for name, module in list(model.named_modules()):
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            model.set_submodule(name, _plain(module, loaded_as))  # dequantised once, not for every prompt
    for weight in [*model.parameters(), *model.buffers()]:
        if weight.is_floating_point():
            weight.data = weight.data.to(arithmetic)
    return model


def _plain(layer: Any, loaded_as: "torch.dtype") -> "torch.nn.Linear":
    """The linear layer that a 4-bit layer computes."""
    import bitsandbytes
    import torch

    layer.weight.quant_state.dtype = loaded_as  # a model that is stored in 4 bit brings its own
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = torch.nn.Parameter(weight.reshape(layer.out_features, layer.in_features), requires_grad=False)
    if layer.bias is not None:
        plain.bias = layer.bias
    return plain


def _with_adapters(model: "PreTrainedModel", candidate: Candidate) -> "PreTrainedModel":
    from peft import PeftModel

    adapters, way = candidate.adapters, candidate.combination.way
    names = [f"adapter{number}" for number in range(len(adapters))]
    device = candidate.device  # else PEFT takes any GPU that it finds
    tuned: Any = PeftModel.from_pretrained(model, adapters[0][0], names[0], torch_device=device)
    for name, (folder, _) in list(zip(names, adapters, strict=True))[1:]:
        tuned.load_adapter(folder, name, torch_device=device)
    shares = [share for _, share in adapters]
    if way != "linear":
        return _with_one_update(tuned, names, shares, candidate.combination)
    if shares != [1]:
        tuned.add_weighted_adapter(names, shares, "combined", combination_type="cat")
        tuned.set_adapter("combined")
    return tuned


def _with_one_update(
    tuned: "PeftModel", names: list[str], shares: list[float], combination: Combination
) -> "PreTrainedModel":
    """TIES and DARE give an update of full rank, which no adapter holds: it is added to the weights in memory."""
    layers: list[tuple[str, Any]] = list(tuned.get_base_model().named_modules())
    for name, module in layers:
        if hasattr(module, "get_delta_weight"):
            own = [(adapter, share) for adapter, share in zip(names, shares, strict=True) if adapter in module.lora_A]
            deltas = [module.get_delta_weight(adapter).cpu().float() for adapter, _ in own]
            update = combined(deltas, [share for _, share in own], f"{name}.weight", combination)
            weight = module.get_base_layer().weight
            weight.data += update.to(weight.device, weight.dtype)
    return tuned.unload()


def choose_device(weights: int) -> tuple[str, str]:
    """Device and arithmetic for a model of so many weights: fp32 where the model and a copy of it fit, else bf16."""
    import psutil
    import torch

    free_bytes = {"cpu": psutil.virtual_memory().available}
    if has_card():
        free_bytes = {"cuda": torch.cuda.mem_get_info()[0]} | free_bytes
    for arithmetic, width_bytes in (("fp32", 4), ("bf16", 2)):
        for device, free in free_bytes.items():
            if COPIES * width_bytes * weights < free:
                return device, arithmetic
    return "cpu", "bf16"


def template_and_ids(
    folder: Path, conversations: Sequence[list[dict[str, Any]]]
) -> tuple[list[str], list[str], list[list[int]]]:
    """What transformers makes of conversations with the tokenizer of a folder: prompt texts, those where nothing is
    said of thinking, and the ids of the former."""
    from transformers import AutoTokenizer

    with silence():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        render = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
        texts = [str(render(turns, **thinking_switch(False))) for turns in conversations]
        default_texts = [str(render(turns)) for turns in conversations]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return texts, default_texts, ids


def end_token(folder: Path) -> tuple[str, int]:
    """The end token of a folder's tokenizer and its id."""
    from transformers import AutoTokenizer

    with silence():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return tokenizer.eos_token, tokenizer.eos_token_id
