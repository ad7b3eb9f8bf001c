"""What is trained: a fresh adapter of the run's method, or every weight of the model.

Each method is PEFT's: LoRA (Hu et al. 2021, arXiv:2106.09685), rsLoRA (Kalajdzievski 2023, arXiv:2312.03732), DoRA (Liu
et al. 2024, arXiv:2402.09353), IA3 (Liu et al. 2022, arXiv:2205.05638), MiSS (Kang and Yin 2024, arXiv:2409.15371),
prefix tuning (Li and Liang 2021, arXiv:2101.00190), P-tuning v2 (Liu et al. 2022, arXiv:2110.07602), prompt tuning
(Lester et al. 2021, arXiv:2104.08691).
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from kit.backend.device_errors import card_errors_explained, is_out_of_memory
from kit.backend.loading import Loaded, no_room, unsloth_checkpointing
from kit.backend.silence import silence
from kit.models import adapters
from kit.options import METHODS, Run
from kit.options.methods import IA3_INWARD
from kit.support.errors import KitError, failure

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from kit.backend.loading import CausalModel


@card_errors_explained()
def adapt(loaded: Loaded, run: Run) -> Loaded:
    """The model ready to train, with a fresh adapter or all its weights: equal seed, equal start in both backends.

    Raises KitError: a target module that the model does not have; a rank above what goes into a layer; added tokens of
    a head in 4 bit; not enough memory; the card failed.
    """
    method = METHODS[run.method]
    if method.adapts_layers:
        _check_targets(loaded.model, run.target_modules)
    if method.kind == "MISS":
        _check_rank(loaded.model, run.lora_rank, run.target_modules)
    rows = _added_rows(loaded, run)
    make_trainable = _by_unsloth if loaded.backend.name == "unsloth" else partial(_by_peft, rows=rows)
    if method.trains_whole_model:
        make_trainable = _all_weights
    try:
        with silence():
            model = make_trainable(loaded.model, run)
    except Exception as error:  # of any kind: see device_errors
        if not is_out_of_memory(error):
            raise
        raise no_room("The adapter", run.load_in_4bit, error) from error
    if run.precision != "fp32":
        _share_adapter_inputs(model)
    keep_precision(model)
    return replace(loaded, model=model)


def _share_adapter_inputs(model: "torch.nn.Module") -> None:
    """PEFT converts what goes into an adapter to the adapter's own precision. Under autocast, as in training, the next
    product undoes that: the same numbers, for two more copies of every input. `generation.answering` has no autocast.
    """
    for module in converting_layers(model):
        module.cast_input_dtype_enabled = False


def converting_layers(model: "torch.nn.Module") -> list[Any]:
    """PEFT's layers, which have the switch `cast_input_dtype_enabled`."""
    return [module for module in model.modules() if hasattr(module, "cast_input_dtype_enabled")]


def keep_precision(model: "torch.nn.Module") -> None:
    """What comes out of an IA3 layer has the number format of what went in. PEFT's 4-bit one leaves it in 32 bit, which
    a head in 16 bit refuses where no autocast is, as in answering."""
    for module in model.modules():
        if hasattr(module, "ia3_l"):
            module.register_forward_hook(lambda _, inputs, output: output.to(inputs[0].dtype))


def _linear_layers(model: "torch.nn.Module") -> "list[tuple[str, torch.nn.Linear]]":
    """The last part of each linear layer's name, and the layer."""
    import torch

    modules = model.named_modules()
    return [(name.rpartition(".")[2], module) for name, module in modules if isinstance(module, torch.nn.Linear)]


def _check_targets(model: "torch.nn.Module", target_modules: tuple[str, ...]) -> None:
    present = {name for name, _ in _linear_layers(model)}
    missing = [name for name in target_modules if name not in present]
    if missing:
        fix = f"--target-modules {' '.join(sorted(present))}"
        raise KitError(*(adapters.no_such_layer(name, present, fix) for name in missing))


def _check_rank(model: "torch.nn.Module", rank: int, target_modules: tuple[str, ...]) -> None:
    """MiSS cuts what goes into a layer into blocks of the rank."""
    widths = [layer.in_features for name, layer in _linear_layers(model) if name in target_modules]
    if rank > min(widths, default=rank):
        raise failure(
            "rank-too-large",
            f"--lora-rank {rank} is more than goes into a layer: {min(widths)} numbers.",
            "MiSS learns one block of the rank's size, which is laid over the layer again and again.",
            f"--lora-rank {min(widths)}",
        )


