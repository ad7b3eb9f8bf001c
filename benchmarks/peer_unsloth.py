"""A job as Unsloth's notebooks do it: 4 bit, "unsloth" checkpointing, 4 x 2, adamw_8bit, only the answers trained.

python -m benchmarks.peer_unsloth JOB OUTPUT STEPS MICRO_BATCH MAX_LENGTH [padding_free=True]
"""

import sys

from unsloth import FastLanguageModel, is_bfloat16_supported  # first: it patches the others
from unsloth.chat_templates import train_on_responses_only

from datasets import load_dataset  # isort: skip
from trl import SFTConfig, SFTTrainer  # isort: skip

from benchmarks.peer_trl import common_settings, lora_settings  # isort: skip

job, output, steps, micro_batch, max_length = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
asked = (
    {"padding_free": sys.argv[-1].endswith("True")} if "padding_free" in sys.argv[-1] else {}
)  # else Unsloth decides
model, tokenizer = FastLanguageModel.from_pretrained(f"{job}/model", max_seq_length=max_length, load_in_4bit=True)
model = FastLanguageModel.get_peft_model(
    model, **lora_settings(), use_gradient_checkpointing="unsloth", random_state=3407
)


def with_text(rows: dict) -> dict:
    return {"text": [tokenizer.apply_chat_template(one, tokenize=False) for one in rows["messages"]]}


rows = load_dataset("json", data_files=f"{job}/train.jsonl", split="train").map(with_text, batched=True)
trainer = SFTTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=rows.remove_columns("messages"),
    args=SFTConfig(
        **common_settings(output, steps, micro_batch),
        dataset_text_field="text",
        max_length=max_length,
        bf16=is_bfloat16_supported(),
        optim="adamw_8bit",
        **asked,
    ),
)
trainer = train_on_responses_only(
    trainer, instruction_part="<|im_start|>user\n", response_part="<|im_start|>assistant\n"
)
trainer.train()
model.save_pretrained(f"{output}/adapter")
