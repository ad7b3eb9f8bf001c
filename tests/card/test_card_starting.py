"""What Unsloth makes of the environment the kit starts it in: where it writes, what it compiles, how it batches."""

import json
from pathlib import Path

import pytest

from tests.support.results import record_of

ROWS = 400  # more than the hundred that Unsloth looks at for answers that are all masked
LOOK = """
import json, sys
from pathlib import Path
from kit import backend, data, models, prompt
from kit.backend import training
from kit.options import Run
run = Run(device="cuda", backend="unsloth", precision="bf16", optimizer="adamw_8bit", gradient_checkpointing="off",
          pin_memory="off", micro_batch_size=4, max_steps=1, held_out_rows=0, data=sys.argv[1])
model = models.find("tiny")
chat = prompt.load(model, run.template)
loading = backend.Loading.of(run)
loaded = backend.adapt(backend.load(model, loading, backend.start(loading), chat), run)
rows, read, look_up = data.read(run, chat).train, [], training.training_example
training.training_example = lambda sample: read.append(sample.row) or look_up(sample)
trainer = backend.trainer(loaded, run, rows, Path(sys.argv[2]), lambda *_, **__: None)
from unsloth.models import _block_compile
from unsloth_zoo import compiler
from unsloth_zoo.fused_losses import chunked_logprob, fused_linear
print(json.dumps({
    "padding_free": [trainer.padding_free, trainer.args.padding_free], "samples": len(rows), "read": len(read),
    "compiles": _block_compile._enabled(), "folder": compiler.UNSLOTH_COMPILE_LOCATION,
    "written_by": sys.modules[type(trainer).__mro__[2].__module__].__file__,
    "chunk_gib": [chunked_logprob._CHUNK_GB, fused_linear._CHUNK_GB],
}))
"""


@pytest.fixture(scope="module")
def found(on_cards, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("rows")
    asked = [{"question": f"What is {number} plus one?", "answer": f"{number + 1}."} for number in range(ROWS)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    return record_of(on_cards("-c", LOOK, folder / "sums.jsonl", folder / "scratch"))


def test_a_batch_has_a_mask_and_not_every_row_is_read_to_decide_it(found: dict) -> None:
    assert found["padding_free"] == [False, False]
    assert found["samples"] == ROWS
    assert found["read"] < ROWS / 2


def test_layers_are_not_compiled_and_chunks_of_the_loss_have_one_size(found: dict) -> None:
    assert found["compiles"] is False
    assert found["chunk_gib"] == [0.5, 0.5]


def test_trainers_are_written_into_the_cache_for_this_user_alone(found: dict) -> None:
    folder = Path(found["folder"])
    assert Path(found["written_by"]).parent == folder
    assert folder.name == "unsloth"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert Path.cwd() not in folder.parents
