"""A tokenizer into a GGUF file, and out of it again the way llama.cpp reads it."""

import json
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from envcheck.facts import Finding
from kit.support.errors import KitError, problem

if TYPE_CHECKING:
    import gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token types of the format
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS, _ENDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = tuple(rf"[^\r\n\p{{L}}\p{{N}}]?{word}" for word in (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*"))
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
# How text is cut before the merges, one pattern after the other. A file holds only the name: the patterns are compiled
# into llama.cpp (src/llama-vocab.cpp), where names of equal patterns differ in whether a known word needs no merges.
PATTERNS = {
    "qwen2": (_CONTRACTIONS + _WORDS + r"|\p{N}" + _SIGNS + _ENDS,),
    "qwen35": (
        _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _ENDS,
    ),
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "llama-bpe": (_CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _SIGNS + _ENDS,),
    "glm4": (_CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _SIGNS + _ENDS,),
    "tekken": ("|".join(_CASED) + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _ENDS,),
    "gpt-4o": (
        "|".join(f"{word}{_CONTRACTIONS}?" for word in _CASED)
        + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _ENDS,
    ),
    "deepseek-v3": (
        r"\p{N}{1,3}",
        "[一-龥\u3040-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*" + _ENDS,
    ),
}  # fmt: skip
TAKES_WORDS_WHOLE = {"llama-bpe", "tekken"}
SPACE = "▁"


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer. kind: gpt2 (byte-level BPE) or llama (sentencepiece).

    special: bos, eos, eot, padding, unknown -> id. scores: of sentencepiece; merges: of byte-level BPE. adds_space:
    sentencepiece puts a blank before every stretch of text between special tokens.
    """

    kind: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    special: dict[str, int]
    add_bos: bool
    template: str
    adds_space: bool = False

    def add_to(self, writer: "gguf.GGUFWriter") -> None:
        """Its keys."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.kind == "gpt2":
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.adds_space)
        adders = {
            "bos": writer.add_bos_token_id,
            "eos": writer.add_eos_token_id,
            "eot": writer.add_eot_token_id,
            "padding": writer.add_pad_token_id,
            "unknown": writer.add_unk_token_id,
        }
        for name, number in self.special.items():
            adders[name](number)
        writer.add_add_bos_token(self.add_bos)
        if self.template:
            writer.add_chat_template(self.template)

    def tokenizer(self) -> Tokenizer:
        """Text -> ids as llama.cpp does it: special tokens first, then the pattern, then the merges."""
        built = _byte_level(self) if self.kind == "gpt2" else _sentencepiece(self)
        for number, kind in enumerate(self.types):
            if kind in (CONTROL, USER_DEFINED):
                token = AddedToken(self.tokens[number], normalized=False, special=kind == CONTROL)
                (built.add_special_tokens if kind == CONTROL else built.add_tokens)([token])
        return built


def of_folder(folder: Path, vocab_size: int, end_token: str, template: str, config: dict[str, Any]) -> Vocabulary:
    """The tokenizer of a model folder. Raises KitError: one that llama.cpp would read otherwise."""
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    model, added = whole["model"], whole.get("added_tokens") or []
    if model.get("type") != "BPE":
        raise KitError(_unknown(folder, f"its model is {model.get('type')}"))
    kind = "gpt2" if "ByteLevel" in _steps(whole, "pre_tokenizer") else "llama"
    pre = _pre(folder, whole) if kind == "gpt2" else "default"
    if kind == "llama" and not model.get("byte_fallback"):
        raise KitError(_unknown(folder, "its merges are over neither bytes nor characters with bytes behind them"))
    tokens, types = _tokens(model["vocab"], added, vocab_size, kind)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    numbers = {token: number for number, token in enumerate(tokens)}
    special = _special(settings, numbers, end_token, config)
    return Vocabulary(
        kind=kind,
        pre=pre,
        tokens=tokens,
        types=types,
        merges=merges if kind == "gpt2" else [],
        scores=_scores(tokens, types, merges) if kind == "llama" else [],
        special=special,
        add_bos=_adds_bos(folder, special),
        template=template,
        adds_space=kind == "llama" and _adds_space(whole),
    )


def _steps(whole: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """The steps of a tokenizer's part by their type."""
    found = whole.get(part) or {}
    steps = found.get("pretokenizers") or found.get("normalizers") or [found]
    return {step.get("type", ""): step for step in steps}


def _adds_space(whole: dict[str, Any]) -> bool:
    """Behind every special token, as llama.cpp does it; a blank before the very first text only has no name there."""
    metaspace = _steps(whole, "pre_tokenizer").get("Metaspace", {})
    return "Prepend" in _steps(whole, "normalizer") or metaspace.get("prepend_scheme") == "always"


def _tokens(
    vocab: dict[str, int], added: list[dict[str, Any]], vocab_size: int, kind: str
) -> tuple[list[str], list[int]]:
    """One token for each row of the embedding; rows beyond the tokenizer are padding that no text gives."""
    known = {number: token for token, number in vocab.items()} | {token["id"]: token["content"] for token in added}
    special = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in added}
    size = max(vocab_size, max(known) + 1)
    tokens = [known.get(number, f"[PAD{number}]") for number in range(size)]
    types = [special.get(number, NORMAL if number in known else UNUSED) for number in range(size)]
    if kind == "llama":
        for number, token in known.items():
            if token == "<unk>":
                types[number] = UNKNOWN
            elif len(token) == 6 and token.startswith("<0x"):
                types[number] = BYTE
    return tokens, types


def _scores(tokens: list[str], types: list[int], merges: list[str]) -> list[float]:
    """Sentencepiece joins the pair whose token scores highest: the earlier a merge, the higher."""
    rank = {merge.replace(" ", "", 1): -float(number) for number, merge in reversed(list(enumerate(merges)))}
    lowest = -float(len(merges))
    return [rank.get(token, lowest) if kind == NORMAL else 0.0 for token, kind in zip(tokens, types, strict=True)]


def _special(
    settings: dict[str, Any], numbers: dict[str, int], end_token: str, config: dict[str, Any]
) -> dict[str, int]:
    def number(name: str) -> int | None:
        token = settings.get(name)
        text = token["content"] if isinstance(token, dict) else token
        return numbers.get(text) if isinstance(text, str) else None

    end = numbers.get(end_token, config.get("eos_token_id"))
    bos = number("bos_token")
    found = {
        "bos": config.get("bos_token_id") if bos is None else bos,
        "eos": end,
        "eot": end,
        "padding": number("pad_token"),
        "unknown": number("unk_token"),
    }
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _adds_bos(folder: Path, special: dict[str, int]) -> bool:
    """Whether the tokenizer itself puts the token before every text."""
    first = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids[:1]
    return "bos" in special and first == [special["bos"]]


def _pre(folder: Path, whole: dict[str, Any]) -> str:
    """The name under which llama.cpp knows how a byte-level tokenizer cuts text."""
    found = whole.get("pre_tokenizer") or {}
    parts = found.get("pretokenizers", [found])
    if any(part.get("add_prefix_space") for part in parts):
        raise KitError(_unknown(folder, "it puts a space before every text"))
    patterns = tuple(filter(None, map(_pattern, parts)))
    is_whole = bool(whole["model"].get("ignore_merges"))
    for name, known in PATTERNS.items():
        if known == patterns and is_whole == (name in TAKES_WORDS_WHOLE):
            return name
    raise KitError(_unknown(folder, f"it cuts text by {' and '.join(patterns) or 'no pattern'}"))


def _pattern(step: dict[str, Any]) -> str:
    """By which a step of cutting cuts, "" for one that does not."""
    match step.get("type"):
        case "Split":
            return str(step["pattern"].get("Regex", step["pattern"]))
        case "Digits" if step.get("individual_digits"):
            return r"\p{N}"
        case "ByteLevel" if step.get("use_regex", True):
            return GPT2
    return ""


def _unknown(folder: Path, what: str) -> Finding:
    return problem(
        "gguf-tokenizer-unknown",
        f"llama.cpp would read the tokenizer of {folder} otherwise than it was trained.",
        f"A GGUF file holds only the name of the way in which text is cut, and {what}.",
        "--to hf        (and convert_hf_to_gguf.py of llama.cpp)",
    )


def of_gguf(path: Path) -> tuple[Vocabulary, dict[str, Any]]:
    """The tokenizer of a GGUF file, and its other values by key."""
    import gguf

    values = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    at = "tokenizer.ggml."
    special = {name: f"{at}{name}_token_id" for name in ("bos", "eos", "eot", "padding", "unknown")}
    vocabulary = Vocabulary(
        kind=values[f"{at}model"],
        pre=values[f"{at}pre"],
        tokens=values[f"{at}tokens"],
        types=values[f"{at}token_type"],
        merges=values.get(f"{at}merges", []),
        scores=values.get(f"{at}scores", []),
        special={name: values[key] for name, key in special.items() if key in values},
        add_bos=bool(values.get(f"{at}add_bos_token")),
        template=values.get("tokenizer.chat_template", ""),
        adds_space=bool(values.get(f"{at}add_space_prefix", values[f"{at}model"] == "llama")),
    )
    return vocabulary, values


def begins_with(token: str, number: int) -> processors.TemplateProcessing:
    """The step of a tokenizer that puts a token before every text."""
    return processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, number)]
    )


