"""The teaching module against PEFT, in one process of its own: whoever imports Unsloth first patches PEFT.

python tests/kit/test_lora_from_scratch.py FOLDER      prints what the tests judge, as one JSON object
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from kit import models
from kit.memory import Shape, trained_params
from kit.models import adapters
from kit.options import LINEAR_LAYERS, Run
from kit.support.errors import KitError
from tests.kit.exports import write_adapter
from tests.support.processes import run_python
from tests.support.results import record_of

ROOT = Path(__file__).parents[2]
TINY = models.find("tiny")
RANK, ALPHA, STEPS = 6, 9, 6  # a scale of 1.5
LAYERS = 4 * len(LINEAR_LAYERS)
ROUNDING = 1e-4  # of float32 through four layers, beside logits of the size of 10
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    return record_of(run_python(__file__, tmp_path_factory.mktemp("from-scratch"), libraries="hf"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("zero", ["A", "B"])
@pytest.mark.parametrize("init", ["kaiming", "normal"])
def test_the_adapted_model_starts_equal_to_the_base_to_the_last_bit(seen, precision, init, zero) -> None:
    assert seen["start"][f"{precision} {init} {zero}"] == {"equal": True, "dtype": f"torch.{precision}"}


def test_start_values_have_the_spread_that_is_said(seen) -> None:
    """Uniform within 1 / sqrt(d_in), whose standard deviation is that / sqrt(3); normal of 0.02."""
    assert seen["spread"]["kaiming"] == pytest.approx(256**-0.5 / 3**0.5, rel=0.05)
    assert seen["spread"]["normal"] == pytest.approx(0.02, rel=0.05)


def test_the_first_gradient_is_that_of_the_matrix_that_is_zero(seen) -> None:
    assert seen["first"]["B"] == {"A": [0.0] * LAYERS, "moving B": LAYERS}
    assert seen["first"]["A"] == {"B": [0.0] * LAYERS, "moving A": LAYERS}


def test_only_the_adapter_is_trained(seen) -> None:
    shape = Shape.of(TINY.config)
    everywhere, few = Run(lora_rank=RANK), Run(lora_rank=RANK, target_modules=("q_proj", "v_proj"))
    assert seen["trained"] == {"all": trained_params(shape, everywhere), "q and v": trained_params(shape, few)}
    assert seen["base_changed"] == []


def test_peft_reads_its_file_and_computes_the_same(seen) -> None:
    assert seen["peft"]["adapters"] == LAYERS
    assert seen["peft"]["logits"] < ROUNDING
    assert seen["peft"]["effect"] > 100 * ROUNDING, "an adapter that changes nothing would be equal too"


def test_the_same_gradients_as_peft(seen) -> None:
    assert len(seen["peft"]["gradients"]) == 2 * LAYERS
    assert max(seen["peft"]["gradients"].values()) < 1e-4


def test_the_same_losses_as_peft_step_by_step(seen) -> None:
    mine, theirs = seen["losses"]["mine"], seen["losses"]["peft"]
    assert mine == pytest.approx(theirs, rel=1e-4)
    assert len(mine) == STEPS
    assert mine[-1] < 0.9 * mine[0]


def test_it_reads_what_peft_has_trained(seen) -> None:
    assert seen["peft"]["read_back"] < ROUNDING


def test_saved_and_loaded_is_the_same_to_the_last_bit(seen) -> None:
    assert seen["saved"] == {"equal": True, "tensors": 2 * LAYERS}


def test_merged_is_unmerged(seen) -> None:
    assert seen["merged"]["logits"] < ROUNDING
    assert seen["merged"]["weights_moved"] > 100 * ROUNDING
    assert seen["merged"]["beside_peft"] < ROUNDING
    assert seen["merged"]["back"] < 1e-6
    assert seen["merged"]["as_unloaded"]
    assert seen["merged"]["same_names_as_base"]


def test_each_adapter_has_its_own_answers(seen) -> None:
    assert seen["switched"] == {"one": True, "two": True, "one again": True, "base": True, "differ": True}


def test_a_merged_adapter_is_taken_off_before_another_answers(seen) -> None:
    assert seen["switched_while_merged"] < ROUNDING
    assert seen["replaced_while_merged"] < ROUNDING


def test_what_is_more_than_the_lesson_is_refused(seen) -> None:
    assert seen["refused"] == {
        "no such name": "no-such-adapter",
        "no such layer": "no-such-adapter",
        "rslora": "not-plain-lora",
        "ranks of their own": "not-plain-lora",
        "another model": "adapter-does-not-fit",
        "no folder": "no-adapter",
    }


# in the process of its own


class Lesson:
    """Models, one batch, and what is computed with them."""

    def __init__(self, folder: Path):
        import torch

        self.folder, generator = folder, torch.Generator().manual_seed(0)
        self.ids = torch.randint(3, TINY.config["vocab_size"], (3, 24), generator=generator)
        self.base = self.logits(self.model())

    def model(self, precision="float32"):
        import torch
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(TINY.location, dtype=getattr(torch, precision))

    def adapted(self, seed=0, name="lora", model=None):
        """Both matrices random: every product counts."""
        import torch

        from notebooks import lora_from_scratch as lora

        torch.manual_seed(seed)
        model = model or self.model()
        lora.apply(model, RANK, ALPHA, name=name)
        for layer in lora.layers(model).values():
            torch.nn.init.normal_(layer.B[name], std=0.03)
        return model

    def logits(self, model):
        import torch

        with torch.no_grad():
            return model(input_ids=self.ids).logits

    def loss(self, model):
        return model(input_ids=self.ids, labels=self.ids).loss

    def losses(self, model):
        import torch

        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
        found = []
        for _ in range(STEPS):
            loss = self.loss(model)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        return found


def largest(difference) -> float:
    return difference.abs().max().item()


def starts(lesson):
    import torch

    from notebooks import lora_from_scratch as lora

    found, spread, first = {}, {}, {}
    for precision in ("float32", "bfloat16"):
        base = lesson.logits(lesson.model(precision))
        for init in ("kaiming", "normal"):
            for zero in "AB":
                model = lesson.model(precision)
                lora.apply(model, 64, 128, init=init, zero=zero)
                got = lesson.logits(model)
                found[f"{precision} {init} {zero}"] = {"equal": torch.equal(got, base), "dtype": str(got.dtype)}
                q_proj = model.model.layers[0].self_attn.q_proj
                spread[init] = q_proj.A["lora"].std().item() if zero == "B" else spread.get(init)
    for zero, other in ("AB", "BA"):
        model = lesson.model()
        lora.apply(model, RANK, ALPHA, zero=zero)
        lesson.loss(model).backward()
        norms = {side: [getattr(layer, side)["lora"].grad.norm().item() for layer in lora.layers(model).values()]
                 for side in "AB"}  # fmt: skip
        first[zero] = {other: norms[other], f"moving {zero}": sum(norm > 0 for norm in norms[zero])}
    return {"start": found, "spread": spread, "first": first}


def beside_peft(lesson):
    import torch
    from peft import PeftModel

    from notebooks import lora_from_scratch as lora

    mine = lesson.adapted()
    lora.save(mine, lesson.folder / "mine")
    theirs = PeftModel.from_pretrained(lesson.model(), str(lesson.folder / "mine"), is_trainable=True)
    before = lesson.logits(mine)
    found = {
        "adapters": sum(name.endswith("lora_A.default") for name, _ in theirs.named_modules()),
        "logits": largest(before - lesson.logits(theirs)),
        "effect": largest(before - lesson.base),
    }
    for model in (mine, theirs):
        lesson.loss(model).backward()
    named = dict(theirs.named_parameters())
    gradients = {}
    for path, layer in lora.layers(mine).items():
        for side in "AB":
            other = named[f"base_model.model.{path}.lora_{side}.default.weight"].grad
            gradients[f"{path} {side}"] = largest(getattr(layer, side)["lora"].grad - other) / largest(other)
    for model in (mine, theirs):
        model.zero_grad()
    losses = {"mine": lesson.losses(mine), "peft": lesson.losses(theirs)}
    after = {name.replace(".base.", "."): weight for name, weight in mine.named_parameters()}
    plain = lesson.model().named_parameters()
    changed = [name for name, weight in plain if not torch.equal(weight, after[name])]
    theirs.save_pretrained(lesson.folder / "theirs")
    again = lesson.model()
    lora.load(again, lesson.folder / "theirs")
    found |= {"gradients": gradients, "read_back": largest(lesson.logits(again) - lesson.logits(theirs))}
    return {"peft": found, "losses": losses, "base_changed": changed}


def kept(lesson):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    from notebooks import lora_from_scratch as lora

    model, again = lesson.adapted(), lesson.model()
    before = lesson.logits(model)
    lora.save(model, lesson.folder / "kept")
    lora.load(again, lesson.folder / "kept")
    adapters.check(adapters.find(lesson.folder / "kept"), TINY)  # as kit.chat and kit.merge do before they load one
    saved = {"equal": torch.equal(lesson.logits(again), before),
             "tensors": len(load_file(lesson.folder / "kept" / "adapter_model.safetensors"))}  # fmt: skip

    q_proj = model.model.layers[0].self_attn.q_proj
    weight = q_proj.base.weight.clone()
    lora.merge(model)
    theirs = PeftModel.from_pretrained(lesson.model(), str(lesson.folder / "kept")).merge_and_unload()
    found = {
        "logits": largest(lesson.logits(model) - before),
        "weights_moved": largest(q_proj.base.weight - weight),
        "beside_peft": largest(q_proj.base.weight - theirs.model.layers[0].self_attn.q_proj.weight),
    }
    lora.unmerge(model)
    found["back"] = largest(q_proj.base.weight - weight)
    lora.merge(model)
    merged = lesson.logits(model)
    lora.unload(model)
    found["as_unloaded"] = torch.equal(lesson.logits(model), merged)
    found["same_names_as_base"] = list(model.state_dict()) == list(lesson.model().state_dict())
    return {"saved": saved, "merged": found}


def several(lesson):
    import torch

    from notebooks import lora_from_scratch as lora

    alone = [lesson.logits(lesson.adapted(seed)) for seed in (1, 2)]
    model = lesson.adapted(2, "two", lesson.adapted(1, "one"))

    def answers(name):
        lora.switch(model, name)
        return lesson.logits(model)

    found = {
        "one": torch.equal(answers("one"), alone[0]),
        "two": torch.equal(answers("two"), alone[1]),
        "one again": torch.equal(answers("one"), alone[0]),
        "base": torch.equal(answers(None), lesson.base),
        "differ": not torch.equal(*alone),
    }
    lora.switch(model, "one")
    trained = {"all": sum(weight.numel() for weight in model.parameters() if weight.requires_grad)}
    lora.merge(model)
    lora.merge(model)  # twice is once
    off = largest(answers("two") - alone[1])
    lora.merge(model)
    lesson.adapted(1, "two", model)
    few = lesson.model()
    lora.apply(few, RANK, ALPHA, targets=("q_proj", "v_proj"))
    trained["q and v"] = sum(weight.numel() for weight in few.parameters() if weight.requires_grad)
    return {"switched": found, "switched_while_merged": off, "trained": trained,
            "replaced_while_merged": largest(lesson.logits(model) - alone[0])}  # fmt: skip


def refused(lesson):
    from notebooks import lora_from_scratch as lora

    folder = lesson.folder
    write_adapter(folder / "rslora", use_rslora=True)
    write_adapter(folder / "ranks", rank_pattern={"q_proj": 2})
    write_adapter(folder / "deeper", layers=5)
    tried = {
        "no such name": lambda: lora.switch(lesson.adapted(), "other"),
        "no such layer": lambda: lora.apply(lesson.model(), RANK, ALPHA, targets=("query",)),
        "rslora": lambda: lora.load(lesson.model(), folder / "rslora"),
        "ranks of their own": lambda: lora.load(lesson.model(), folder / "ranks"),
        "another model": lambda: lora.load(lesson.model(), folder / "deeper"),
        "no folder": lambda: lora.load(lesson.model(), folder / "nowhere"),
    }
    return {"refused": {name: _said(attempt) for name, attempt in tried.items()}}


def _said(attempt) -> str:
    try:
        attempt()
    except KitError as error:
        return error.findings[0].id
    return "nothing"


if __name__ == "__main__":
    lesson = Lesson(Path(sys.argv[1]))
    parts = (starts, beside_peft, kept, several, refused)
    print(json.dumps({name: value for part in parts for name, value in part(lesson).items()}))
