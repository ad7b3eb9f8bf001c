"""The same prompts through base + adapter and through what was exported: equal words, nearly equal logits."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kit.backend import comparing
from kit.backend.comparing import Candidate
from kit.export import llama_cpp, vocabulary
from kit.export.prompts import Prompts
from kit.prompt import ChatFormat
from kit.support.progress import OnProgress

LAST_TOKENS = 16  # of each prompt: their logits are compared


@dataclass(frozen=True)
class Bound:
    """least_top1_pct: of the positions, so many must have the same likeliest token.

    most_logit_share: largest difference of a logit, as a share of the range of all logits at that position.
    """

    least_top1_pct: float
    most_logit_share: float


# By what the weights were rounded to: several times what benchmarks/results/parity.json measured, because the nearer
# the two likeliest tokens of a model are, the more often rounding swaps them.
BOUNDS = {
    "fp32": Bound(100.0, 1e-4),
    "f32": Bound(100.0, 1e-4),
    "fp16": Bound(99.0, 0.01),
    "f16": Bound(99.0, 0.01),
    "bf16": Bound(97.0, 0.03),
    "q8_0": Bound(97.0, 0.05),
}
COARSE = Bound(60.0, 0.6)  # 4 and 5 bits: a broken file is far below, a whole one loses what such bits lose


@dataclass(frozen=True)
class Exported:
    """Something to compare. folder, gguf: where it lies. precision: what its weights were rounded to."""

    name: str
    folder: Path
    gguf: str
    precision: str
    head_dim: int = 0

    def candidate(self, like: Candidate) -> Candidate:
        """Computed where and as the reference is."""
        return Candidate(
            str(self.folder), gguf=self.gguf, arithmetic=like.arithmetic, device=like.device, head_dim=self.head_dim
        )


@dataclass(frozen=True)
class Row:
    """One line of the table. template, ids, end: equal or not, None where there is nothing to compare.

    bound: None for a line that is there to be known, and fails nothing.
    """

    name: str
    reader: str
    precision: str
    template: bool | None
    ids: bool | None
    end: bool | None
    positions: int
    top1_pct: float
    largest_logit_difference: float
    logit_share: float
    bound: Bound | None
    first_layer: str = ""

    @property
    def passed(self) -> bool:
        if self.bound is None:
            return True
        words = all(one is not False for one in (self.template, self.ids, self.end))
        return words and self.top1_pct >= self.bound.least_top1_pct and self.logit_share <= self.bound.most_logit_share


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
        rows = [asdict(row) | {"passed": row.passed} for row in self.rows]
        return {
            "passed": self.passed,
            "against": self.against,
            "prompts": self.prompts,
            "last_tokens_of_each": LAST_TOKENS,
            "arithmetic": self.arithmetic,
            "rows": rows,
        }


def bound_of(precision: str, arithmetic: str) -> Bound:
    """The wider one of the weights' rounding and the arithmetic's."""
    found = BOUNDS.get(precision, COARSE)
    if arithmetic == "fp32":
        return found
    other = BOUNDS[arithmetic]
    return Bound(
        min(found.least_top1_pct, other.least_top1_pct), max(found.most_logit_share, 2 * other.most_logit_share)
    )


def compare(
    reference: Candidate,
    against: str,
    exports: Sequence[Exported],
    prompts: Prompts,
    show: OnProgress,
    trained: Candidate | None = None,
) -> Parity:
    """Everything read again from the disk; one model in memory at a time.

    trained: the model as it was trained, where the base of the exports is another one on purpose.
    """
    total, arithmetic = 1 + len(exports), reference.arithmetic
    show("parity", 1, total, against)
    expected = comparing.logits(reference, prompts.sequences, LAST_TOKENS)
    rows = []
    for number, one in enumerate(exports, 2):
        show("parity", number, total, one.name)
        row, worst = _row(one, reference, expected, prompts)
        if not row.passed:
            layer = first_layer(reference, one.candidate(reference), prompts.sequences[worst], row.bound)
            row = replace(row, first_layer=layer)
        rows.append(row)
        if one.gguf and llama_cpp.is_here():
            rows.append(_by_llama_cpp(one, expected, prompts))
    if trained:
        rows.append(_as_trained(trained, expected, prompts))
    return Parity(against, prompts.origin, arithmetic, tuple(rows))


def _row(one: Exported, reference: Candidate, expected: list[Any], prompts: Prompts) -> tuple[Row, int]:
    """The line, and the number of the prompt that differs most."""
    import numpy as np

    found = comparing.logits(one.candidate(reference), prompts.sequences, LAST_TOKENS)
    shares = [logit_share(want, got) for want, got in zip(expected, found, strict=True)]
    largest = max(float(np.abs(want - got).max()) for want, got in zip(expected, found, strict=True))
    template, ids, end = words_of(one, prompts)
    row = Row(
        name=one.name,
        reader="transformers",
        precision=one.precision,
        template=template,
        ids=ids,
        end=end,
        positions=sum(len(want) for want in expected),
        top1_pct=top1_pct(expected, found),
        largest_logit_difference=largest,
        logit_share=max(shares),
        bound=bound_of(one.precision, reference.arithmetic),
    )
    return row, int(np.argmax(shares))


def _as_trained(trained: Candidate, expected: list[Any], prompts: Prompts) -> Row:
    """How far the chosen base is from the one of training."""
    import numpy as np

    found = comparing.logits(trained, prompts.sequences, LAST_TOKENS)
    pairs = list(zip(found, expected, strict=True))
    return Row(
        name="base of training",
        reader="transformers",
        precision="nf4" if trained.four_bit else trained.loaded_as,
        template=None,
        ids=None,
        end=None,
        positions=sum(len(want) for want in expected),
        top1_pct=top1_pct(found, expected),
        largest_logit_difference=max(float(np.abs(want - got).max()) for want, got in pairs),
        logit_share=max(logit_share(want, got) for want, got in pairs),
        bound=None,
    )


def _by_llama_cpp(one: Exported, expected: list[Any], prompts: Prompts) -> Row:
    """The same file through llama.cpp: its own tokenizer, template and arithmetic, which is about as coarse as bf16."""
    row = Row(one.name, "llama.cpp", one.precision, None, None, None, len(expected), 0.0, float("inf"), float("inf"),
              bound_of(one.precision, "bf16"))  # fmt: skip
    try:
        found = llama_cpp.ask(one.folder / one.gguf, prompts.conversations, prompts.texts, prompts.sequences)
    except llama_cpp.CannotRead as error:
        return replace(row, first_layer=f"the start: {error}")
    equal, largest, share = llama_cpp.differences([logits[-1] for logits in expected], found.likeliest)
    return replace(
        row,
        template=found.texts == prompts.texts if prompts.chat else None,
        ids=found.ids == prompts.ids,
        top1_pct=round(100 * equal / len(expected), 3),
        largest_logit_difference=largest,
        logit_share=share,
        first_layer="" if share <= row.bound.most_logit_share else "a layer that llama.cpp does not show",
    )


def logit_share(expected: Any, found: Any) -> float:
    """Largest difference at a position over the range of the expected logits there; infinite for no number."""
    import numpy as np

    if not np.isfinite(found).all():
        return float("inf")
    spread = expected.max(axis=-1) - expected.min(axis=-1)
    return float((np.abs(expected - found).max(axis=-1) / np.maximum(spread, 1e-9)).max())


def top1_pct(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """Share of the positions with the same likeliest token."""
    equal = sum(int((want.argmax(-1) == got.argmax(-1)).sum()) for want, got in zip(expected, found, strict=True))
    return round(100 * equal / sum(len(want) for want in expected), 3)


def words_of(one: Exported, prompts: Prompts) -> tuple[bool | None, bool | None, bool | None]:
    """Whether prompt texts, token ids and end token are those of training."""
    if one.gguf:
        found, _ = vocabulary.read(one.folder / one.gguf)
        return _gguf_words(found, prompts)
    if prompts.chat is None:
        return None, _plain_ids(one.folder, prompts), None
    texts, ids = comparing.template_and_ids(one.folder, prompts.conversations)
    end = comparing.end_token(one.folder)
    chat = prompts.chat
    return (
        texts == prompts.texts,
        ids == prompts.ids,
        end == (chat.end_token, chat.tokenizer.token_to_id(chat.end_token)),
    )


def _gguf_words(found: vocabulary.Vocabulary, prompts: Prompts) -> tuple[bool | None, bool | None, bool | None]:
    tokenizer = found.tokenizer()
    chat = prompts.chat
    if chat is None:
        bos = [found.special["bos"]] if found.add_bos else []
        return (
            None,
            [bos + tokenizer.encode(text, add_special_tokens=False).ids for text in prompts.plain] == prompts.ids,
            None,
        )
    special = {f"{name}_token": found.tokens[number] for name, number in found.special.items()}
    special |= {"pad_token": special.pop("padding_token", ""), "unk_token": special.pop("unknown_token", "")}
    again = ChatFormat(tokenizer, found.template, "gguf", chat.special_tokens | special, chat.end_token)
    texts = [again.question(one) for one in prompts.conversations]
    ids = [again.prompt_ids(one) for one in prompts.conversations]
    end = found.tokens[found.special["eos"]] if "eos" in found.special else ""
    return texts == prompts.texts, ids == prompts.ids, end == chat.end_token


def _plain_ids(folder: Path, prompts: Prompts) -> bool:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in prompts.plain] == prompts.ids


def first_layer(reference: Candidate, other: Candidate, ids: Sequence[int], bound: Bound) -> str:
    """Where the two begin to differ by more than the bound, or else where their difference grows most."""
    import numpy as np

    expected, found = comparing.layers(reference, ids), comparing.layers(other, ids)
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
