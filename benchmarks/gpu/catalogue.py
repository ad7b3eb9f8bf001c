"""The jobs, the most informative first; those of one model stand together as far as that allows, for the disk's sake.

What is measured of the memory plan: of Unsloth's fused block all five shapes in 4 bit, without and with checkpointing;
offloaded activations on 4B; the 16-bit base and plain transformers on 0.6B; rank 64 on 1.7B, there with
checkpointing from the start (elsewhere it is switched on, as the ladder does). Full rows and padded ones each time.
Not covered, as the formulas are of the widths alone: rank 64, 16 bit, offloading and plain transformers on the other
shapes. Not covered at all: other families, more than 8,192 tokens at once, fp16, two cards.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.gpu.shapes import ROWS, SMALL, config_of
from benchmarks.gpu.whole_run import SAMPLES
from envcheck import settings
from envcheck.facts import Facts
from kit.memory import plan
from kit.options import Run, resolve
from kit.support.units import GIB

SIZES_GIB = (24, 16, 12, 8)  # of the cards that are played
GRID = [(1, 512, False), (1, 1024, False), (1, 2048, False), (1, 4096, False), (1, 8192, False), (4, 512, False),
        (4, 1024, False), (8, 1024, False), (4, 512, True), (4, 1024, True), (8, 1024, True)]  # fmt: skip
SMALL_GRID = [(1, 64, False), (2, 64, True)]
CARD = {"precision": "bf16", "optimizer": "adamw_8bit", "pin_memory": "off", "held_out_rows": 0, "attention": "sdpa"}
CPU = {**CARD, "optimizer": "adamw_torch_fused"}
# name: shape, options beside CARD, ways of checkpointing in the order they are looked at, seconds
MEMORY: dict[str, tuple[str, dict[str, Any], list[str], int]] = {
    "4B": ("4B", {}, ["off", "on"], 40),
    "4B-unsloth": ("4B", {}, ["unsloth"], 35),
    "0.6B": ("0.6B", {}, ["off", "on"], 30),
    "0.6B-16bit": ("0.6B", {"load_in_4bit": False}, ["off", "on"], 30),
    "0.6B-hf": ("0.6B", {"backend": "hf"}, ["off", "on"], 30),
    "1.7B": ("1.7B", {}, ["off", "on"], 35),
    "1.7B-rank64": ("1.7B", {"lora_rank": 64}, ["on"], 30),
    "8B": ("8B", {}, ["off", "on"], 45),
    "14B": ("14B", {}, ["off", "on"], 60),
}
PRESETS = {("vram-16", "4B"): 45, ("vram-12", "4B"): 45, ("vram-8", "1.7B"): 40, ("vram-24", "8B"): 50,
           ("vram-16", "14B"): 60}  # fmt: skip
COMPARED, COMPARED_STEPS = "4B", 12
PROPERTIES, THE_KIT = "smoke-card", "speed-kit"  # jobs that others are read with
COMPILES = {"UNSLOTH_BLOCK_COMPILE": "1", "UNSLOTH_MEGA_CACHE": "1"}


@dataclass(frozen=True)
class CardJob:
    """What one process does. expected_s: on a card of today, loading included; model: the shape it needs;
    memory_gib: of the card that it is about."""

    name: str
    what: str
    arguments: tuple[str, ...]
    expected_s: int
    model: str = ""
    memory_gib: float = 0
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workplace:
    """Where jobs run: device cuda or cpu; small: to see that they work, nothing is measured."""

    facts: Facts
    folder: Path
    small: bool = False

    @property
    def device(self) -> str:
        return "cuda" if settings.best_card(self.facts) else "cpu"

    def shape(self, size: str) -> str:
        return SMALL if self.small else size

    def model(self, size: str) -> Path:
        return self.folder / "models" / self.shape(size)

    def limit_gib(self, size_gib: float) -> float:
        """What a card of that size, or this one if it is smaller, leaves to a run."""
        limits = [settings.choose(facts).memory_bytes.value
                  for facts in (resolve.with_card(self.facts, size_gib), self.facts)]  # fmt: skip
        return round(min(filter(None, limits)) / GIB, 2)

    def is_too_large(self, size_gib: float) -> bool:
        """Whether a card of that size cannot be played on this one. Drivers report less than the marketed size."""
        card = settings.best_card(self.facts)
        return card is not None and card.vram_gib is not None and size_gib > card.vram_gib + 0.5

    def limits_gib(self) -> list[float]:
        return sorted({self.limit_gib(size) for size in SIZES_GIB}, reverse=True)


def jobs(place: Workplace) -> list[CardJob]:
    """All of them; presets only of cards as large as this one."""
    return [job for job in _all(place) if not place.is_too_large(job.memory_gib)]


def _all(place: Workplace) -> list[CardJob]:
    found = [*smoke(place), preset(place, "vram-16", "4B"), *compared(place), ladder(place), resumed(place)]
    found += [memory(place, name) for name in list(MEMORY)[:3]]
    found += [*settings_of_unsloth(place), preset(place, "vram-12", "4B")]
    found += [memory(place, name) for name in list(MEMORY)[3:7]]
    found += [preset(place, "vram-8", "1.7B"), memory(place, "8B"), preset(place, "vram-24", "8B")]
    found += [memory(place, "14B"), preset(place, "vram-16", "14B")]
    return [*found, shipped()]


def smoke(place: Workplace) -> Iterator[CardJob]:
    """Does anything work at all?"""
    yield CardJob(PROPERTIES, "what torch and the driver say of the card", ("-m", "benchmarks.gpu.properties"), 10)
    yield CardJob("smoke-envcheck", "envcheck finds nothing wrong with this machine", ("-m", "envcheck", "--json"), 15)
    for backend in ("unsloth", "hf"):
        arguments = ["-m", "kit.train", "--model", "tiny", "--data", "examples/identity.jsonl", "--backend", backend,
                     "--device", place.device, "--max-steps", "3" if place.small else "20", "--evaluations", "1",
                     "--sample-tokens", "8", "--output", str(place.folder / f"tiny-{backend}"), "--fresh", "--json",
                     *(("--preset", "cpu") if place.device == "cpu" else ())]  # fmt: skip
        yield CardJob(f"smoke-tiny-{backend}", f"the embedded model trained by {backend}", tuple(arguments), 30)


def shipped() -> CardJob:
    """Merges use the card where torch finds one."""
    tests = "test_equal_to_peft_to_the_last_bit or test_nf4_is_the_loaders"
    arguments = ("-m", "pytest", "-m", "torch", "-k", tests, "tests/kit/test_merge.py")
    return CardJob("smoke-merge", "tests of the merge, equal to PEFT's to the last bit", arguments, 30)


def _whole_run(place: Workplace, name: str, what: str, size: str, expected_s: int, **asked: Any) -> CardJob:
    env, memory_gib = asked.pop("env", {}), asked.pop("memory_gib", 0)
    steps = 4 if place.small else asked.pop("steps", COMPARED_STEPS)
    spec = {"tool": "kit", "options": [], "loss": False, "device": place.device, **asked, "steps": steps}
    if place.device == "cpu" and spec["tool"] == "kit":
        spec["options"] = [*spec["options"], "--preset", "cpu"]
    arguments = ("-m", "benchmarks.gpu.whole_run", str(place.model(size)), json.dumps(spec))
    return CardJob(name, what, arguments, expected_s, place.shape(size), memory_gib, env)


def preset(place: Workplace, memory_class: str, size: str) -> CardJob:
    """The preset as a user takes it, with rows of up to 1,024 tokens; the model is the preset's own or a larger one."""
    size_gib = float(memory_class.removeprefix("vram-"))
    options, held = ["--held-out-rows", "16", "--evaluations", "1"], ""
    if place.device == "cuda":
        limit_gib = place.limit_gib(size_gib)
        options += ["--preset", memory_class, "--vram-limit-gib", f"{limit_gib:g}"]
        held = f", held to {limit_gib:g} GiB"
    what = f"preset {memory_class} with the shape of Qwen3-{size}{held}: does its plan hold?"
    asked = {"options": options, "steps": 8, "memory_gib": size_gib}
    return _whole_run(place, f"preset-{memory_class}-{size}", what, size, PRESETS[memory_class, size], **asked)


