"""Every option, written once: a field is the flag, the key in a file, the help and the default."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from kit.options.methods import HELP, LORA, METHODS
from kit.options.option import Options, Typed

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HEAD = "lm_head"
if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]


class Rows(Options):
    """Which rows are trained on, and as what text."""

    group = "data"

    model: str = "tiny"
    """A folder, a GGUF file, a name on the hub (owner/name), `tiny` or `smollm2-135m`. tiny comes with the kit, the
    other is a small real model that is fetched once."""
    data: Annotated[tuple[str, ...], Typed(positional=True)] = ()
    """Training rows: files (.jsonl, .csv, .xlsx ...), folders, hub data sets (owner/name[:split])."""
    data_format: str = "auto"
    """What the rows are, such as alpaca, sharegpt, text or kto. auto: by the keys of the first rows."""
    data_columns: tuple[str, ...] = ()
    """Columns by other names, as ours=theirs: --data-columns question=prompt answer=response"""
    data_weights: tuple[PositiveFloat, ...] = ()
    """One number for each of --data: how often its rows are used in an epoch; 0.5 draws half of them."""
    data_on_error: Literal["stop", "skip"] = "stop"
    """Rows that cannot be trained on. stop: they end the run; skip: they are left out and written down."""
    eval_data: tuple[str, ...] = ()
    """Rows to measure the loss on, instead of some held out of --data."""
    held_out_rows: Annotated[int, Field(ge=0)] = 64
    """Rows kept out of training to measure the loss on; at most a tenth of the data, chosen by content and seed."""
    template: str = "auto"
    """Chat template: auto (the model's own), a name from templates/, or a .jinja file."""
    system_texts: Literal["fold", "stop"] = "fold"
    """Where the template has no place for a system text. fold: it goes in front of the first question, with a warning;
    stop: such rows are errors."""
    train_added_tokens: tuple[str, ...] = ()
    """Tokens that you added to the tokenizer: read as tokens where they are typed, and their vectors are trained. All
    other special tokens in rows are plain text."""
    max_length_tokens: PositiveInt = 1024
    """Longest sample. Longer ones are never cut in silence: see --long-rows."""
    long_rows: Literal["stop", "drop", "cut"] = "stop"
    """Rows that are too long. stop: up to 1 % are left out and named, more end the run; drop: all are left out;
    cut: answers lose their end, plain text goes on in a further sample."""
    seed: int = 3407
    """Of the adapter's start, the order of the rows and the choice of the held-out ones."""

    @model_validator(mode="after")
    def _matching_lists(self) -> "Rows":
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(f"data_weights has {len(self.data_weights)} numbers for {len(self.data)} of data")
        if odd := [pair for pair in self.data_columns if not all(pair.partition("="))]:
            raise ValueError(f"data_columns takes ours=theirs, not {odd[0]}")
        return self

    @property
    def columns(self) -> dict[str, str]:
        """Our name of a column -> the file's."""
        return dict(pair.split("=", 1) for pair in self.data_columns)


class MethodOptions(Options):
    """What is trained, in which precision."""

    group = "method"

    method: MethodName = Field(default=LORA.name, description=f"What is trained. {HELP}.")
    load_in_4bit: bool = True
    """Base weights in 4-bit NF4 with double quantisation (QLoRA); off: 16 bit."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the arithmetic. auto: bf16 where the machine computes it natively."""
    virtual_tokens: PositiveInt = 20
    """What prefix, p-tuning-v2 and prompt learn: so many tokens that stand in front of every sample."""
    lora_rank: PositiveInt = 16
    """Rank r of the update that each adapted layer learns."""
    lora_alpha: PositiveInt = 16
    """Scale: the update is multiplied by alpha / rank (rslora: alpha / root of the rank)."""
    rank_pattern: tuple[str, ...] = ()
    """Other ranks for some layers, as name=rank: --rank-pattern q_proj=32 k_proj=16. Alpha stays lora_alpha, so a layer
    of twice the rank has half the scale."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's input that is left out at random."""
    target_modules: tuple[str, ...] = LINEAR_LAYERS
    """Names of the linear layers that get an adapter."""
    adapter_precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of what is trained (the adapter; with --method full all weights), of its gradients and optimiser
    states; bf16 halves them and rounds every update."""

    @model_validator(mode="after")
    def _ranks_are_numbers(self) -> "MethodOptions":
        for pair in self.rank_pattern:
            name, _, rank = pair.partition("=")
            if not (name and rank.isdecimal() and int(rank) > 0):
                raise ValueError(f"rank_pattern takes name=rank, such as q_proj=32, not {pair}")
        return self

    @property
    def other_ranks(self) -> dict[str, int]:
        """Name of a layer -> its rank, of those that have another than lora_rank."""
        return {name: int(rank) for name, rank in (pair.split("=") for pair in self.rank_pattern)}


class StepOptions(Options):
    """How it learns: steps, their size, and when they end."""

    group = "training"

    epochs: PositiveFloat = 3.0
    """Passes over the data."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimiser steps, whatever the epochs say."""
    batch_size: PositiveInt = 8
    """Samples that each optimiser step averages over (the effective batch)."""
    learning_rate: PositiveFloat = 2e-4
    """Highest step size, reached after the warm-up."""
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_pct: Annotated[float, Field(ge=0, le=100)] = 5.0
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Pull of the adapter's weights towards zero."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients longer than this are scaled down."""
    optimizer: Literal["auto", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_fused"] = "auto"
    """auto: adamw_8bit on a graphics card, adamw_torch_fused on a CPU."""
    early_stopping: Annotated[int, Field(ge=0)] = 0
    """Stop after so many evaluations without a lower held-out loss, and keep the best adapter. 0: never."""

    def steps(self, samples: int) -> int:
        """Optimiser steps over that many samples; the last one of an epoch may average over fewer of them."""
        return self.max_steps or math.ceil(self.epochs * math.ceil(samples / self.batch_size))


class MemoryOptions(Options):
    """Where it runs, and how it fits there."""

    group = "memory"

    preset: str = "auto"
    """Starting values: a card (rtx5080, t4, ...), its memory (vram-8 to vram-32), cpu, or auto (by the machine)."""
    backend: Literal["auto", "unsloth", "hf"] = "auto"
    """Who loads and adapts the model. auto: Unsloth, or plain transformers + PEFT where Unsloth cannot start."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train. auto: the graphics card where torch can use one, else the CPU."""
    micro_batch_size: PositiveInt | Literal["auto"] = "auto"
    """Samples of the full length that are in memory at once; shorter ones go together up to as many tokens. auto: the
    most that the plan says will fit."""
    gradient_checkpointing: Literal["auto", "off", "on", "unsloth"] = "auto"
    """Recompute activations: less memory, a third more time. unsloth: kept in main memory. auto: by the plan."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Kernel of the attention, where Unsloth has none of its own. auto: sdpa; eager for short samples on a CPU."""
    embedding_offload: Literal["auto", "on", "off"] = "auto"
    """The embedding in main memory: for large models whose head does not share it. auto: where nothing else fits."""
    pin_memory: Literal["auto", "on", "off"] = "auto"
    """Batches in pinned main memory: faster copies to a card. auto: off where it is scarce (Windows, WSL)."""
    vram_limit_gib: PositiveFloat | None = None
    """Most memory to take on the graphics card, also to try what a smaller card would do."""


class RecordOptions(Options):
    """What is written down on the way, and where."""

    group = "record"

    output: Annotated[Path | None, Typed(short="-o")] = None
    """Run folder. Default: runs/<data>-<model>."""
    evaluations: Annotated[int, Field(ge=0)] = 3
    """How often during the run the held-out loss is measured and the questions answered, besides before and after."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    """A checkpoint every so many minutes, besides one at each evaluation. 0: after every step."""
    keep_checkpoints: PositiveInt = 2
    """So many of the newest are kept, and the one with the lowest held-out loss."""
    on_nan: Literal["stop", "retry"] = "stop"
    """A loss or gradient that is no number, or a jump above guessing. retry: without the rows that give it."""
    prompts: tuple[str, ...] = ()
    """Questions answered before and after training. Default: three of the held-out rows."""
    sample_tokens: PositiveInt = 64
    """Longest answer to those questions."""
    report_to: Literal["none", "tensorboard", "wandb", "swanlab", "trackio", "mlflow"] = "none"
    """Also send every step's figures to this tracker, if it is installed. none: they stay in the run folder."""


# The last base's fields come first, in help and in files.
class Run(RecordOptions, MemoryOptions, StepOptions, MethodOptions, Rows):
    """One fine-tuning run, complete: two runs with equal options on equal data are the same run."""
