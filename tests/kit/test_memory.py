"""The planner's counts against published and measured ones, its verdict, its choices."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import planner
from envcheck import known, settings
from envcheck.facts import Facts, Gpu
from kit import memory
from kit.memory import Shape
from kit.memory.activations import evaluation_bytes
from kit.memory.weights import nf4_bytes
from kit.models import TINY
from kit.options import Run, resolve
from kit.support.errors import KitError
from kit.support.units import GIB
from tests.support.plans import ON_CARD, config_of, part, plan_of

ROOT = Path(__file__).parents[2]
OTHER_FAMILIES = sorted((ROOT / "tests" / "data" / "families").glob("*.json"))
PUBLISHED = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Llama-3.1-8B": 8_030_261_248,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Qwen2.5-1.5B": 1_543_714_304,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_exact(name: str) -> None:
    assert Shape.of(config_of(name)).params == PUBLISHED[name]


def test_lora_parameters_of_a_published_run() -> None:
    assert memory.trained_params(Shape.of(config_of("Qwen3-1.7B")), Run(lora_rank=16)) == 17_432_576


def test_verdict_never_says_fits_from_a_lower_bound() -> None:
    plan = plan_of("Qwen3-8B", 1000)
    low_gib, high_gib = plan.low_bytes / GIB, plan.high_bytes / GIB
    assert low_gib < high_gib
    assert plan_of("Qwen3-8B", high_gib + 0.01).verdict == "fits"
    assert plan_of("Qwen3-8B", (low_gib + high_gib) / 2).verdict == "tight"
    assert plan_of("Qwen3-8B", low_gib - 0.01).verdict == "will not fit"
    assert plan_of("Qwen3-8B", None).verdict == "unknown"


def test_the_parts_make_the_sum() -> None:
    plan = plan_of("Qwen3-0.6B", 16, device="cpu", held_out_rows=64)
    assert plan.low_bytes == sum(part.low_bytes for part in plan.parts)
    assert plan.high_bytes == sum(part.high_bytes for part in plan.parts)
    assert all(part.name in plan._repr_html_() for part in plan.parts)
    assert plan.verdict in plan._repr_html_()


def test_double_quantisation_takes_half_a_byte_and_its_scales() -> None:
    """A layer of 64 x 256 weights: 8192 bytes, 256 scales of a byte, one of 4, the tables."""
    assert nf4_bytes(64 * 256) == 8192 + 256 + 4 + 1092
    four, sixteen = (plan_of("Qwen3-8B", 16, load_in_4bit=flag).parts[0].low_bytes for flag in (True, False))
    assert four / sixteen == pytest.approx(0.515869140625 / 2, rel=1e-3)


def test_tied_models_have_no_head_and_fp32_doubles_what_is_not_quantised() -> None:
    names = {part.name for part in plan_of("Qwen3-4B", 16).parts}
    assert "head" not in names
    tied, untied = plan_of("Qwen3-4B", 16), plan_of("Qwen3-8B", 16)
    assert part(untied, "head") == replace(part(untied, "embedding"), name="head")
    assert (
        part(plan_of("Qwen3-4B", 16, precision="fp32"), "embedding").low_bytes == 2 * part(tied, "embedding").low_bytes
    )


def test_moments_in_8_bit_but_for_small_tensors() -> None:
    eight = part(plan_of("Qwen3-0.6B", 16), "optimizer").low_bytes
    trained = plan_of("Qwen3-0.6B", 16).trained_params
    assert eight == pytest.approx(2 * trained * (1 + 4 / 256), rel=1e-9)
    small = plan_of("Qwen3-0.6B", 16, lora_rank=1)
    assert part(small, "optimizer").low_bytes == 8 * small.trained_params
    assert part(plan_of("Qwen3-0.6B", 16, optimizer="paged_adamw_8bit"), "optimizer").low_bytes == 0


def test_each_way_of_checkpointing_saves_more() -> None:
    off, on, unsloth = (
        plan_of("Qwen3-8B", 16, gradient_checkpointing=way, max_length_tokens=4096) for way in ("off", "on", "unsloth")
    )
    assert unsloth.high_bytes < on.high_bytes < off.low_bytes
    assert any("main memory" in reason for reason in unsloth.reasons)


@pytest.mark.parametrize("path", OTHER_FAMILIES, ids=lambda path: path.name.removesuffix(".config.json"))
def test_a_config_of_another_family_gives_no_plan(path: Path) -> None:
    """Also where its sizes have the names that those of Qwen3 have."""
    config, run = json.loads(path.read_text()), Run(device="cpu")
    assert memory.plan(config, run, None, 80 * GIB) is None
    assert memory.fit(config, run, 80 * GIB, "off", "seq") is None
    settled, reasons = memory.choose(config, run, None, 80 * GIB, "off")
    assert (settled.micro_batch_size, settled.gradient_checkpointing) == (1, "off")
    assert set(reasons.values()) == {"the sizes of this model are unknown"}


def test_the_same_sizes_under_a_known_name_are_planned() -> None:
    """So it is the name that decides, not a size that is missing."""
    known = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    configs = [json.loads(path.read_text()) | known for path in OTHER_FAMILIES if not path.name.startswith("t5")]
    run = Run(**ON_CARD, micro_batch_size=1)
    assert [memory.plan(config, run, None, None).verdict for config in configs] == ["unknown"] * 4


@pytest.mark.parametrize(
    "change",
    [{"model_type": "qwen3_next"}, {"architectures": ["Qwen3ForSequenceClassification"]}, {"model_type": None}],
)
def test_a_relative_of_a_known_family_is_unknown(change: dict) -> None:
    assert memory.plan(config_of("Qwen3-0.6B") | change, Run(device="cpu"), None, None) is None


def test_experts_are_counted_by_either_name() -> None:
    config = config_of("Qwen3-30B-A3B")
    renamed = {"num_local_experts" if name == "num_experts" else name: value for name, value in config.items()}
    assert Shape.of(renamed) == Shape.of(config)


def test_biases_of_a_config_are_counted() -> None:
    config = config_of("Llama-3.1-8B")
    plain, biased = (Shape.of(config | {"attention_bias": flag, "mlp_bias": flag}) for flag in (False, True))
    assert biased.params - plain.params == 32 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096)
    full = Run(method="full", load_in_4bit=False)
    assert memory.trained_params(biased, full) == biased.params


def rows(longest_tokens: int) -> SimpleNamespace:
    return SimpleNamespace(longest_tokens=longest_tokens, samples=2, tokens=2 * longest_tokens)


def test_the_rtx_5080_of_a_published_run_is_inside() -> None:
    """Unsloth, Windows, Qwen3-1.7B in 4 bit, rank 16 on all layers, limit 2048, 1 x 8, two short rows; GB of the card:
    allocated / reserved 1.41 / 1.77 with the adapter, 1.48 / 1.87 after a step."""
    run = Run(**ON_CARD, micro_batch_size=1, batch_size=8, gradient_checkpointing="unsloth", max_length_tokens=2048)
    plan = memory.plan(config_of("Qwen3-1.7B"), run, rows(128), None)
    loaded = sum(part(plan, name).low_bytes for name in ("4-bit weights", "embedding", "norms", "adapter"))
    assert loaded / 1e9 == pytest.approx(1.41, rel=0.01)
    assert (loaded + part(plan, "optimizer").low_bytes) / 1e9 == pytest.approx(1.48, rel=0.02)
    assert plan.low_bytes / 1e9 < 1.87 < plan.high_bytes / 1e9


class TestChoose:
    """The fastest settings whose high bound fits."""

    def chosen(self, name: str, available_gib: float | None, machine_way: str = "unsloth", **options):
        run = Run(**{**ON_CARD, "max_length_tokens": 2048, **options})
        available = None if available_gib is None else int(available_gib * GIB)
        settled, reasons = memory.choose(config_of(name), run, None, available, machine_way)
        return settled, memory.plan(config_of(name), settled, None, available), reasons

    def test_more_memory_is_never_slower(self) -> None:
        found = []
        for available_gib in range(4, 80, 4):
            run, plan, _ = self.chosen("Qwen3-4B", available_gib)
            found.append((run.gradient_checkpointing == "off", run.micro_batch_size))
            assert run.batch_size == 8
            assert plan.verdict == "fits" or found[-1] == (False, 1)
        assert found == sorted(found)
        assert found[-1] == (True, 8)
        assert {way for way, _ in found} == {False, True}

    def test_one_more_would_not_fit(self) -> None:
        run, plan, reasons = self.chosen("Qwen3-4B", 20)
        assert 1 <= run.micro_batch_size < run.batch_size
        larger = run.model_copy(update={"micro_batch_size": run.micro_batch_size + 1})
        assert plan.high_bytes <= 20 * GIB < memory.plan(config_of("Qwen3-4B"), larger, None, None).high_bytes
        assert reasons.keys() == {"micro_batch_size", "attention", "gradient_checkpointing"}

    def test_what_was_asked_for_stays(self) -> None:
        asked = {
            "micro_batch_size": 3,
            "gradient_checkpointing": "on",
            "attention": "eager",
            "embedding_offload": "off",
        }
        run, _, reasons = self.chosen("Qwen3-4B", 8, **asked)
        assert {name: getattr(run, name) for name in asked} == asked
        assert reasons == {}

    def test_attention_of_a_cpu_goes_by_the_length_of_the_samples(self) -> None:
        found = [
            self.chosen("Qwen3-0.6B", 60, "off", device=device, max_length_tokens=length)[0].attention
            for device, length in (("cpu", 128), ("cpu", 512), ("cuda", 128))
        ]
        assert found == ["eager", "sdpa", "sdpa"]

    def test_dropout_on_a_card_keeps_which_inputs_were_dropped(self) -> None:
        """Of each of seven adapters a byte for each number that goes in, of each token."""
        asked = {"gradient_checkpointing": "off", "micro_batch_size": 1, "max_length_tokens": 100}
        plans = [self.chosen("Qwen3-4B", 16, lora_dropout=dropout, **asked)[1] for dropout in (0.0, 0.1)]
        without, with_dropout = (part(plan, "activations").low_bytes for plan in plans)
        hidden, query, inner = 2560, 32 * 128, 9728
        assert with_dropout - without == 36 * 100 * (5 * hidden + query + inner)

    def test_the_embedding_leaves_the_card_where_nothing_else_fits(self) -> None:
        """Where the head is another matrix: of the sizes from 8B on."""
        plans = [self.chosen("Qwen3-8B", size, max_length_tokens=512) for size in (16, 8, 7.2)]
        assert [run.embedding_offload for run, _, _ in plans] == ["off", "off", "on"]
        kept, moved = plans[1][1], plans[2][1]
        assert moved.verdict == "fits"
        assert part(kept, "embedding").low_bytes == 2 * 151_936 * 4096
        assert not [one for one in moved.parts if one.name == "embedding"]
        assert any("embedding wait in main memory" in reason for reason in moved.reasons)
        assert self.chosen("Qwen3-4B", 3)[0].embedding_offload == "off"

    def test_the_smallest_where_nothing_fits(self) -> None:
        run, plan, reasons = self.chosen("Qwen3-32B", 12)
        assert (run.micro_batch_size, run.gradient_checkpointing, plan.verdict) == (1, "unsloth", "will not fit")
        assert "12.00 GiB" in reasons["micro_batch_size"]

    def test_unknown_memory_takes_one_sample_and_the_machines_way(self) -> None:
        run, plan, reasons = self.chosen("Qwen3-4B", None, "on")
        assert (run.micro_batch_size, run.gradient_checkpointing, plan.verdict) == (1, "on", "unknown")
        assert "unknown" in reasons["gradient_checkpointing"]

    def test_a_cpu_recomputes_only_where_it_must(self) -> None:
        ways = [self.chosen("Qwen3-0.6B", size, "off", device="cpu")[0].gradient_checkpointing for size in (60, 6)]
        assert ways == ["off", "on"]

    def test_evaluation_on_a_cpu_counts(self) -> None:
        """There Unsloth computes the logits of a whole held-out batch at once, so its batches are small: more than one
        sample goes together only up to 256 MiB of logits."""
        run, shape = Run(device="cpu", precision="bf16"), Shape.of(config_of("Qwen3-0.6B"))
        assert evaluation_bytes(shape, run, 8 * 64, 64) == 176 * 151_936 * 10
        assert evaluation_bytes(shape, run, 8 * 2048, 2048) == 2048 * 151_936 * 10, "one sample is never split"
        assert memory.evaluation_tokens(151_936, Run(device="cpu", precision="bf16")) == 176
        assert memory.evaluation_tokens(151_936, Run(device="cpu", backend="hf")) is None

    @pytest.mark.parametrize("what", ["seq", "batch"])
    def test_fit_is_the_largest(self, what: str) -> None:
        run = Run(**ON_CARD)
        found = memory.fit(config_of("Qwen3-8B"), run, 12 * GIB, "unsloth", what)
        name = found.pop("solved_for")
        fits, too_large = (
            memory.plan(
                config_of("Qwen3-8B"), run.model_copy(update={**found, name: found[name] + more}), None, 12 * GIB
            )
            for more in (0, 1)
        )
        assert fits.high_bytes <= 12 * GIB < too_large.high_bytes
        assert memory.fit(config_of("Qwen3-32B"), run, 12 * GIB, "unsloth", what)[name] == 0

    def test_fit_needs_the_memory(self) -> None:
        with pytest.raises(KitError, match="--fit seq"):
            memory.fit(config_of("Qwen3-8B"), Run(**ON_CARD), None, "unsloth", "seq")


def machine_of(vram_gib: float, name: str = "NVIDIA card") -> Facts:
    """With a desktop on the card, and nothing else known of its memory."""
    return Facts(gpu=(Gpu(name=name, vram_gib=vram_gib, compute_capability="8.6", display=True),))


CARDS = list(resolve.cards())


@pytest.mark.parametrize("name", resolve.preset_names())
def test_every_preset_fits_its_card(name: str) -> None:
    run = resolve.load(["--preset", name], lambda: Facts(gpu=())).run
    if name == "cpu":
        return
    size = resolve.cards().get(name, {}).get("class", name).removeprefix("vram-")
    facts = machine_of(float(size))
    run, _ = resolve.settle(run, facts)
    room = settings.choose(facts).memory_bytes.value
    model = config_of(run.model.removeprefix("Qwen/"))
    run, _ = memory.choose(model, run, None, room)
    assert memory.plan(model, run, None, room).verdict == "fits"


@pytest.mark.parametrize("name", CARDS)
def test_auto_takes_the_preset_of_a_card_of_its_class(name: str) -> None:
    """Sizes as the driver reports them: a little under the marketed ones, and 15 GiB for a T4."""
    card = next(card for card in known.table("gpus")["gpus"] if short(card["name"]) == name)
    sizes = [15] if name == "t4" else [size - 0.1 for size in card["memory_gib"]]
    found = {resolve.preset_for(machine_of(size, f"NVIDIA {card['name']}")) for size in sizes}
    assert name in found
    assert all(found_name == name or found_name in resolve.CLASSES for found_name in found)


def short(name: str) -> str:
    return re.sub(r"geforce|\W", "", name.lower())


@pytest.mark.parametrize(
    ("vram_gib", "preset"),
    [(None, "vram-8"), (6, "vram-8"), (11.6, "vram-12"), (22.5, "vram-16"), (23.7, "vram-24"), (139, "vram-32")],
)
def test_auto_takes_the_largest_class_that_a_card_holds(vram_gib: float | None, preset: str) -> None:
    assert resolve.preset_for(machine_of(vram_gib)) == preset


@pytest.mark.torch
@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_the_plan_is_what_a_training_takes(backend: str) -> None:
    """A small part of benchmarks/planner.py, which has other shapes and options."""
    grid = [(1, 256, "off", False), (4, 128, "off", True), (4, 128, "on", False)]
    found = planner.compare(TINY, {"backend": backend}, grid)
    assert found["loaded_ratio"] == pytest.approx(dict.fromkeys(found["loaded_ratio"], 1), abs=0.01)
    assert [row["ratio"] for row in found["grid"]] == pytest.approx([1, 1, 1], abs=0.1)
