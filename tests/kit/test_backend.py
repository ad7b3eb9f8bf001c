"""The real libraries: both backends from one adapter start, the adapter as plain PEFT, the guards."""

import json
import shutil
from pathlib import Path

import pytest

from kit.models import TINY
from tests.support.processes import run_python
from tests.support.results import record_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.torch

MADE = """
import json, sys, trl
from pathlib import Path
from kit import backend, data, models, prompt
from kit.options import Run
from kit.support.errors import KitError
asked, given = json.loads(sys.argv[1]), {}
class Config(trl.SFTConfig):
    def __init__(self, **options):
        given.update(options)
        super().__init__(**options)
        vars(self).update(asked)
trl.SFTConfig = Config
run = Run(device="cpu", backend="hf", precision="bf16", optimizer="adamw_torch_fused", gradient_checkpointing="off",
          pin_memory="off", micro_batch_size=4, max_steps=1, load_in_4bit=False, data="examples/identity.jsonl")
model = models.find("tiny")
chat = prompt.load(model, run.template)
loading = backend.Loading.of(run)
loaded = backend.adapt(backend.load(model, loading, backend.start(loading), chat), run)
rows = data.read(run, chat).train
try:
    made = backend.trainer(loaded, run, rows, Path(sys.argv[2]), lambda *_, **__: None).args
    print(json.dumps({"cards": made.n_gpu, "batch": made.train_batch_size, "asked": run.batch_size,
                      "padding_free": given["padding_free"]}))
except KitError as error:
    print(json.dumps({"finding": error.findings[0].id}))
"""
FIVE_STEPS = """
import json, sys
from pathlib import Path
from kit import backend, data, models, prompt
from kit.options import Run
asked = json.loads(sys.argv[1])
run = Run(**dict(device="cpu", precision="bf16", optimizer="adamw_torch_fused", gradient_checkpointing="off",
                 pin_memory="off", micro_batch_size=4, max_steps=5, learning_rate=2e-3,
                 data="examples/identity.jsonl") | asked)
class Steps:
    losses = []
    def on_step(self, step, metrics): self.losses.append(metrics["loss"])
    def stop_requested(self): return False
    def on_begin(self): pass
def ignore(kind, text, **facts): pass
model = models.find("tiny")
chat = prompt.load(model, run.template)
rows = data.read(run, chat)
loading = backend.Loading.of(run)
chosen = backend.start(loading)
loaded = backend.adapt(backend.load(model, loading, chosen, chat), run)
quantised = sum(type(module).__module__.startswith("bitsandbytes") for module in loaded.model.modules())
start = {name: value for name, value in loaded.model.state_dict().items() if "lora_" in name}
digest = float(sum(value.double().abs().sum() for value in start.values()))
trained = sum(value.numel() for value in loaded.model.parameters() if value.requires_grad)
trainer = backend.trainer(loaded, run, rows.train, Path(sys.argv[2]) / "scratch", ignore)
backend.listen(trainer, Steps())
if sys.argv[3] == "evaluate-first":
    backend.held_out_loss(trainer, rows.held_out, lambda *_: None)
parts, seen = [], []
step, look_up = trainer.training_step, trainer.data_collator
def counting(model, inputs, items):
    parts.append(len(trainer.split(inputs)))
    return step(model, inputs, items)
def collating(examples):
    seen.append([tuple(example["input_ids"]) for example in examples])
    return look_up(examples)
trainer.training_step, trainer.data_collator = counting, collating
trainer.train()
by_ids = {tuple(sample.ids): sample.row for sample in rows.train}
backend.save_adapter(loaded, Path(sys.argv[2]) / "adapter")
print(json.dumps({"losses": Steps.losses, "start": digest, "linear4bit": quantised, "trained": trained,
                  "backend": chosen.name, "parts": parts, "rows": [[by_ids[ids] for ids in batch] for batch in seen]}))
"""


def five_steps(backend: str, folder: Path, evaluate: str = "", **options: object) -> dict:
    asked = json.dumps({"backend": backend, **options})
    return record_of(run_python("-c", FIVE_STEPS, asked, folder, evaluate, libraries=backend))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, dict]:
    return {name: five_steps(name, tmp_path_factory.mktemp(name)) for name in ("unsloth", "hf")}


def test_both_backends_give_the_same_losses(trained) -> None:
    unsloth, hf = trained["unsloth"], trained["hf"]
    assert (unsloth["backend"], hf["backend"]) == ("unsloth", "hf")
    assert unsloth["start"] == hf["start"], "the same adapter start"
    assert unsloth["losses"] == pytest.approx(hf["losses"], rel=1e-3)
    assert len(set(unsloth["losses"])) == 5
    assert unsloth["losses"][-1] < unsloth["losses"][0]


