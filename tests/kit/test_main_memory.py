"""What a run on a card keeps in main memory until the card needs it: planned, chosen by, and held against what is free;
and what Unsloth keeps on the card all the same."""

import pytest

from envcheck.facts import Facts, Gpu
from kit import memory, train
from kit.backend import Backend
from kit.memory import Shape
from kit.memory.activations import evaluation_bytes
from kit.options import Run, resolve
from kit.run.notes import collect_notes
from kit.support import environment
from kit.support.units import GIB
from tests.support.plans import ON_CARD, config_of, part, plan_of

BATCH = {"gradient_checkpointing": "unsloth", "micro_batch_size": 16, "batch_size": 16, "max_length_tokens": 4096}


def test_offloaded_activations_are_pinned_in_powers_of_two() -> None:
    """Qwen3-4B: of each of 36 blocks 65,536 tokens x 2560 numbers of 2 bytes, which is 320 MiB, in 512."""
    plan = plan_of("Qwen3-4B", 80, **BATCH)
    (activations,) = plan.main_memory
    assert (activations.low_bytes, activations.high_bytes) == (36 * 320 << 20, 36 * 512 << 20)
    assert any("11.25 GiB of activations wait in main memory, 18.00 as torch pins" in why for why in plan.reasons)


@pytest.mark.parametrize(
    "options",
    [
        {"max_length_tokens": 511},
        {"max_length_tokens": 512, "micro_batch_size": 1},  # 1 MiB
        {"gradient_checkpointing": "on"},
        {"backend": "hf"},
        {"device": "cpu"},
    ],
)
def test_what_unsloth_keeps_on_the_card_is_counted_there(options: dict) -> None:
    """It offloads only where max_length_tokens is 512 or more, and a block's input more than 2 MiB."""
    asked, on_card = plan_of("Qwen3-0.6B", 80, **BATCH | options), {"gradient_checkpointing": "on"}
    kept = plan_of("Qwen3-0.6B", 80, **BATCH | options | on_card)
    assert asked.main_memory == ()
    assert (asked.low_bytes, asked.high_bytes) == (kept.low_bytes, kept.high_bytes)


def test_the_verdict_is_of_both_memories() -> None:
    run = Run(**ON_CARD | BATCH)
    found = [
        memory.plan(config_of("Qwen3-4B"), run, None, 80 * GIB, None if free is None else free * GIB).verdict
        for free in (None, 19, 15, 8)
    ]
    assert found == ["fits", "fits", "tight", "will not fit"]
    assert memory.plan(config_of("Qwen3-4B"), run, None, None, 8 * GIB).verdict == "will not fit"
    assert memory.plan(config_of("Qwen3-4B"), run, None, 2 * GIB, 80 * GIB).verdict == "will not fit"


@pytest.mark.parametrize("free_gib", [40, 12, 6, 2, 0])
def test_no_more_samples_are_chosen_than_main_memory_takes(free_gib: int) -> None:
    run = Run(**ON_CARD, max_length_tokens=4096, batch_size=16)
    settled, _ = memory.choose(config_of("Qwen3-4B"), run, None, 16 * GIB, "unsloth", free_gib * GIB)
    plan = memory.plan(config_of("Qwen3-4B"), settled, None, 16 * GIB, free_gib * GIB)
    assert plan.verdict == "fits"
    assert sum(one.high_bytes for one in plan.main_memory) <= free_gib * GIB


def test_activations_stay_on_the_card_where_main_memory_is_too_small() -> None:
    config, run = config_of("Qwen3-4B"), Run(**ON_CARD, max_length_tokens=16384)
    settled, reasons = memory.choose(config, run, None, 12 * GIB, "unsloth", GIB)
    assert settled.gradient_checkpointing == "on"
    assert "4.50 of 1.00 GiB of main memory" in reasons["gradient_checkpointing"]
    free, _ = memory.choose(config, run, None, 12 * GIB, "unsloth", None)
    assert free.gradient_checkpointing == "unsloth"
    asked = run.model_copy(update={"gradient_checkpointing": "unsloth"})
    assert memory.choose(config, asked, None, 12 * GIB, "unsloth", GIB)[0].gradient_checkpointing == "unsloth"


