"""The real libraries: both backends from one adapter start, the adapter as plain PEFT, the guards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

FIVE_STEPS = """
import json, sys
from pathlib import Path
from kit import backend, config, data, models, prompt
run = config.Run(device="cpu", precision="bf16", optimizer="adamw_torch_fused", gradient_checkpointing="off",
                 pin_memory="off", micro_batch_size=4, max_steps=5,
                 learning_rate=2e-3, data=Path("examples/identity.jsonl"), backend=sys.argv[1])
class Steps:
    losses = []
    def on_step(self, step, metrics): self.losses.append(metrics["loss"])
    def stop_requested(self): return False
model = models.find("tiny")
rows = data.read(run, prompt.load(model, "auto"))
chosen = backend.start(run)
loaded = backend.adapt(backend.load(model, run, chosen), run)
quantised = sum(type(module).__module__.startswith("bitsandbytes") for module in loaded.model.modules())
start = {name: value for name, value in loaded.model.state_dict().items() if "lora_" in name}
digest = float(sum(value.double().abs().sum() for value in start.values()))
trained = sum(value.numel() for value in loaded.model.parameters() if value.requires_grad)
trainer = backend.trainer(loaded, run, rows.train, rows.held_out, Path(sys.argv[2]) / "scratch", Steps())
if sys.argv[3] == "evaluate-first":
    backend.held_out_loss(trainer, lambda *_: None)
trainer.train()
backend.save_adapter(loaded, Path(sys.argv[2]) / "adapter")
print(json.dumps({"losses": Steps.losses, "start": digest, "linear4bit": quantised, "trained": trained,
                  "backend": chosen.name}))
"""


def five_steps(backend: str, folder: Path, evaluate: str = "") -> dict:
    done = subprocess.run([sys.executable, "-c", FIVE_STEPS, backend, str(folder), evaluate],
                          cwd=ROOT, capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


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


def test_all_seven_linears_of_all_layers_are_quantised_and_adapted(trained) -> None:
    from kit import memory, models
    from kit.config import LINEAR_LAYERS

    shape = memory.Shape.of(models.find("tiny").config)
    for got in trained.values():
        assert got["linear4bit"] == 7 * shape.layers
        assert got["trained"] == shape.lora_params(16, LINEAR_LAYERS)


def test_an_evaluation_before_training_changes_nothing(trained, tmp_path) -> None:
    """bitsandbytes packs weights at the first forward without gradients; gradients through them would be wrong."""
    assert five_steps("hf", tmp_path, "evaluate-first")["losses"] == trained["hf"]["losses"]


def test_the_adapter_is_plain_peft(tmp_path) -> None:
    five_steps("unsloth", tmp_path)
    code = (
        "import sys, torch; from peft import PeftModel; from transformers import AutoModelForCausalLM;"
        "base = AutoModelForCausalLM.from_pretrained('kit/assets/tiny');"
        "ids = torch.tensor([[1, 5, 9]]); before = base(ids).logits;"
        "tuned = PeftModel.from_pretrained(base, sys.argv[1]); print(float((tuned(ids).logits - before).abs().max()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "adapter")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) > 0
