"""Causes: precision, data and model configuration of the planned run."""

from envcheck.causes._registry import cause
from envcheck.facts import Facts
from envcheck.shell import Shell

HF = "transformers, trl and peft sources and documentation"


@cause(
    "bf16-unsupported",
    "error",
    "bf16 (or tf32) is asked of a GPU older than Ampere.",
    "Cards before compute capability 8.0 (T4, V100, P100, RTX 20, GTX) have no bf16 or tf32 units.",
    'python -c "import torch; print(torch.cuda.get_device_capability(), torch.cuda.is_bf16_supported())"',
    HF,
)
def _(shell: Shell, facts: Facts):
    return ["# in the script or config: fp16=True, bf16=False, tf32=False, dtype float16 (vLLM: --dtype half)"]


@cause(
    "precision-mismatch",
    "error",
    "Data types do not agree with the mixed-precision flags.",
    "Activations and weights of different types meet outside autocast, or the trainable weights themselves are fp16 "
    "while AMP wants to "
    "unscale fp32 gradients.",
    'python -c "print({p.dtype for p in model.parameters() if p.requires_grad})"   # in the session',
    HF,
)
def _(shell: Shell, facts: Facts):
    return [
        "# in the script: bf16=True (Ampere or newer) or fp16=True, so that autocast is on; exactly one of the two",
        "# and trainable (LoRA) weights in float32: peft's autocast_adapter_dtype=True, "
        "prepare_model_for_kbit_training(model) for 4-bit,",
        "# never model.half() before training; load the model with the same dtype as the flag",
    ]


@cause(
    "fp16-overflow",
    "error",
    "Values leave the range of float16: the loss or the gradient becomes NaN or 0.",
    "float16 ends at 65504. Gemma models and pure half-precision weights go beyond; bf16 has the range of float32.",
    "look at loss and grad_norm of the first 20 steps",
    "Gemma model notes; PyTorch AMP documentation",
)
def _(shell: Shell, facts: Facts):
    lines = [
        "# bf16=True, fp16=False on Ampere or newer; on older cards float32 weights with mixed precision (fp32), "
        "never pure half"
    ]
    return [
        *lines,
        "# also: a lower learning rate, packing=False, and a current Unsloth, which keeps Gemma in float32 where "
        "needed:",
        shell.install("-U", "unsloth", "unsloth_zoo"),
    ]


@cause(
    "all-labels-masked",
    "error",
    "Every label is -100: there is nothing to train on.",
    "train_on_responses_only looks for the markers in each tokenised row; when they are not written as the chat "
    "template writes them, or "
    "the row is cut before the answer, everything is masked and the loss is 0 or NaN.",
    "print(tokenizer.decode(dataset[0]['input_ids'])) and compare with the markers",
    "Unsloth documentation",
)
def _(shell: Shell, facts: Facts):
    return [
        "# train_on_responses_only: instruction_part and response_part must be exactly what the chat template "
        "writes, for example",
        "# '<|im_start|>user\\n' and '<|im_start|>assistant\\n' for ChatML; print one decoded row and copy them from "
        "there",
        "# raise max_length if the rows are cut before the answer, and update unsloth:",
        shell.install("-U", "unsloth", "unsloth_zoo"),
    ]


@cause(
    "silent-truncation",
    "warning",
    "Rows are cut at trl's default length (1024 tokens) although a longer limit was meant.",
    "From 0.16 on trl reads max_length of SFTConfig; max_seq_length given elsewhere is ignored without a word.",
    "print(trainer.args.max_length)",
    "trl release notes",
)
def _(shell: Shell, facts: Facts):
    wanted = facts.run("max_seq_length")
    return [
        f"# in the script: SFTTrainer(..., args=SFTConfig(max_length={wanted if isinstance(wanted, int) else 2048}))"
    ]


@cause(
    "chat-template-missing",
    "error",
    "The tokenizer has no chat template: this is a base model.",
    "Base models are trained on plain text; only Instruct models bring a template that turns messages into text.",
    "print(tokenizer.chat_template)",
    "transformers documentation, chat templates",
)
def _(shell: Shell, facts: Facts):
    return [
        "# set a chat template: tokenizer = unsloth.chat_templates.get_chat_template(tokenizer, "
        "chat_template='chatml'),",
        "# or tokenizer.chat_template = ..., or train the Instruct variant of the model",
    ]


@cause(
    "pad-token-out-of-range",
    "error",
    "A token id lies beyond the model's embedding, usually an added pad token.",
    "add_special_tokens enlarges the tokenizer, not the model: the new id indexes past the end and CUDA stops with "
    "an assertion.",
    "print(len(tokenizer), model.get_input_embeddings().weight.shape[0])",
    "transformers documentation",
)
def _(shell: Shell, facts: Facts):
    return [
        "# use an existing token: tokenizer.pad_token = tokenizer.eos_token (or unk_token),",
        "# or model.resize_token_embeddings(len(tokenizer)) after adding a token; other ids: check the labels and "
        "the vocabulary of the data",
    ]


@cause(
    "lora-target-modules-not-found",
    "error",
    "The LoRA target modules do not exist in this model.",
    "Names differ between architectures (q_proj, query_key_value, Wqkv, c_attn); a regular expression works only as "
    "a plain string, not "
    "inside a list.",
    "print({name.split('.')[-1] for name, module in model.named_modules()})",
    "peft documentation",
)
def _(shell: Shell, facts: Facts):
    return [
        "# LoraConfig(target_modules='all-linear'), or the names that this model really has",
        "# a regex must be a plain string: target_modules=r'.*query_key_value', not a list with a regex in it",
    ]