@pytest.mark.parametrize("backend", ["unsloth", "hf"])
def test_a_step_is_the_same_however_it_is_split(backend: str, tmp_path) -> None:
    """In one piece or sample by sample, the loss is the mean over the step's trained tokens. In fp32: no rounding."""
    options = {"precision": "fp32", "load_in_4bit": False, "batch_size": 8}
    whole = five_steps(backend, tmp_path / "whole", micro_batch_size=8, **options)
    single = five_steps(backend, tmp_path / "single", micro_batch_size=1, **options)
    assert max(whole["parts"]) == 1
    assert max(single["parts"]) > 2
    assert whole["rows"] == single["rows"]
    assert whole["losses"] == pytest.approx(single["losses"], rel=1e-5)


def test_two_epochs_see_every_row_twice_in_two_orders(tmp_path) -> None:
    got = five_steps("unsloth", tmp_path, max_steps=None, epochs=2, batch_size=16)
    rows = [row for batch in got["rows"] for row in batch]
    half = len(rows) // 2
    assert sorted(rows[:half]) == sorted(rows[half:]) == sorted(set(rows))
    assert rows[:half] != rows[half:]
    assert [len(batch) for batch in got["rows"]] == [16] * 5 + [2] + [16] * 5 + [2]


def test_all_seven_linears_of_all_layers_are_quantised_and_adapted(trained) -> None:
    from kit import memory, models
    from kit.options import Run

    shape = memory.Shape.of(models.find("tiny").config)
    for got in trained.values():
        assert got["linear4bit"] == 7 * shape.layers
        assert got["trained"] == memory.trained_params(shape, Run(lora_rank=16))


def test_an_evaluation_before_training_changes_nothing(trained, tmp_path) -> None:
    """bitsandbytes packs weights at the first forward without gradients; gradients through them would be wrong."""
    assert five_steps("hf", tmp_path, "evaluate-first")["losses"] == trained["hf"]["losses"]


def test_the_adapter_is_plain_peft(tmp_path) -> None:
    five_steps("unsloth", tmp_path)
    code = (
        "import sys, torch; from peft import PeftModel; from transformers import AutoModelForCausalLM;"
        "base = AutoModelForCausalLM.from_pretrained('kit/models/assets/tiny');"
        "ids = torch.tensor([[1, 5, 9]]); before = base(ids).logits;"
        "tuned = PeftModel.from_pretrained(base, sys.argv[1]); print(float((tuned(ids).logits - before).abs().max()))"
    )
    assert record_of(run_python("-c", code, tmp_path / "adapter", libraries="hf")) > 0


LOAD = """
import json, sys
from kit import backend, models, prompt
from kit.support.errors import KitError
chat = prompt.load(models.find("tiny"), "auto")
loading = backend.Loading("cpu", "fp32", load_in_4bit=False, max_length_tokens=64, backend=sys.argv[1])
chosen = backend.start(loading)
said = []
for folder in sys.argv[2:]:
    try:
        said.append(backend.load(models.find(folder), loading, chosen, chat).model.config._attn_implementation)
    except KitError as error:
        said.append([found.id for found in error.findings])
print(json.dumps({"said": said}))
"""


@pytest.mark.parametrize("backend", ["hf", "unsloth"])
def test_what_a_strangers_config_asks_for_is_not_run_and_never_a_traceback(backend, tmp_path) -> None:
    asked = {
        "an-attention-that-is-not-here": {"attn_implementation": "flash_attention_2"},
        "code": {"auto_map": {"AutoModelForCausalLM": "theirs.Model", "AutoConfig": "theirs.Config"}},
        "a-model-that-is-code": {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}},
        "a-number-that-is-none": {"num_hidden_layers": "many"},
    }
    for name, fields in asked.items():
        shutil.copytree(TINY, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | fields))
        (tmp_path / name / "theirs.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n")
    folders = [str(tmp_path / name) for name in asked]
    said = record_of(run_python("-c", LOAD, backend, *folders, libraries=backend))["said"]
    assert said == ["sdpa", "sdpa", ["model-cannot-be-loaded"], ["model-cannot-be-loaded"]]
    assert not (tmp_path / "it-ran").exists()


def made_with(folder: Path, **asked: object) -> dict:
    """What the trainer has, where the libraries make these of its arguments."""
    return record_of(run_python("-c", MADE, json.dumps(asked), folder, libraries="hf"))


def test_one_card_is_used_where_torch_sees_several(tmp_path) -> None:
    """With more, transformers copies the model to each and takes as many times the samples a step."""
    got = made_with(tmp_path, _n_gpu=2)
    assert got["cards"] == 1
    assert got["batch"] == got["asked"]
    assert got["padding_free"] is False


def test_batches_without_a_mask_are_refused(tmp_path) -> None:
    assert made_with(tmp_path, padding_free=True) == {"finding": "batches-without-mask"}
