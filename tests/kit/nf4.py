"""tiny as bitsandbytes and transformers store it in NF4, with some layers left in 16 bit, for the tests of such bases.

python -m tests.kit.nf4 save FOLDER        the model
python -m tests.kit.nf4 loaded FOLDER      what each backend loads of it, as JSON
python -m tests.kit.nf4 paused RUN OPTIONS     a run that stops at its first evaluation, and goes on
"""

import contextlib
import json
import shutil
import sys
from pathlib import Path

from kit import models

SKIPPED = ["lm_head", "model.layers.0.self_attn", "model.layers.1.mlp", "model.layers.2.mlp.down_proj"]
CONFIG = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16", "llm_int8_skip_modules": SKIPPED,
}  # fmt: skip


def save(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(**{name: value for name, value in CONFIG.items() if name != "quant_method"})
    options = {"dtype": torch.bfloat16, "device_map": {"": "cpu"}, "quantization_config": config}
    AutoModelForCausalLM.from_pretrained(models.TINY, **options).save_pretrained(folder)
    for path in models.TINY.iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder)


def loaded(folder: Path, name: str, precision: str) -> dict:
    """By that backend: the 4-bit layers, the bytes of all linear layers in the blocks, the format of their results."""
    import bitsandbytes
    import torch

    from kit import backend, prompt
    from kit.options import Run

    model = models.find(str(folder))
    loading = backend.Loading.of(Run(device="cpu", precision=precision, gradient_checkpointing="off", backend=name))
    base = backend.load(model, loading, backend.start(loading), prompt.load(model, "auto")).model
    linears = {
        name: one for name, one in base.named_modules() if isinstance(one, torch.nn.Linear) and ".layers." in name
    }
    in_4bit = {name: one.weight for name, one in linears.items() if isinstance(one, bitsandbytes.nn.Linear4bit)}
    states = [weight.quant_state for weight in in_4bit.values()]
    tensors = [one.weight for one in linears.values()]
    tensors += [
        tensor for state in states for tensor in (state.absmax, state.code, state.state2.absmax, state.state2.code)
    ]
    return {
        "in_4bit": sorted(in_4bit),
        "bytes": sum(tensor.nbytes for tensor in tensors) + 4 * len(states),  # and the mean of the scales
        "dtypes": sorted({str(linears[name].compute_dtype) for name in in_4bit} | {str(one.dtype) for one in states}),
        "base": base.config._name_or_path,
    }


def paused(options: dict) -> None:
    from kit.train import prepare_with, train

    with contextlib.suppress(KeyboardInterrupt):
        train(prepare_with(**options), on_evaluation=lambda *_: True)
    train(prepare_with(**options))


if __name__ == "__main__":
    what, given = sys.argv[1], sys.argv[2]
    if what == "save":
        save(Path(given))
    elif what == "paused":
        paused(json.loads(given))
    else:
        print(json.dumps(loaded(Path(given), *sys.argv[3:])))
