"""A model's positions on a card: they are its own, also where more tokens are asked for than it has positions."""

import pytest

from kit import models
from tests.support.results import record_of

LOAD = """
import json, sys
from kit import backend, models, prompt
model = models.find("tiny")
loading = backend.Loading("cuda", "bf16", load_in_4bit=False, max_length_tokens=int(sys.argv[1]), backend="unsloth")
loaded = backend.load(model, loading, backend.start(loading), prompt.load(model, "auto"))
rotary = next(part for part in loaded.model.modules() if hasattr(part, "inv_freq"))
print(json.dumps({"scaling": loaded.model.config.rope_parameters, "frequencies": rotary.inv_freq.float().tolist(),
                  "longest": loaded.model.max_seq_length}))
"""


@pytest.fixture(scope="module")
def positions() -> int:
    return models.find("tiny").config["max_position_embeddings"]


def test_more_tokens_than_positions_stretch_nothing(on_cards, positions) -> None:
    within = record_of(on_cards("-c", LOAD, positions))
    beyond = record_of(on_cards("-c", LOAD, 2 * positions))
    assert (within["longest"], beyond["longest"]) == (positions, 2 * positions), "nothing is cut either"
    assert beyond["scaling"] == within["scaling"]
    assert beyond["frequencies"] == within["frequencies"]
