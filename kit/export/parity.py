"""The same prompts through base + adapter and through what was exported: equal words, nearly equal logits."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.backend import candidates
from kit.backend.candidates import Candidate
from kit.export import llama_cpp
from kit.export.parity_prompts import ParityPrompts
from kit.models import vocabulary
from kit.prompt import ChatFormat
from kit.support.progress import OnProgress
from kit.support.version import stamp

if TYPE_CHECKING:
    import numpy as np

LAST_TOKENS = 16  # of each prompt: their logits are compared
Logits = Sequence["np.ndarray"]  # for each prompt (positions, vocabulary) in float32
Words = tuple[bool | None, bool | None, bool | None]  # template, ids, end as in a row


@dataclass(frozen=True)
class Bound:
    """least_top1_pct: of the positions, so many must have the same likeliest token.

    most_logit_share: largest difference of a logit, as a share of the range of all logits at that position.
    """

    least_top1_pct: float
    most_logit_share: float


# By what the weights were rounded to: several times what benchmarks/results/parity.json measured, because the nearer
# the two likeliest tokens of a model are, the more often rounding swaps them. bf16: half as much again as on
# SmolLM2-135M-Instruct, whose 30 layers give 0.114 and 94 % (fp16, of three bits more: 0.013 and 99 %).
BOUNDS = {
    "fp32": Bound(100.0, 1e-4),
    "f32": Bound(100.0, 1e-4),
    "fp16": Bound(99.0, 0.01),
    "f16": Bound(99.0, 0.01),
    "bf16": Bound(96.0, 0.06),
    "q8_0": Bound(97.0, 0.05),
}
MEASURED_LAYERS = 4  # of the model that they were measured on
COARSE = Bound(60.0, 0.6)  # 4 and 5 bits: a broken file is far below, a whole one loses what such bits lose


@dataclass(frozen=True)
class Exported:
    """Something to compare. folder, gguf: where it lies. precision: what its weights were rounded to. layers: blocks of
    the model."""

    name: str
    folder: Path
    gguf: str
    precision: str
    head_dim: int = 0
    layers: int = MEASURED_LAYERS

    def candidate(self, like: Candidate) -> Candidate:
        """Computed where and as the reference is."""
        return Candidate(
            str(self.folder), gguf=self.gguf, arithmetic=like.arithmetic, device=like.device, head_dim=self.head_dim
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. template, ids, end: equal or not, None where there is nothing to compare.

    positions: where logits were compared. top1_pct: of them, those with the same likeliest token. logit_share: the
    largest difference at a position, as a share of the range of the logits there. bound: None for a line that is there
    to be known, and fails nothing.
    """

    name: str
    reader: str = "transformers"
    precision: str
    template: bool | None = None
    ids: bool | None = None
    end: bool | None = None
    positions: int
    top1_pct: float = 0.0
    largest_logit_difference: float = math.inf
    logit_share: float = math.inf
    bound: Bound | None = None
    first_layer: str = ""

    @property
    def passed(self) -> bool:
        if self.bound is None:
            return True
        same_words = False not in (self.template, self.ids, self.end)
        is_near = self.logit_share <= self.bound.most_logit_share
        return same_words and self.top1_pct >= self.bound.least_top1_pct and is_near


