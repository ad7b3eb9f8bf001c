"""Text -> token ids, with special tokens that somebody typed into a message taken for plain text.

Only the template may write real special tokens, or a row of data could end its turn and speak for somebody else. So
typed ones are hidden before a template renders: they go by names that cannot occur. In the rendered text typed ones and
the template's own can then be told apart, and a second tokenizer reads the names as the real ones.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any

from tokenizers import AddedToken, Tokenizer

from kit.support.errors import RowError

PROBE_WORDS = ("a", "The", "1", "é", "中", "(")
NONCE = secrets.token_hex(8)  # letters and digits only: no escaping in a template changes them


@dataclass(frozen=True)
class Segment:
    """A piece of rendered text; the trained pieces are answers with their end token.

    `swapped` is set where special tokens were typed: the same text in which those stand as they were typed and the
    template's own go by their names.
    """

    text: str
    trained: bool
    swapped: str | None = None

    @property
    def has_typed_special_tokens(self) -> bool:
        return self.swapped is not None


class Encoder:
    """A tokenizer that knows typed special tokens from real ones."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._specials = {token.content: (id, token) for id, token in added.items() if token.special}
        # Names are equally long, so that none begins another.
        self._name_of = {special: f"{NONCE}{number:06}" for number, special in enumerate(self._specials)}
        self._special_of = {name: special for special, name in self._name_of.items()}
        self._other_of = self._name_of | self._special_of
        self._special_pattern, self._name_pattern = _any_of(self._name_of), _any_of(self._special_of)
        self._both_pattern = _any_of(self._other_of)

    def first_special_token(self, text: str) -> str:
        """The first special token typed in a text, "" if there is none."""
        match = self._special_pattern.search(text)
        return match[0] if match else ""

    def hide_special_tokens(self, value: Any) -> Any:
        """Messages and tools in which typed special tokens go by their names. Raises RowError."""
        try:
            return _map_text(value, self._named)
        except RecursionError:
            raise RowError("data-nested-too-deep", "lists and objects are nested too deep") from None

    def restore_special_tokens(self, text: str) -> str:
        """The text with typed special tokens as they were typed."""
        return self._name_pattern.sub(lambda name: self._special_of[name[0]], text) if NONCE in text else text

    def segment(self, text: str, trained: bool) -> Segment:
        """A piece of text that was rendered from messages in which they were hidden. Raises RowError."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            what = f"{text[error.start]!r} is half of a character: no tokenizer takes it"
            raise RowError("data-lone-surrogate", what) from None
        if NONCE not in text:
            return Segment(text, trained)
        swapped = self._both_pattern.sub(lambda match: self._other_of[match[0]], text)
        return Segment(self.restore_special_tokens(text), trained, swapped)

    def encode(self, samples: Sequence[Sequence[Segment]]) -> list[list[list[int]]]:
        """Token ids of each piece of each sample; one call for thousands of samples is fastest."""
        texts = [
            piece if self.encodes_alike_anywhere else self._joined(sample[:number])
            for sample in samples
            for number, piece in enumerate(sample, start=1)
        ]
        encoded = iter(self._encode_batch(texts))
        return [self._ids_of_pieces(sample, list(islice(encoded, len(sample)))) for sample in samples]

    def are_whole(self, pieces: Sequence[Segment]) -> bool:
        """Whether the ids of the pieces together are those of the whole text."""
        (ids,) = self.encode([pieces])
        return list(chain.from_iterable(ids)) == self.encode_one(self._joined(pieces))

    @cached_property
    def encodes_alike_anywhere(self) -> bool:
        """Whether a text has the same ids behind another as alone. SentencePiece tokenizers put a blank before each
        text: the ids of an answer encoded alone would be none that the model ever gives."""
        ids = partial(self.tokenizer.encode, add_special_tokens=False)
        return all(ids(f"\n{word}").ids == ids("\n").ids + ids(word).ids for word in PROBE_WORDS)

    def _ids_of_pieces(self, sample: Sequence[Segment], encoded: list[list[int]]) -> list[list[int]]:
        """encoded: ids of each piece or, where its place matters, of the text up to its end. There a piece has what it
        adds to the ids before it or, where it would change those, the ids it has alone."""
        if self.encodes_alike_anywhere:
            return encoded
        pieces: list[list[int]] = []
        before: list[int] = []
        for piece, whole in zip(sample, encoded, strict=True):
            is_behind = whole[: len(before)] == before
            pieces.append(whole[len(before) :] if is_behind else self.encode_one(piece))
            before += pieces[-1]
        return pieces

    def _joined(self, pieces: Sequence[Segment]) -> Segment:
        text = "".join(piece.text for piece in pieces)
        if not any(piece.has_typed_special_tokens for piece in pieces):
            return Segment(text, trained=False)
        swapped = "".join(self._named(piece.text) if piece.swapped is None else piece.swapped for piece in pieces)
        return Segment(text, trained=False, swapped=swapped)

    def _named(self, text: str) -> str:
        """The text with special tokens by their names."""
        return self._special_pattern.sub(lambda match: self._name_of[match[0]], text)

    def _encode_batch(self, segments: Sequence[Segment]) -> list[list[int]]:
        texts = [segment.text for segment in segments if segment.swapped is None]
        encodings = iter(self.tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        return [next(encodings).ids if segment.swapped is None else self.encode_one(segment) for segment in segments]

    def encode_one(self, segment: Segment) -> list[int]:
        """Of one text that begins a sample, without the start of a batch's threads."""
        if segment.swapped is None:
            return self.tokenizer.encode(segment.text, add_special_tokens=False).ids
        literal, real_id = self._literal_tokenizer
        return [real_id.get(id, id) for id in literal.encode(segment.swapped, add_special_tokens=False).ids]

    @cached_property
    def _literal_tokenizer(self) -> tuple[Tokenizer, dict[int | None, int]]:
        """A tokenizer that takes special tokens for text and names for special tokens; its ids -> the real ones.

        Made for the first row that needs it. The text is not cut at the template's tokens and encoded bit by bit:
        how a tokenizer splits text may depend on where it stands.
        """
        literal = Tokenizer.from_str(self.tokenizer.to_str())
        literal.encode_special_tokens = True
        real_id: dict[int | None, int] = {}
        for special, (id, token) in self._specials.items():
            flags = {flag: getattr(token, flag) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
            name = self._name_of[special]
            literal.add_tokens([AddedToken(name, special=False, **flags)])
            real_id[literal.token_to_id(name)] = id
        return literal, real_id


def not_special(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """A tokenizer to which these added tokens are words like others: meant where they are typed, and shown in answers.
    The ids stay the same."""
    told = json.loads(tokenizer.to_str())
    for token in told["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in tokens
    return Tokenizer.from_str(json.dumps(told))


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest where one begins another."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    """Lists and objects with every text in them changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_map_text(key, change): _map_text(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_text(item, change) for item in value]
    return value