def as_the_peers(place: Workplace, *more: str) -> list[str]:
    """Options of kit.train that make it do what the peers do; memory and order of the rows are its own."""
    steps = 4 if place.small else COMPARED_STEPS
    return ["--batch-size", str(SAMPLES), "--lora-rank", "16", "--lora-alpha", "16", "--held-out-rows", "0",
            "--evaluations", "0", "--warmup-pct", f"{min(100, 500 / steps):g}",
            "--max-length-tokens", str(ROWS.longest_tokens),
            *(("--preset", "vram-16") if place.device == "cuda" else ()), *more]  # fmt: skip


def compared(place: Workplace) -> Iterator[CardJob]:
    """Tokens/s beside the peers', and the loss of held-out rows after the same steps."""
    for tool, words in (("kit", "the kit"), ("unsloth", "Unsloth as its notebooks"), ("trl", "TRL as its page")):
        options = as_the_peers(place) if tool == "kit" else []
        what = f"{words}: {SAMPLES} samples a step, the same rows, then the loss on held-out ones"
        expected_s = 90 if tool == "unsloth" else 60
        yield _whole_run(place, f"speed-{tool}", what, COMPARED, expected_s, tool=tool, options=options, loss=True)


def settings_of_unsloth(place: Workplace) -> Iterator[CardJob]:
    """Each against speed-kit, or where only Unsloth's own loop has it, against its other value."""
    offloaded = ["--gradient-checkpointing", "unsloth"]
    keep_layers = "the same, but for the layers that fit (UNSLOTH_GC_KEEP_LAYERS=auto)"
    tried: list[tuple[str, str, list[str], dict[str, str]]] = [
        ("checkpointing-unsloth", "blocks computed again, their inputs in main memory", offloaded, {}),
        ("gc-keep-layers", keep_layers, offloaded, {"UNSLOTH_GC_KEEP_LAYERS": "auto"}),
    ]
    for number, words in enumerate(("compiled blocks (UNSLOTH_BLOCK_COMPILE=1)", "again, from UNSLOTH_MEGA_CACHE")):
        caches = {
            "UNSLOTH_MEGA_CACHE_DIR": place.folder / "mega",
            "TORCHINDUCTOR_CACHE_DIR": place.folder / f"i{number}",
        }
        env = COMPILES | {name: str(folder) for name, folder in caches.items()}
        tried.append((("block-compile", "mega-cache")[number], words, [], env))
    for name, words, more, env in tried:
        options, expected_s = as_the_peers(place, *more), 120 if "compile" in name else 45
        yield _whole_run(place, f"setting-{name}", words, COMPARED, expected_s, options=options, env=env)
    what = "Unsloth's own loop with padded batches; by itself it takes padding-free ones where it finds them faster"
    yield _whole_run(place, "setting-padded", what, COMPARED, 80, tool="unsloth", options=["padding_free=False"])


