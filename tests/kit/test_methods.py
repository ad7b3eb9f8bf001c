"""Every method of training: it learns, its weights are counted, it resumes to the last bit, it can be loaded."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import planner
from envcheck.facts import Facts
from kit import memory, models
from kit.backend import Backend
from kit.backend.ladder import Ladder
from kit.backend.training import training_example
from kit.options import METHODS, Run, resolve
from kit.prompt import IGNORED, Sample
from kit.run.notes import collect_notes
from kit.run.prepared import Planned
from kit.support.errors import KitError
from tests.support.processes import run_python
from tests.support.results import finding_of, record_of

ROOT = Path(__file__).parents[2]
QWEN3 = ROOT / "tests" / "data" / "qwen3"
BIG = QWEN3 / "Qwen3-1.7B.config.json"
CASES = {
    "lora": {"rank_pattern": ["q_proj=32", "down_proj=3"]},
    "rslora": {"method": "rslora"},
    "dora": {"method": "dora"},
    "ia3": {"method": "ia3", "learning_rate": 2e-2},
    "miss": {"method": "miss", "lora_rank": 24},
    "prefix": {"method": "prefix", "learning_rate": 5e-3},
    "p-tuning-v2": {"method": "p-tuning-v2", "learning_rate": 0.2},
    "prompt": {"method": "prompt", "learning_rate": 5e-2},
    "full": {"method": "full", "load_in_4bit": False, "learning_rate": 1e-3},
}


def play(backend: str, folder: Path, cases: dict, *configs: Path) -> dict:
    given = (backend, folder, json.dumps(cases), *configs)
    return record_of(run_python("tests/kit/method_scenarios.py", *given, libraries=backend))


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> dict[str, dict]:
    """Each case with plain transformers and PEFT, in one process."""
    return play("hf", tmp_path_factory.mktemp("hf"), CASES, BIG)


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
class TestEachMethod:
    def test_the_held_out_loss_falls_from_the_bases(self, played, name: str) -> None:
        got = played[name]
        if METHODS[name].learns_virtual_tokens:  # they begin at random
            assert got["before"] == pytest.approx(got["base"], rel=0.02)
        else:
            assert got["before"] == got["base"], "an adapter begins as nothing"
        assert got["after"] < min(got["before"], got["base"])

    def test_every_trained_weight_is_planned(self, played, name: str) -> None:
        got = played[name]
        assert got["trained"] == got["planned"]
        run = Run(**{"micro_batch_size": 1, "device": "cpu", "precision": "bf16", **CASES[name]})
        assert got["counts"] == {BIG.name: memory.plan(json.loads(BIG.read_text()), run, None, None).trained_params}

    def test_a_resumed_run_is_an_unbroken_one_to_the_last_bit(self, played, name: str) -> None:
        """The unbroken one had a preflight, which leaves no trace."""
        got = played[name]
        assert got["rest"] == got["losses"][2:]
        assert len(got["rest"]) == 2
        assert got["same_weights"]

    def test_answers_are_the_models(self, played, name: str) -> None:
        assert played[name]["answering"] < 0.03, "in bf16"

    def test_what_is_saved_is_what_was_trained(self, played, name: str) -> None:
        got = played[name]
        assert got["reloaded"] < 0.03, "in bf16"
        assert ("model.safetensors" if name == "full" else "adapter_model.safetensors") in got["saved"]


@pytest.mark.torch
def test_the_whole_model_is_saved_once_in_16_bit(played) -> None:
    assert played["full"]["saved"]["model.safetensors"] == pytest.approx(2 * played["full"]["trained"], rel=0.01)


@pytest.mark.torch
def test_unsloth_gives_the_same_losses_for_the_methods_it_has(played, tmp_path) -> None:
    for name, got in play("unsloth", tmp_path, {name: CASES[name] for name in ("lora", "rslora")}).items():
        assert got["backend"] == "unsloth"
        assert got["trained"] == played[name]["trained"]
        assert got["losses"] == pytest.approx(played[name]["losses"], rel=2e-3)
        assert got["rest"] == got["losses"][2:]
        assert got["same_weights"]


@pytest.mark.torch
def test_virtual_tokens_are_counted_in_no_loss(tmp_path) -> None:
    """Split sample by sample, a step has the same gradients: each part's loss has the tokens that are counted."""
    options = {"max_steps": 1, "precision": "fp32", "load_in_4bit": False, "method": "prompt"}
    given = ("gradients", "hf", tmp_path, json.dumps(options))
    got = record_of(run_python("tests/kit/scenarios.py", *given, libraries="hf"))
    assert got["tensors"] == 1
    assert got["1 x 8"] < 1e-4
    assert got["mean of means"] > 1e-2


