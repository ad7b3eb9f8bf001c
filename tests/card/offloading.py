"""What Unsloth on a card keeps in main memory of one pass, and the mask of a padded batch that is measured on.

python tests/card/offloading.py        prints one JSON
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from envcheck import probe
from kit import backend, models, prompt
from kit.memory import Shape
from kit.memory.activations import offloaded_bytes
from kit.options import Run
from tests.support.plans import ON_CARD

CASES = {"long": (4, 2048), "short": (22, 384)}  # samples, tokens of each


def model_of(run: Run) -> backend.Loaded:
    loading = backend.Loading.of(run, probe.collect())
    model = models.find(run.model)
    return backend.adapt(backend.load(model, loading, backend.start(loading), prompt.load(model, "auto")), run)


def waiting(samples: int, tokens: int) -> dict[str, object]:
    """Bytes of the blocks' inputs in main memory after a pass with gradients; beside what is planned."""
    import torch
    from unsloth_zoo import gradient_checkpointing as offloading

    ways = {"gradient_checkpointing": "unsloth", "micro_batch_size": samples, "max_length_tokens": tokens}
    run = Run(**ON_CARD | ways, model="tiny", backend="unsloth")
    loaded = model_of(run)
    offloading.OFFLOAD_SLOT_META.clear()
    ids = torch.ones(samples, tokens, dtype=torch.long, device="cuda")
    loaded.model.train()
    with torch.autocast("cuda", torch.bfloat16):
        loaded.model(input_ids=ids, labels=ids)
    kept = [meta[3] for meta in offloading.OFFLOAD_SLOT_META if meta]
    shape = Shape.of(models.find("tiny").config)
    return {"bytes": sum(kept), "planned": offloaded_bytes(shape, run, samples * tokens), "mask": mask_bytes(loaded)}


def mask_bytes(loaded: backend.Loaded) -> int:
    """Of the mask that a padded batch of 2 x 64 tokens gets where the model is measured."""
    import torch
    from unsloth.models import llama

    sizes: list[int] = []
    make = llama._prepare_4d_causal_attention_mask_for_sdpa

    def watched(*arguments, **options):
        made = make(*arguments, **options)
        sizes.append(made.nbytes)
        return made

    llama._prepare_4d_causal_attention_mask_for_sdpa = watched
    ids = torch.ones(2, 64, dtype=torch.long, device="cuda")
    seen = ids.clone()
    seen[1, 32:] = 0
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        loaded.model.eval()
        loaded.model(input_ids=ids, attention_mask=seen, labels=ids)
    llama._prepare_4d_causal_attention_mask_for_sdpa = make
    return max(sizes, default=0)


if __name__ == "__main__":
    from unsloth_zoo.gradient_checkpointing import FP32_OFFLOAD_EXACT

    found = {name: waiting(*case) for name, case in CASES.items()}
    print(json.dumps(found | {"fp32_is_exact": FP32_OFFLOAD_EXACT}))
