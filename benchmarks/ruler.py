"""One ruler for every tool that trains with torch: what went into the model in each optimiser step, and its seconds.

python -m benchmarks.ruler OUT.json PADDING_ID MODULE [ARGUMENTS]      runs the module here and writes OUT.json

It counts where all tools must pass: the embedding sees the token ids, the optimiser ends the step. Nothing of the tool
is imported or replaced, so the order in which it imports its libraries stays its own.
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


class Ruler:
    """Each step: seconds since the one before, when it ended (Unix), tokens without padding, tokens computed, passes,
    and the most memory of a card that torch reserved so far."""

    def __init__(self, padding_id: int):
        self.padding_id = padding_id
        self.steps: list[dict[str, float]] = []
        self.seen = {"tokens": 0, "computed": 0, "passes": 0}
        self.last_s = time.perf_counter()
        embed = torch.nn.Embedding.forward

        def counted(module: Any, ids: Any) -> Any:
            if torch.is_grad_enabled() and module.training:
                self.seen["tokens"] += int((ids != padding_id).sum())
                self.seen["computed"] += ids.numel()
                self.seen["passes"] += 1
            return embed(module, ids)

        torch.nn.Embedding.forward = counted
        register_optimizer_step_post_hook(self.ended)

    def ended(self, *_: Any) -> None:
        now_s = time.perf_counter()
        peak_bytes = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
        self.steps.append(
            {"seconds": now_s - self.last_s, "ended_s": time.time(), "peak_bytes": peak_bytes, **self.seen}
        )
        self.seen = dict.fromkeys(self.seen, 0)
        self.last_s = now_s


def main() -> None:
    out, padding_id, module, *arguments = sys.argv[1:]
    ruler = Ruler(int(padding_id))
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        Path(out).write_text(json.dumps(ruler.steps), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
