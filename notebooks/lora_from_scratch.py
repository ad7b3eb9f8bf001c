"""LoRA from scratch, to be read beside notebooks/03_lora_from_scratch.ipynb: y = W x + (alpha / r) B A x.

Hu et al. 2021, arXiv:2106.09685. For the linear layers of a 16- or 32-bit model of transformers; its files are PEFT's.
Nothing of the kit imports this: training goes through PEFT and Unsloth.
"""

import json
import math
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kit.models import adapters
from kit.options import LINEAR_LAYERS
from kit.run.tuned import find_adapter
from kit.support.errors import KitError, problem

START = {"kaiming": partial(nn.init.kaiming_uniform_, a=math.sqrt(5)), "normal": partial(nn.init.normal_, std=0.02)}


class LoraLinear(nn.Module):
    """A linear layer W, and beside it adapters by name, one of them active: A is (rank, d_in), B is (d_out, rank)."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base, self.A, self.B, self.alpha = base, nn.ParameterDict(), nn.ParameterDict(), {}
        self.active: str | None = None
        self.merged = False  # whether W holds the active one already

    def add(self, name: str, alpha: float, A: torch.Tensor, B: torch.Tensor) -> None:
        kind = {"device": self.base.weight.device, "dtype": torch.float32}  # bf16 would round small steps away
        self.A[name], self.B[name], self.alpha[name] = nn.Parameter(A.to(**kind)), nn.Parameter(B.to(**kind)), alpha

    def parts(self, name: str) -> tuple[float, torch.Tensor, torch.Tensor]:
        """alpha / r, B and A."""
        return self.alpha[name] / len(self.A[name]), self.B[name], self.A[name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        if self.active is None or self.merged:
            return y
        scale, B, A = self.parts(self.active)
        return (y + scale * (x.to(A.dtype) @ A.T @ B.T)).to(y.dtype)  # B A itself, as large as W, is never made


def layers(model: nn.Module, name: str | None = None) -> dict[str, LoraLinear]:
    """Those with adapters, or with that one, by their names in the untouched model. Raises KitError: none has it."""
    found = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLinear)}
    known = sorted({known for layer in found.values() for known in layer.A})
    if name and name not in known:
        said = f"There is no adapter {name} here."
        raise KitError(
            problem("no-such-adapter", said, f"There is {', '.join(known) or 'none, and no layer for one'}.")
        )
    return {path: layer for path, layer in found.items() if name is None or name in layer.A}


def apply(model, rank: int, alpha: float, targets=LINEAR_LAYERS, init="kaiming", zero="B", name="lora") -> None:
    """A new adapter on every linear layer called one of `targets`, active at once. One of A and B begins at zero, so
    that the model begins as it was."""
    unmerge(model)
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear | LoraLinear) and path.split(".")[-1] in targets:
            layer = _wrapped(model, path)
            d_out, d_in = layer.base.weight.shape
            start = {"A": torch.zeros(rank, d_in), "B": torch.zeros(d_out, rank)}
            START[init](start["A" if zero == "B" else "B"])
            layer.add(name, alpha, **start)
    switch(model, name)


def _wrapped(model: nn.Module, path: str) -> LoraLinear:
    layer = model.get_submodule(path)
    if isinstance(layer, nn.Linear):
        layer = LoraLinear(layer)
        model.set_submodule(path, layer)
    return layer


def switch(model: nn.Module, name: str | None) -> None:
    """The adapter that answers, and alone is trained; None: the base as it was. Raises KitError: there is none such."""
    chosen = layers(model, name) if name else {}
    unmerge(model)
    model.requires_grad_(False)
    for path, layer in layers(model).items():
        layer.active = name if path in chosen else None
    for layer in chosen.values():
        layer.A[name].requires_grad_()
        layer.B[name].requires_grad_()


@torch.no_grad()
def merge(model: nn.Module, back: bool = False) -> None:
    """W' = W + (alpha / r) B A, rounded to what W is in: the same answers without the two extra products."""
    for layer in layers(model).values():
        if layer.active and layer.merged == back:
            W, (scale, B, A) = layer.base.weight, layer.parts(layer.active)
            W.copy_(W.float() + (-scale if back else scale) * (B @ A))
            layer.merged = not back


def unmerge(model: nn.Module) -> None:
    """Back again, but for rounding."""
    merge(model, back=True)


def unload(model: nn.Module) -> None:
    """The plain layers in their places again, with what is merged into them."""
    for path, layer in layers(model).items():
        model.set_submodule(path, layer.base)


def save(model: nn.Module, folder: Path | str, name: str = "lora") -> None:
    """One adapter alone, as PEFT saves it: base_model.model.<layer>.lora_A.weight. Raises KitError: there is none."""
    stored = {}
    for path, layer in layers(model, name).items():
        _, B, A = layer.parts(name)
        stored |= {f"base_model.model.{path}.lora_{side}.weight": it.detach() for side, it in (("A", A), ("B", B))}
    targets = sorted({path.split(".")[-1] for path in layers(model, name)})
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": model.name_or_path}
    about |= {"r": len(A), "lora_alpha": layer.alpha[name], "target_modules": targets}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(stored, Path(folder) / adapters.WEIGHTS, {"format": "pt"})
    (Path(folder) / adapters.CONFIG).write_text(json.dumps(about, indent=2), encoding="utf-8", newline="\n")


def load(model: nn.Module, folder: Path | str, name: str = "lora") -> None:
    """An adapter that `save` or PEFT wrote, under that name, and active. Raises KitError: it is broken, of another
    model, or has more than one rank and one alpha."""
    adapter = find_adapter(folder)
    pairs, others = adapters.read_parts(adapter)
    has_patterns = adapter.config.get("rank_pattern") or adapter.config.get("alpha_pattern")
    if adapter.method.name != "lora" or others or has_patterns:
        said = f"{folder} is more than LoRA with one rank and one alpha."
        raise KitError(problem("not-plain-lora", said, "This lesson goes no further; PEFT does."))
    plain = {path.removesuffix(".base"): it for path, it in model.named_modules() if isinstance(it, nn.Linear)}
    shapes = {f"{path}.weight": tuple(layer.weight.shape) for path, layer in plain.items()}
    adapters.check_fit(adapter, pairs, model.name_or_path, shapes)
    unmerge(model)
    stored = load_file(adapter.path / adapters.WEIGHTS)
    for path, pair in pairs.items():
        _wrapped(model, path).add(name, adapter.config["lora_alpha"], stored[pair.a.name], stored[pair.b.name])
    switch(model, name)