def recompute_activations(loaded: Loaded) -> None:
    """Switch gradient checkpointing on in a model that trains without."""
    if loaded.backend.name == "unsloth":
        from unsloth import FastLanguageModel

        FastLanguageModel.for_training(loaded.model, use_gradient_checkpointing=True)
    else:
        _recompute_activations(loaded.model)


def _recompute_activations(model: "CausalModel") -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()


def _all_weights(model: "CausalModel", run: Run) -> "CausalModel":
    if run.gradient_checkpointing != "off":
        _recompute_activations(model)
    return model.requires_grad_(True)


def _by_unsloth(model: "CausalModel", run: Run) -> "CausalModel":
    from unsloth import FastLanguageModel

    return FastLanguageModel.get_peft_model(
        model,
        r=run.lora_rank,
        lora_alpha=run.lora_alpha,
        lora_dropout=run.lora_dropout,
        target_modules=list(run.target_modules),
        bias="none",
        use_gradient_checkpointing=unsloth_checkpointing(run.gradient_checkpointing),
        random_state=run.seed,
        rank_pattern=run.other_ranks,
        **METHODS[run.method].peft_settings,
    )


def _added_rows(loaded: Loaded, run: Run) -> dict[str, list[int]]:
    """Ids of the added tokens, for the embedding and a head of its own; one that is the embedding PEFT keeps so."""
    if not run.train_added_tokens:
        return {}
    ids = sorted(set(map(loaded.tokenizer.convert_tokens_to_ids, run.train_added_tokens)))
    inward, outward = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
    layers = [inward] if inward.weight is outward.weight else [inward, outward]
    if not all(layer.weight.is_floating_point() for layer in layers):
        raise failure(
            "added-tokens-in-4bit",
            "The head of this model is stored in 4 bit: the rows of single tokens cannot be trained in it.",
            "They stand packed between those of other tokens.",
            "--model with the 16-bit model it was made from",
        )
    return {name: ids for name, module in loaded.model.named_modules() if any(module is layer for layer in layers)}


def _by_peft(model: "CausalModel", run: Run, rows: dict[str, list[int]]) -> "CausalModel":
    import torch
    from peft import get_peft_model

    if run.gradient_checkpointing != "off":
        _recompute_activations(model)
    torch.manual_seed(run.seed)
    adapted = cast("CausalModel", get_peft_model(model, peft_config(run, rows)))
    if rows:  # TRL's loss reads weight and bias of the head, and what PEFT puts around it gives the weight alone
        head: Any = adapted.get_output_embeddings()
        head.bias = head.original_module.bias
    return adapted


def peft_config(run: Run, rows: dict[str, list[int]] | None = None) -> "PeftConfig":
    """PEFT's configuration of the run's method. rows: of an embedding or head, the token ids whose rows are trained."""
    import peft

    method, layers = METHODS[run.method], list(run.target_modules)
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", **method.peft_settings}
    match method.kind:
        case "LORA":
            return peft.LoraConfig(
                r=run.lora_rank,
                lora_alpha=run.lora_alpha,
                lora_dropout=run.lora_dropout,
                target_modules=layers,
                rank_pattern=run.other_ranks,
                bias="none",
                trainable_token_indices=rows or None,
                **common,
            )
        case "IA3":  # a factor for each number that comes out of a layer; for the down projection for each that goes in
            inward = [name for name in layers if name == IA3_INWARD]
            return peft.IA3Config(target_modules=layers, feedforward_modules=inward, **common)
        case "MISS":
            rank, dropout = run.lora_rank, run.lora_dropout
            return peft.MissConfig(r=rank, miss_dropout=dropout, target_modules=layers, bias="none", **common)
        case "PREFIX_TUNING":
            return peft.PrefixTuningConfig(num_virtual_tokens=run.virtual_tokens, **common)
        case "PROMPT_TUNING":  # each virtual token begins as some word of the vocabulary, where the model is at home
            return peft.PromptTuningConfig(
                prompt_tuning_init="SAMPLE_VOCAB", num_virtual_tokens=run.virtual_tokens, **common
            )
    raise ValueError(f"{run.method} trains no adapter")