def ladder(place: Workplace) -> CardJob:
    """In so little memory that only the last rung is left: one sample at a time, its activations computed again."""
    limit_gib = between_gib(place.shape("1.7B"), place.device)
    options = ["--micro-batch-size", "8", "--batch-size", "8", "--gradient-checkpointing", "off",
               "--held-out-rows", "8", "--evaluations", "1"]  # fmt: skip
    if place.device == "cuda":
        options += ["--preset", "vram-8", "--lora-rank", "16", "--vram-limit-gib", f"{limit_gib:g}"]
    what = f"memory that runs out in earnest: eight samples at once in {limit_gib:g} GiB; the run must finish"
    return _whole_run(place, "ladder", what, "1.7B", 45, options=options, steps=4)


def between_gib(size: str, device: str) -> float:
    """Memory that one sample fits into with checkpointing and, by the plan, not without."""

    def planned(way: str) -> Any:
        run = Run(**(CARD if device == "cuda" else CPU), device=device, micro_batch_size=1, gradient_checkpointing=way)
        lengths = SimpleNamespace(longest_tokens=ROWS.longest_tokens, samples=1, tokens=ROWS.longest_tokens)
        return plan(config_of(size), run, lengths, None)

    return round((max(planned("on").high_bytes, planned("on").low_bytes) + planned("off").low_bytes) / 2 / GIB, 2)


def resumed(place: Workplace) -> CardJob:
    arguments = ("-m", "benchmarks.gpu.resumed", str(place.model("0.6B")), place.device)
    what = "a run killed after four steps goes on from the same state, its losses as near as those of a repeat"
    return CardJob("resume", what, arguments, 80, place.shape("0.6B"))


def memory(place: Workplace, name: str) -> CardJob:
    size, more, ways, expected_s = MEMORY[name]
    options = {**(CARD if place.device == "cuda" else CPU), "device": place.device, "backend": "unsloth", **more}
    limits_gib = place.limits_gib() if place.device == "cuda" else [1.0]
    grid = SMALL_GRID if place.small else GRID
    spec = {"options": options, "ways": ways, "limits_gib": limits_gib, "grid": grid}
    arguments = ("-m", "benchmarks.gpu.micro_batches", str(place.model(size) / "model"), json.dumps(spec))
    what = f"planned and measured: Qwen3-{size}, {', '.join(f'{k} {v}' for k, v in more.items()) or '4 bit, rank 16'}"
    return CardJob(
        f"memory-{name}", f"{what}, checkpointing {' then '.join(ways)}", arguments, expected_s, place.shape(size)
    )
