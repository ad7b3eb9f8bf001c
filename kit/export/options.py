"""The options of python -m kit.merge, each written once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from kit.options.option import Door, Typed


class MergeCommand(Door):
    """Make a plain model of a tuned one, and prove that it answers the same.

      kit merge runs/x -o models/x                          a 16-bit Hugging Face model
      kit merge runs/x -o models/x --to gguf --quant q8_0   a file for llama.cpp and Ollama
      kit merge runs/a -o models/ab --add runs/b=0.5        several adapters in one

    Exit status: 0 written and verified, 1 failed or not verified, 2 wrong usage."""

    door = "merge"

    source: Annotated[Path, Typed(positional=True)]
    """A run folder, or an adapter's folder (LoRA, rsLoRA, DoRA, IA3, MiSS)."""
    output: Annotated[Path, Typed(short="-o")]
    """A new folder for the model."""
    base: str | None = None
    """Folder or name of the base model. Default: the one that the adapter names."""
    base_precision: Literal["auto", "16bit", "nf4"] = "auto"
    """The weights that the adapter is added to. auto: those it was trained on, so nf4 for a run in 4 bit."""
    add: tuple[str, ...] = ()
    """More adapters of the same base, as RUN=weight: --add runs/b=0.5 runs/c=0.3 (lora and rslora)"""
    weight: float = 1.0
    """How much the first adapter counts."""
    combine: Literal["linear", "ties", "dare"] = "linear"
    """How several adapters become one: the weighted sum of their updates, or TIES or DARE."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each update that TIES and DARE keep."""
    to: tuple[Literal["hf", "gguf"], ...] = ("hf",)
    """hf: a folder that transformers and vLLM read; gguf: a file for llama.cpp and Ollama, with a Modelfile."""
    quant: tuple[str, ...] = ("f16",)
    """Number formats of GGUF files, one file each: f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0; with llama-quantize on the
    path also q4_k_m and its like."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the hf model. auto: that of the base."""
    shard_gib: PositiveFloat = 4.0
    """Largest weight file of the hf model."""
    prove: Literal["auto", "llama.cpp"] = "auto"
    """llama.cpp: GGUF files are asked in llama.cpp itself, too, or it is an error. auto: where it is installed."""
    json_output: Annotated[bool, Typed("json")] = False
    """Print the parity record as JSON on standard output."""

    @model_validator(mode="after")
    def _base_is_a_model(self) -> "MergeCommand":
        if self.base in ("16bit", "nf4"):
            raise ValueError(f"--base names the base model. Did you mean --base-precision {self.base}?")
        return self
