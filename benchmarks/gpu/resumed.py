"""A run on a card that is killed and started again: the same state to the last bit, losses as near as repeats are.

python -m benchmarks.gpu.resumed MODEL_JOB DEVICE              prints one JSON object
python -m benchmarks.gpu.resumed look OUT.json OPTIONS...      of kit.train: where it goes on, before the first step
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import measure
from kit.run import checkpoints
from kit.run.layout import CHECKPOINTS, METRICS

STEPS, KILLED_AFTER = 8, 4


def command(folder: Path, device: str, output: Path) -> list[str]:
    preset = "vram-8" if device == "cuda" else "cpu"
    words = ["--model", folder / "model", "--data", folder / "train.jsonl", "--output", output, "--device", device,
             "--max-steps", STEPS, "--batch-size", 4, "--held-out-rows", 8, "--evaluations", 1, "--prompts", "a",
             "--sample-tokens", 2, "--checkpoint-minutes", 0, "--long-rows", "cut", "--preset", preset]  # fmt: skip
    return [str(word) for word in words]


def losses(output: Path) -> dict[int, float]:
    lines = map(json.loads, (output / METRICS).read_text("utf-8").splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def kill_after(arguments: list[str], output: Path) -> None:
    """SIGKILL when so many steps are written down. Raises SystemExit: the run ended before."""
    with (output.parent / "killed.txt").open("wb") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "kit.train", *arguments], cwd=measure.ROOT, stdout=said, stderr=said
        )
        while child.poll() is None and not ((output / METRICS).exists() and len(losses(output)) >= KILLED_AFTER):
            time.sleep(0.02)
        if child.poll() is not None:
            raise SystemExit((output.parent / "killed.txt").read_text("utf-8", "replace"))
        child.kill()
        child.wait()


def look(out: Path, arguments: list[str]) -> int:
    """kit.train, which compares its state with the checkpoint's files just before the first step that it does."""
    from kit import backend, train

    make = backend.trainer

    def made(*parts: Any) -> Any:
        trainer = make(*parts)
        step = trainer.training_step

        def first(*args: Any, **kwargs: Any) -> Any:
            trainer.training_step = step
            output = Path(arguments[arguments.index("--output") + 1])
            newest = checkpoints.whole(output / CHECKPOINTS)[0][-1]
            with tempfile.TemporaryDirectory() as again:
                backend.save_state(trainer, Path(again))
                found = {"step": newest.about.step, "differences": differences(newest.path, Path(again))}
            out.write_text(json.dumps(found), encoding="utf-8", newline="\n")
            return step(*args, **kwargs)

        trainer.training_step = first
        return trainer

    backend.trainer = made
    return train.main(arguments)


def differences(kept: Path, again: Path) -> list[str]:
    """Where two saved states differ: weights, optimiser, schedule, random generators, counts."""
    import torch
    from safetensors.torch import load_file

    from kit.backend import state

    weights = [load_file(folder / state.WEIGHTS) for folder in (kept, again)]
    rest = [torch.load(folder / state.STATE, map_location="cpu", weights_only=True) for folder in (kept, again)]
    return unlike("weights", *weights) + unlike("state", *rest)


def unlike(place: str, one: Any, other: Any) -> list[str]:
    import torch

    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in unlike(f"{place}.{key}", one[key], other[key])]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [found for at in range(len(one)) for found in unlike(f"{place}.{at}", one[at], other[at])]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    return [] if one == other else [place]


def apart(one: dict[int, float], other: dict[int, float]) -> float:
    """Largest distance between the losses of a step."""
    assert one.keys() == other.keys(), "runs of other steps"
    return max(abs(one[step] - other[step]) for step in one)


def main() -> None:
    folder, device = Path(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch) / name for name in ("one", "repeat", "killed")]
        for output in outputs[:2]:
            measure.must(measure.run("-m", "kit.train", *command(folder, device, output)))
        arguments = command(folder, device, outputs[2])
        kill_after(arguments, outputs[2])
        found = Path(scratch) / "found.json"
        measure.must(measure.run("-m", "benchmarks.gpu.resumed", "look", found, *arguments))
        one, repeat, resumed = map(losses, outputs)
        state = json.loads(found.read_text("utf-8"))
    repeats_apart, resumed_apart = apart(one, repeat), min(apart(resumed, one), apart(resumed, repeat))
    print(json.dumps({
        "went_on_after_step": state["step"],
        "state_differs_in": state["differences"],
        "losses_of_repeats_apart": repeats_apart,
        "losses_of_resumed_apart": resumed_apart,
        "as_near_as_repeats": resumed_apart <= repeats_apart,
        "losses": {"one": one, "repeat": repeat, "resumed": resumed},
    }))  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "look":
        sys.exit(look(Path(sys.argv[2]), sys.argv[3:]))
    main()