def _byte_level(vocabulary: Vocabulary) -> Tokenizer:
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    merges = [(left, right) for left, right in (merge.split(" ", 1) for merge in vocabulary.merges)]
    built = Tokenizer(models.BPE(vocab=numbers, merges=merges, ignore_merges=vocabulary.pre in TAKES_WORDS_WHOLE))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[vocabulary.pre]]
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    built.decoder = decoders.ByteLevel()
    return built


def _sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    """The merges follow from the scores: every way to part a token into two others."""
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    merges = []
    for token, score, kind in zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True):
        if kind == NORMAL:
            cuts = ((token[:place], token[place:]) for place in range(1, len(token)))
            merges += [(-score, pair) for pair in cuts if pair[0] in numbers and pair[1] in numbers]
    merges.sort(key=itemgetter(0))
    unknown = vocabulary.tokens[vocabulary.special["unknown"]] if "unknown" in vocabulary.special else None
    built = Tokenizer(models.BPE(vocab=numbers, merges=[pair for _, pair in merges], unk_token=unknown,
                                 fuse_unk=True, byte_fallback=True))  # fmt: skip
    blank = [normalizers.Prepend(SPACE)] if vocabulary.adds_space else []
    built.normalizer = normalizers.Sequence([*blank, normalizers.Replace(" ", SPACE)])
    built.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if blank else []),
        ]
    )
    return built