def test_an_embedding_that_waits_in_main_memory_needs_room_there() -> None:
    """1.16 GiB of Qwen3-8B."""
    run, available = Run(**ON_CARD, max_length_tokens=512), int(7.2 * GIB)
    for free_gib, verdict in ((2, "fits"), (1, "will not fit")):
        free = free_gib * GIB
        settled, reasons = memory.choose(config_of("Qwen3-8B"), run, None, available, "on", free)
        plan = memory.plan(config_of("Qwen3-8B"), settled, None, available, free)
        assert ([one.name for one in plan.main_memory], plan.verdict) == (["embedding"], verdict)
    assert "1.16 of 1.00 GiB of main memory" in reasons["embedding_offload"]


def test_the_preflight_copies_a_whole_model_into_main_memory() -> None:
    """Of Qwen3-0.6B in 32 bit 2.22 GiB, which a CPU has in its one memory."""
    options = {"method": "full", "backend": "hf", "load_in_4bit": False, "optimizer": "adamw_torch_fused"}
    on_card, on_cpu = (plan_of("Qwen3-0.6B", 80, **options, device=device) for device in ("cuda", "cpu"))
    (copy,) = on_card.main_memory
    assert copy == part(on_cpu, "preflight's copy")
    assert copy.low_bytes == 4 * on_card.trained_params
    assert on_cpu.main_memory == ()


def test_fit_keeps_to_main_memory() -> None:
    config, run = config_of("Qwen3-8B"), Run(**ON_CARD)
    far = memory.fit(config, run, 16 * GIB, "unsloth", "seq")["max_length_tokens"]
    near = memory.fit(config, run, 16 * GIB, "unsloth", "seq", 4 * GIB)["max_length_tokens"]
    assert 512 <= near < far


def test_a_length_that_is_offloaded_may_be_the_most_where_a_shorter_one_is_not() -> None:
    """Just below 512 the blocks' inputs stay on the card, which takes more than a little above."""
    config, run = config_of("Qwen3-8B"), Run(**ON_CARD, micro_batch_size=64, batch_size=64)

    def needed(length: int) -> int:
        settled = run.model_copy(
            update={"max_length_tokens": length, "gradient_checkpointing": "unsloth", "embedding_offload": "on"}
        )
        return memory.plan(config, settled, None, None).high_bytes

    assert needed(600) < needed(500)
    found = memory.fit(config, run, needed(600), "unsloth", "seq")["max_length_tokens"]
    assert found >= 600


def test_evaluation_on_a_card_counts_the_mask_of_a_padded_batch() -> None:
    """Without gradients Unsloth builds it for each pair of tokens: 4 x 32768 x 32768 of 7 bytes on the way."""
    run, shape = Run(device="cuda", precision="bf16"), Shape.of(config_of("Qwen3-0.6B"))
    tokens = 32768
    alone, padded = evaluation_bytes(shape, run, tokens, tokens), evaluation_bytes(shape, run, 4 * tokens, tokens)
    assert padded >= 4 * tokens * tokens * 7
    assert alone < padded / 8, "one sample is never padded"
    hf = run.model_copy(update={"backend": "hf"})
    assert evaluation_bytes(shape, hf, 4 * tokens, tokens) < padded


def test_a_run_in_fp32_offloads_in_fp32(monkeypatch) -> None:
    """Unsloth by itself rounds to bf16 what waits in main memory. Where the user has it so, it is said."""
    environ: dict[str, str] = {}
    environment.set_constant(environ)
    assert not environment.rounds_offloaded(environ)
    facts = Facts(gpu=(Gpu(name="NVIDIA card", vram_gib=24, compute_capability="8.6"),))
    options = ["--model", "tiny", "--plan", "--precision", "fp32", "--gradient-checkpointing", "unsloth"]
    planned = train.plan(resolve.load(options, lambda: facts), facts)

    def said(backend: str, value: str) -> bool:
        monkeypatch.setenv(environment.OFFLOADED_FP32, value)
        return any("fp32" in note for note in collect_notes(planned, Backend(backend, "asked for"), None))

    assert [said("unsloth", "bf16"), said("unsloth", "exact"), said("hf", "bf16")] == [True, False, False]
