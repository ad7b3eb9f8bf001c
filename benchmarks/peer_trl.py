"""A job as TRL's documentation does it: SFTTrainer with a PEFT config and 4-bit weights, checkpointing on, 4 x 2.

python -m benchmarks.peer_trl JOB OUTPUT STEPS MICRO_BATCH MAX_LENGTH [cuda]
"""

import sys
from typing import Any


def common_settings(output: str, steps: int, micro_batch: int) -> dict[str, Any]:
    """Of both tools: 8 samples a step on J1, 2 on larger models."""
    return {
        "output_dir": output,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": 2,
        "max_steps": steps,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 5,
        "weight_decay": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 3407,
    }


def lora_settings() -> dict[str, Any]:
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return {"r": 16, "lora_alpha": 16, "lora_dropout": 0, "target_modules": linear, "bias": "none"}


def main() -> None:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    job, output, steps, micro_batch, max_length = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    device = "cuda" if "cuda" in sys.argv else "cpu"
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    trainer = SFTTrainer(
        model=f"{job}/model",
        train_dataset=load_dataset("json", data_files=f"{job}/train.jsonl", split="train"),
        args=SFTConfig(
            **common_settings(output, steps, micro_batch),
            max_length=max_length,
            assistant_only_loss=True,
            gradient_checkpointing=True,
            bf16=True,
            use_cpu=device == "cpu",
            model_init_kwargs={"dtype": torch.bfloat16, "device_map": device, "quantization_config": four_bit},
        ),
        peft_config=LoraConfig(**lora_settings(), task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.model.save_pretrained(f"{output}/adapter")


if __name__ == "__main__":
    main()