@dataclass(frozen=True)
class Parity:
    """against: what the exports are compared with. arithmetic: fp32, or bf16 where fp32 does not fit into memory."""

    against: str
    prompts: str
    arithmetic: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The record that is written."""
        return {
            **stamp(),
            "passed": self.passed,
            "against": self.against,
            "prompts": self.prompts,
            "last_tokens_of_each": LAST_TOKENS,
            "arithmetic": self.arithmetic,
            "rows": [asdict(row) | {"passed": row.passed} for row in self.rows],
        }


def bound_of(precision: str, arithmetic: str, layers: int) -> Bound:
    """The wider one of the weights' rounding and the arithmetic's, for a model of so many layers: the errors of layers
    are independent, so they add up like steps of a random walk, with the root of their number."""
    found = BOUNDS.get(precision)
    if found is None:
        return COARSE
    if arithmetic != "fp32":
        other = BOUNDS[arithmetic]
        least_top1_pct = min(found.least_top1_pct, other.least_top1_pct)
        found = Bound(least_top1_pct, max(found.most_logit_share, 2 * other.most_logit_share))
    wider = math.sqrt(max(1.0, layers / MEASURED_LAYERS))
    return Bound(round(100 - wider * (100 - found.least_top1_pct), 2), round(wider * found.most_logit_share, 6))


def compare(
    reference: Candidate,
    against: str,
    exports: Sequence[Exported],
    prompts: ParityPrompts,
    on_progress: OnProgress,
    trained: Candidate | None = None,
) -> Parity:
    """Everything read again from the disk; one model in memory at a time.

    trained: the model as it was trained, where the base of the exports is another one on purpose.
    """
    total, arithmetic = 1 + len(exports), reference.arithmetic
    on_progress("parity", 1, total, against)
    expected = candidates.logits(reference, prompts.sequences, LAST_TOKENS)
    rows = []
    for number, exported in enumerate(exports, 2):
        on_progress("parity", number, total, exported.name)
        rows.append(_row(exported, reference, expected, prompts))
        if exported.gguf and llama_cpp.is_here():
            rows.append(_by_llama_cpp(exported, expected, prompts))
    if trained:
        rows.append(_as_trained(trained, expected, prompts))
    return Parity(against, prompts.origin, arithmetic, tuple(rows))


def _row(exported: Exported, reference: Candidate, expected: Logits, prompts: ParityPrompts) -> Row:
    candidate = exported.candidate(reference)
    found = candidates.logits(candidate, prompts.sequences, LAST_TOKENS)
    template, ids, end = words_of(exported, prompts)
    bound = bound_of(exported.precision, reference.arithmetic, exported.layers)
    row = Row(
        name=exported.name,
        precision=exported.precision,
        template=template,
        ids=ids,
        end=end,
        bound=bound,
        **_differences(expected, found),
    )
    if row.passed:
        return row
    shares = [logit_share(want, got) for want, got in zip(expected, found, strict=True)]
    worst = prompts.sequences[shares.index(max(shares))]
    return replace(row, first_layer=first_layer(reference, candidate, worst, bound))


def _differences(expected: Logits, found: Logits) -> dict[str, Any]:
    """Of the logits, as a row holds them."""
    import numpy as np

    pairs = list(zip(expected, found, strict=True))
    return {
        "positions": sum(len(want) for want in expected),
        "top1_pct": top1_pct(expected, found),
        "largest_logit_difference": max(float(np.abs(want - got).max()) for want, got in pairs),
        "logit_share": max(logit_share(want, got) for want, got in pairs),
    }


def _as_trained(trained: Candidate, expected: Logits, prompts: ParityPrompts) -> Row:
    """How far the chosen base is from the one of training."""
    found = candidates.logits(trained, prompts.sequences, LAST_TOKENS)
    precision = "nf4" if trained.four_bit else trained.loaded_as
    return Row(name="base of training", precision=precision, **_differences(found, expected))


def _by_llama_cpp(exported: Exported, expected: Logits, prompts: ParityPrompts) -> Row:
    """The same file through llama.cpp: its own tokenizer, template and arithmetic, which is about as coarse as bf16."""
    bound = bound_of(exported.precision, "bf16", exported.layers)
    row = Row(name=exported.name, reader="llama.cpp", precision=exported.precision, positions=len(expected),
              bound=bound)  # fmt: skip
    path = exported.folder / exported.gguf
    words, _ = vocabulary.of_gguf(path)
    bos = words.tokens[words.special["bos"]] if words.add_bos else ""  # which llama.cpp itself puts before every text
    texts, default_texts = (
        [text.removeprefix(bos) for text in each] for each in (prompts.texts, prompts.default_texts)
    )
    try:
        found = llama_cpp.ask(
            path, prompts.conversations, texts, prompts.sequences, words.tokenizer().encode("a").ids[-1]
        )
    except llama_cpp.CannotRead as error:
        return replace(row, first_layer=f"the start: {error}")
    equal, largest, share = llama_cpp.differences([logits[-1] for logits in expected], found.likeliest)
    return replace(
        row,
        template=(found.texts, found.default_texts) == (texts, default_texts) if prompts.chat else None,
        ids=found.ids == prompts.ids,
        top1_pct=round(100 * equal / len(expected), 3),
        largest_logit_difference=largest,
        logit_share=share,
        first_layer="" if share <= bound.most_logit_share else "a layer that llama.cpp does not show",
    )


def logit_share(expected: "np.ndarray", found: "np.ndarray") -> float:
    """Largest difference at a position over the range of the expected logits there; infinite for NaN.

    expected, found: (positions, vocabulary).
    """
    import numpy as np

    if not np.isfinite(found).all():
        return math.inf
    spread = expected.max(axis=-1) - expected.min(axis=-1)
    return float((np.abs(expected - found).max(axis=-1) / np.maximum(spread, 1e-9)).max())


def top1_pct(expected: Logits, found: Logits) -> float:
    """Share of the positions with the same likeliest token."""
    equal = sum(int((want.argmax(-1) == got.argmax(-1)).sum()) for want, got in zip(expected, found, strict=True))
    return round(100 * equal / sum(len(want) for want in expected), 3)


def words_of(exported: Exported, prompts: ParityPrompts) -> Words:
    """Whether prompt texts, token ids and end token are those of training."""
    if exported.gguf:
        return _gguf_words(vocabulary.of_gguf(exported.folder / exported.gguf)[0], prompts)
    if prompts.chat is None:
        return None, _plain_ids(exported.folder, prompts), None
    texts, default_texts, ids = candidates.template_and_ids(exported.folder, prompts.conversations)
    end = candidates.end_token(exported.folder) == (prompts.chat.end_token, prompts.chat.end_id)
    return (texts, default_texts) == (prompts.texts, prompts.default_texts), ids == prompts.ids, end


def _gguf_words(found: vocabulary.Vocabulary, prompts: ParityPrompts) -> Words:
    tokenizer = found.tokenizer()
    chat = prompts.chat
    if chat is None:
        bos = [found.special["bos"]] if found.add_bos else []
        ids = [bos + tokenizer.encode(text, add_special_tokens=False).ids for text in prompts.plain]
        return None, ids == prompts.ids, None
    special = {f"{name}_token": found.tokens[number] for name, number in found.special.items()}
    special |= {"pad_token": special.pop("padding_token", ""), "unk_token": special.pop("unknown_token", "")}
    again = ChatFormat(tokenizer, found.template, "gguf", chat.special_tokens | special, chat.end_token)
    texts = [again.question(messages) for messages in prompts.conversations]
    default_texts = [again.default_question(messages) for messages in prompts.conversations]
    ids = [again.prompt_ids(messages) for messages in prompts.conversations]
    end = found.tokens[found.special["eos"]] if "eos" in found.special else ""
    return (texts, default_texts) == (prompts.texts, prompts.default_texts), ids == prompts.ids, end == chat.end_token


def _plain_ids(folder: Path, prompts: ParityPrompts) -> bool:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in prompts.plain] == prompts.ids


def first_layer(reference: Candidate, other: Candidate, ids: Sequence[int], bound: Bound) -> str:
    """Where the two begin to differ by more than the bound, or else where their difference grows most."""
    import numpy as np

    expected, found = candidates.layers(reference, ids), candidates.layers(other, ids)
    if len(expected) != len(found) or expected[0].shape != found[0].shape:
        return "the shape of the model"
    shares = [
        float(np.abs(want - got).max() / max(1e-9, np.abs(want).max()))
        for want, got in zip(expected, found, strict=True)
    ]
    last = len(shares) - 2
    names = ["embedding", *(f"layer {number}" for number in range(last)), f"layer {last} and the norm behind it"]
    beyond = [number for number, share in enumerate(shares) if not share <= bound.most_logit_share]
    if beyond:
        return names[beyond[0]]
    if max(shares) <= 1e-6:
        return "the head, or only the words around it"
    return names[int(np.argmax(np.diff([0.0, *shares])))]
