"""The loss of an adapter on rows it has not seen, by one ruler for all tools: plain transformers and PEFT, one row at
a time, the mean over all trained tokens.

python -m benchmarks.held_out MODEL ADAPTER ROWS.jsonl      prints the loss in nats
"""

import sys

from kit import data, models, prompt
from kit.options import Run


def main() -> None:
    folder, adapter, rows = sys.argv[1:]
    model = models.find(folder)
    samples = data.read(Run(data=(rows,), held_out_rows=0), prompt.load(model, "auto")).train

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, adapter).eval()
    total = count = 0.0
    with torch.no_grad():
        for index in range(len(samples)):
            one = samples[index]
            labels = torch.tensor([one.labels])
            tokens = int((labels[:, 1:] != -100).sum())
            total += tokens * float(tuned(input_ids=torch.tensor([one.ids]), labels=labels).loss)
            count += tokens
    print(total / count)


if __name__ == "__main__":
    main()