def test_the_first_token_is_never_trained() -> None:
    """Of plain text all tokens are; behind virtual tokens the loss would have one more than is counted."""
    assert training_example(Sample(0, [5, 6, 7], [5, 6, 7])) == {"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}


def settled(**options: object) -> tuple[Run, dict[str, str]]:
    return resolve.settle(Run(**options), Facts(gpu=()))


@pytest.mark.parametrize(
    ("options", "id", "fix"),
    [
        ({"method": "ia3", "backend": "unsloth"}, "method-needs-hf", "--backend auto"),
        ({"method": "full"}, "full-needs-16-bit", "--method full --no-load-in-4bit"),
        ({"method": "prefix", "gradient_checkpointing": "on"}, "method-cannot-recompute", "--gradient-checkpointing"),
        ({"rank_pattern": ["q_prok=8"]}, "unknown-layer", "--rank-pattern"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said_before_anything_is_loaded(options, id: str, fix: str) -> None:
    with pytest.raises(KitError) as raised:
        settled(**options)
    (finding,) = raised.value.findings
    assert finding.id == id
    assert finding.fix[0].startswith(fix)
    assert raised.value.status == 2


def test_the_nearest_layer_is_named() -> None:
    with pytest.raises(KitError, match="Did you mean q_proj"):
        settled(rank_pattern=["q_prok=8"])


@pytest.mark.parametrize("pair", ["q_proj", "q_proj=0", "q_proj=-3", "=8", "q_proj=8=9"])
def test_ranks_are_checked(pair: str) -> None:
    with pytest.raises(KitError, match="rank_pattern takes name=rank"):
        resolve.load(["--rank-pattern", pair], lambda: Facts(gpu=()))


def test_auto_takes_peft_for_what_unsloth_has_not_and_says_why() -> None:
    run, reasons = settled(method="dora")
    assert run.backend == "hf"
    assert "dora is no method of Unsloth's" in reasons["backend"]
    run, reasons = settled(method="rslora")
    assert run.backend == "auto"
    assert "backend" not in reasons


@pytest.mark.parametrize("method", ["prefix", "p-tuning-v2"])
def test_learnt_keys_and_values_leave_nothing_to_compute_again(method: str) -> None:
    run, reasons = settled(method=method)
    assert run.gradient_checkpointing == "off"
    assert "cache" in reasons["gradient_checkpointing"]


@pytest.mark.parametrize("targets", [["lm_head"], ["q_proj", "lm_head"]])
def test_an_adapter_on_the_head_is_refused(targets: list[str]) -> None:
    """The loss goes past it: TRL refuses it, and Unsloth on a card trains the whole head in its place."""
    flags = ["--model", "tiny", "--target-modules", *targets]
    found = finding_of(resolve.settle, resolve.load(flags, lambda: Facts(gpu=())).run, Facts(gpu=()))
    assert found.id == "head-not-adapted"
    assert found.fix[0].startswith("--target-modules q_proj")
    assert "lm_head" not in found.fix[0]


def notes(*flags: str) -> list[str]:
    command = resolve.load(["--preset", "cpu", *flags], lambda: Facts(gpu=()))
    run, _ = resolve.settle(command.run, Facts(gpu=()))
    planned = Planned(command, run, {}, Facts(gpu=()), (), models.find("tiny"), None)
    return collect_notes(planned, Backend("hf", ""), None)


def test_an_option_without_effect_is_noted() -> None:
    assert any(note.startswith("lora_rank has no effect") for note in notes("--method", "prompt", "--lora-rank", "8"))
    assert any(note.startswith("virtual_tokens has no effect") for note in notes("--virtual-tokens", "9"))
    assert not any("no effect" in note for note in notes("--method", "prompt", "--virtual-tokens", "9"))


def test_a_file_that_repeats_the_defaults_is_no_reason_for_a_note(tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(resolve.to_toml(Run(method="prompt"), {}))
    assert not any("no effect" in note for note in notes("--config", str(file)))


ON_CARD = {"device": "cuda", "precision": "bf16", "optimizer": "adamw_8bit", "held_out_rows": 0,
           "gradient_checkpointing": "off", "micro_batch_size": 1, "backend": "hf"}  # fmt: skip


class TestLadder:
    """What is given up where memory runs out."""

    def ladder(self, **options: object) -> Ladder:
        samples = SimpleNamespace(lengths=np.array([30, 60, 100]))
        run = Run(**{**ON_CARD, "micro_batch_size": 4, **options})
        return Ladder(SimpleNamespace(), run, samples, lambda *_, **__: None)

    def test_virtual_tokens_stand_in_front_of_each_sample(self) -> None:
        """So many short samples at once are no more than the few long ones that the preflight tries."""
        assert self.ladder().budget_tokens == 4 * 100
        assert self.ladder(method="prompt", virtual_tokens=50).budget_tokens == 4 * 150

    def test_the_last_rung_of_learnt_keys_is_one_sample(self) -> None:
        ladder = self.ladder(method="prefix", virtual_tokens=50)
        ladder.step_down("training", 1, "no room")
        ladder.step_down("training", 1, "no room")
        assert ladder.budget_tokens == 150
        with pytest.raises(KitError) as raised:
            ladder.step_down("training", 1, "no room")
        (finding,) = raised.value.findings
        assert "100 tokens" in finding.why, "of the sample itself"
        assert not any("checkpointing" in fix for fix in finding.fix)


class TestPlan:
    def plan(self, **options: object) -> memory.Plan:
        return memory.plan(json.loads(BIG.read_text()), Run(**{**ON_CARD, **options}), None, None)

    def part(self, name: str, **options: object) -> int:
        return next((part.low_bytes for part in self.plan(**options).parts if part.name == name), 0)

    def test_all_weights_and_their_moments(self) -> None:
        full = {"method": "full", "load_in_4bit": False}
        params = 1_720_574_976
        kept = sum(self.part(name, **full) for name in ("weights", "embedding", "norms"))
        assert kept == self.part("gradients", **full) == 4 * params
        assert self.part("adapter", **full) == 0
        assert self.part("gradients", **full, adapter_precision="bf16") == 2 * params
        assert self.part("optimizer", **full, optimizer="adamw_torch_fused") == 8 * params

    def test_embeddings_keep_moments_in_32_bit(self) -> None:
        """As transformers asks of bitsandbytes; the rest, but for small tensors, in 8."""
        embedding = 151_936 * 2048
        rest = 1_720_574_976 - embedding
        moments = self.part("optimizer", method="full", load_in_4bit=False)
        assert moments == pytest.approx(8 * embedding + 2 * rest * (1 + 4 / 256), rel=1e-3)
        assert self.part("optimizer", method="p-tuning-v2") == 8 * 20 * 28 * 2 * 1024

    def test_virtual_tokens_take_their_share(self) -> None:
        for method in (name for name, record in METHODS.items() if record.learns_virtual_tokens):
            few, many = (self.part("activations", method=method, virtual_tokens=tokens) for tokens in (1, 100))
            assert few < many

    def test_ranks_of_some_layers_count(self) -> None:
        plain, more = self.plan(), self.plan(rank_pattern=["q_proj=32"])
        assert more.trained_params - plain.trained_params == 16 * 28 * (2048 + 2048)


@pytest.mark.torch
def test_the_plan_of_a_methods_activations_is_what_autograd_keeps() -> None:
    """One method that adds to each layer and one that stands before it; the others by benchmarks/planner.py."""
    for method in ("ia3", "p-tuning-v2"):
        found = planner.compare(models.TINY, {"backend": "hf", "method": method}, [(4, 128, "off", True)])
        assert [row["ratio"] for row in found["grid"]] == pytest.approx([1], abs=0.05)


@pytest.mark.torch
def test_a_run_of_all_weights_leaves_a_model(kit_train, tmp_path) -> None:
    options = ("--method", "full", "--no-load-in-4bit", "--max-steps", 2, "--evaluations", 0)
    done = kit_train("--config", "examples/identity.toml", *options, "--output", tmp_path / "run", libraries="hf")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert not (tmp_path / "run" / "adapter").exists()
    assert "run/model" in re.sub(r"[│\s]", "", done.stderr), "the box breaks long names"
    assert "full is no method of Unsloth's" in done.stderr
