"""What is trained: a fresh adapter of the run's method, or every weight of the model.

Each method is PEFT's: LoRA (Hu et al. 2021, arXiv:2106.09685), rsLoRA (Kalajdzievski 2023, arXiv:2312.03732), DoRA (Liu
et al. 2024, arXiv:2402.09353), IA3 (Liu et al. 2022, arXiv:2205.05638), MiSS (Kang and Yin 2024, arXiv:2409.15371),
prefix tuning (Li and Liang 2021, arXiv:2101.00190), P-tuning v2 (Liu et al. 2022, arXiv:2110.07602), prompt tuning
(Lester et al. 2021, arXiv:2104.08691).
"""

from typing import Any

from kit.backend.loading import Loaded, no_room, unsloth_checkpointing
from kit.backend.out_of_memory import is_out_of_memory
from kit.backend.silence import silence
from kit.models import adapters
from kit.options import METHODS, Run
from kit.support.errors import KitError, problem


def adapt(loaded: Loaded, run: Run) -> Loaded:
    """The model ready to train, with a fresh adapter or all its weights: equal seed, equal start in both backends.

    Raises KitError: a target module that the model does not have; not enough memory.
    """
    _check_targets(loaded.model, run)
    _check_rank(loaded.model, run)
    make_trainable = _by_unsloth if loaded.backend.name == "unsloth" else _by_peft
    if METHODS[run.method].trains_whole_model:
        make_trainable = _all_weights
    try:
        with silence():
            adapted = make_trainable(loaded.model, run)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise KitError(no_room("The adapter", run.load_in_4bit, error)) from error
    if run.precision != "fp32":
        _share_adapter_inputs(adapted)
    keep_precision(adapted)
    return Loaded(adapted, loaded.tokenizer, loaded.backend, loaded.device)


def _share_adapter_inputs(model: Any) -> None:
    """PEFT converts what goes into an adapter to the adapter's own precision. Under autocast, as in training, the next
    product undoes that: the same numbers, for two more copies of every input. `using.answering` has no autocast."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def keep_precision(model: Any) -> None:
    """What comes out of an IA3 layer has the number format of what went in. PEFT's 4-bit one leaves it in 32 bit, which
    a head in 16 bit refuses where no autocast is, as in answering."""
    for module in model.modules():
        if hasattr(module, "ia3_l"):
            module.register_forward_hook(lambda _, given, result: result.to(given[0].dtype))


def _check_targets(model: Any, run: Run) -> None:
    import torch

    if not METHODS[run.method].adapts_layers:
        return
    present = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    missing = [name for name in run.target_modules if name not in present]
    if missing:
        fix = f"--target-modules {' '.join(sorted(present))}"
        raise KitError(*(adapters.no_such_layer(name, present, fix) for name in missing))


def _check_rank(model: Any, run: Run) -> None:
    """MiSS cuts what goes into a layer into blocks of the rank."""
    import torch

    if METHODS[run.method].kind != "MISS":
        return
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    widths = [module.in_features for name, module in linears.items() if name.rsplit(".", 1)[-1] in run.target_modules]
    if run.lora_rank > min(widths, default=run.lora_rank):
        raise KitError(
            problem(
                "rank-too-large",
                f"--lora-rank {run.lora_rank} is more than goes into a layer: {min(widths)} numbers.",
                "MiSS learns one block of the rank's size, which is laid over the layer again and again.",
                f"--lora-rank {min(widths)}",
            )
        )


def _all_weights(model: Any, run: Run) -> Any:
    if run.gradient_checkpointing != "off":
        _recompute_activations(model)
    return model.requires_grad_(True)


def recompute_activations(loaded: Loaded) -> None:
    """Switch gradient checkpointing on in a model that trains without."""
    if loaded.backend.name == "unsloth":
        from unsloth import FastLanguageModel

        FastLanguageModel.for_training(loaded.model, use_gradient_checkpointing=True)
    else:
        _recompute_activations(loaded.model)


def _recompute_activations(model: Any) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()


def _by_unsloth(model: Any, run: Run) -> Any:
    from unsloth import FastLanguageModel

    return FastLanguageModel.get_peft_model(
        model,
        r=run.lora_rank,
        lora_alpha=run.lora_alpha,
        lora_dropout=run.lora_dropout,
        target_modules=list(run.target_modules),
        bias="none",
        **METHODS[run.method].peft_settings,
        use_gradient_checkpointing=unsloth_checkpointing(run.gradient_checkpointing),
        random_state=run.seed,
        rank_pattern=run.other_ranks,
    )


def _by_peft(model: Any, run: Run) -> Any:
    import torch
    from peft import get_peft_model

    if run.gradient_checkpointing != "off":
        _recompute_activations(model)
    torch.manual_seed(run.seed)
    return get_peft_model(model, peft_config(run))


def peft_config(run: Run) -> Any:
    """PEFT's configuration of the run's method."""
    make = {"LORA": _lora, "IA3": _ia3, "MISS": _miss, "PREFIX_TUNING": _prefix, "PROMPT_TUNING": _prompt}
    return make[METHODS[run.method].kind](run)


def _lora(run: Run) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=run.lora_rank,
        lora_alpha=run.lora_alpha,
        lora_dropout=run.lora_dropout,
        target_modules=list(run.target_modules),
        rank_pattern=run.other_ranks,
        **METHODS[run.method].peft_settings,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _ia3(run: Run) -> Any:
    """A factor for each number that comes out of a layer; for the down projection for each that goes in."""
    from peft import IA3Config

    inward = [name for name in run.target_modules if name == "down_proj"]
    return IA3Config(target_modules=list(run.target_modules), feedforward_modules=inward, task_type="CAUSAL_LM")


def _miss(run: Run) -> Any:
    from peft import MissConfig

    return MissConfig(
        r=run.lora_rank,
        miss_dropout=run.lora_dropout,
        target_modules=list(run.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


def _prefix(run: Run) -> Any:
    from peft import PrefixTuningConfig

    settings = METHODS[run.method].peft_settings
    return PrefixTuningConfig(num_virtual_tokens=run.virtual_tokens, task_type="CAUSAL_LM", **settings)


def _prompt(run: Run) -> Any:
    """Each virtual token begins as some word of the vocabulary, where the model is at home."""
    from peft import PromptTuningConfig

    return PromptTuningConfig(
        prompt_tuning_init="SAMPLE_VOCAB", num_virtual_tokens=run.virtual_tokens, task_type="CAUSAL_LM"
    )
