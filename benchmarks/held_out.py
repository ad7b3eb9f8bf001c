"""The loss of an adapter on rows it has not seen, by one ruler for all tools: plain transformers and PEFT, one row at
a time, the mean over all trained tokens.

python -m benchmarks.held_out MODEL ADAPTER ROWS.jsonl [cuda]      prints the loss in nats; on a card in bf16
"""

import sys

from kit import data, models, prompt
from kit.options import Run


def main() -> None:
    folder, adapter, rows, *on_card = sys.argv[1:]
    device = "cuda" if on_card else "cpu"
    model = models.find(folder)
    samples = data.read(Run(data=(rows,), held_out_rows=0), prompt.load(model, "auto")).train

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if on_card else torch.float32
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device)
    tuned = PeftModel.from_pretrained(base, adapter).eval()
    total = count = 0.0
    with torch.no_grad():
        for index in range(len(samples)):
            one = samples[index]
            labels = torch.tensor([one.labels], device=device)
            tokens = int((labels[:, 1:] != -100).sum())
            total += tokens * float(tuned(input_ids=torch.tensor([one.ids], device=device), labels=labels).loss)
            count += tokens
    print(total / count)


if __name__ == "__main__":
    main()
