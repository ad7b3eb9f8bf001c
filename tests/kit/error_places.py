"""Every text of tests/support/error_texts.py raised at every place of a run, for test_steps.py: prints one JSON object.

python tests/kit/error_places.py FOLDER      with transformers and PEFT

{place: {name of the text: what came of it}}: "went on", or the id of the finding that the run ends with.
"""

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from kit import backend, models, prompt
from kit.backend import adapters_in_use, device_errors, loading, methods, state
from kit.backend.generation import TokenStream, stream_answer
from kit.backend.training import collate
from kit.options.sampling import Sampling
from kit.run import fit, measuring
from kit.support.errors import KitError
from tests.kit.scenarios import Listener, Training
from tests.support.error_texts import CARD, KERNEL, MEMORY, ON_A_FULL_CARD, error_of_text

FAILURES = MEMORY | ON_A_FULL_CARD | CARD | KERNEL
EXACT = {"precision": "fp32", "load_in_4bit": False}


class Struck(torch.autograd.Function):
    """What comes in goes out; on the way back it strikes."""

    strike: Callable[[], None]

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        Struck.strike()
        return gradient


class Places:
    """Where an error may strike. Each is called with what raises it, the first time only."""

    def __init__(self, training: Training):
        self.training, self.trainer = training, training.trainer
        order = training.trainer.samples.lengths.argsort()[:2]
        self.batch = collate(self.trainer, self.trainer.samples.take(order))
        self.journal = SimpleNamespace(event=lambda *_, **__: None)

    def _step(self) -> None:
        self.trainer.run_step(self.trainer.model_wrapped, self.batch, torch.tensor(10), int)

    def forward(self, strike: Callable[[], None]) -> None:
        with before(self.trainer, "compute_loss", strike):
            self._step()

    def backward(self, strike: Callable[[], None]) -> None:
        plain, Struck.strike = self.trainer.compute_loss, strike
        with replaced(self.trainer, "compute_loss", lambda *args, **kwargs: Struck.apply(plain(*args, **kwargs))):
            self._step()

    def optimizer_step(self, strike: Callable[[], None]) -> None:
        self._step()
        with before(self.trainer.optimizer.optimizer, "_init_group", strike):  # what torch's own step begins with
            self.trainer.optimizer.step()

    def held_out_loss(self, strike: Callable[[], None]) -> None:
        with before(self.trainer.model, "forward", strike):
            backend.held_out_loss(self.trainer, self.trainer.samples.take([0, 1]), lambda *_: None)

    def answers(self, strike: Callable[[], None]) -> None:
        with before(self.trainer.model, "generate", strike):
            measuring.answers(self._session())

    def chat(self, strike: Callable[[], None]) -> None:
        stream = TokenStream(lambda _: None, lambda: False)
        with before(self.trainer.model, "generate", strike), backend.answering(self.training.loaded):
            stream_answer(self.training.loaded, [1, 2], None, 2, Sampling(), stream)

    def checkpoint(self, strike: Callable[[], None]) -> None:
        with before(torch.Tensor, "cpu", strike):
            error = backend.attempt(lambda: state.trained_weights(self.trainer.model))
        assert error is None, "another try, with memory freed"

    def loading(self, strike: Callable[[], None]) -> None:
        model, run = models.find("tiny"), self.training.run
        with before(loading, "_load_by_transformers", strike):
            backend.load(model, loading.Loading.of(run), self.training.loaded.backend, prompt.load(model, "auto"))

    def adapting(self, strike: Callable[[], None]) -> None:
        with replaced(methods, "_check_targets", lambda *_: None), before(methods, "_by_peft", strike):
            backend.adapt(self.training.loaded, self.training.run)

    def adapter_in_use(self, strike: Callable[[], None]) -> None:
        with before(adapters_in_use, "silence", strike):
            adapters_in_use.add_adapters(self.training.loaded, {"a": Path("nowhere")})

    def _session(self) -> SimpleNamespace:
        return SimpleNamespace(
            run=self.training.run.model_copy(update={"prompts": (), "sample_tokens": 2}),
            data=SimpleNamespace(questions=(SimpleNamespace(text="?", ids=[1, 2]),)),
            loaded=self.training.loaded, chat=None, journal=self.journal, state=SimpleNamespace(step=2, kept_step=1),
            on_progress=lambda *_: None, say=lambda _: None, folder=SimpleNamespace(is_ours=True),
        )  # fmt: skip

    def _outcome(self, place: Callable, kind: str, text: str) -> str:
        left = [error_of_text(kind, text)]
        self.trainer.ladder.budget_tokens = 2 * self.trainer.ladder.longest_tokens

        def strike() -> None:
            if left:
                raise left.pop()

        try:
            with fit.errors_explained(self._session()):
                place(self, strike)
        except KitError as error:
            (finding,) = error.findings
            return finding.id if finding.fix else f"{finding.id} without a fix"
        return "went on" if not left else "was never raised"


@contextmanager
def before(owner: object, name: str, strike: Callable[[], None]):
    plain = getattr(owner, name)

    def together(*args, **kwargs):
        strike()
        return plain(*args, **kwargs)

    with replaced(owner, name, together):
        yield


@contextmanager
def replaced(owner: object, name: str, other: Callable):
    plain = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, plain)


def main(folder: str) -> None:
    device_errors._card_is_full = lambda: True
    listener, told = Listener(), {}
    training = Training("hf", folder, EXACT | {"max_steps": 1}, listener)

    def begin() -> None:
        places = Places(training)
        for name, place in vars(Places).items():
            if not name.startswith("_"):
                told[name] = {text: places._outcome(place, *FAILURES[text]) for text in FAILURES}

    listener.begin = begin
    training.train()
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
