"""Token ids and trained tokens of whole data files: ours against TRL's, with every difference counted under its name.

python -m benchmarks.trl_masks --data DIR        (DIR holds gsm8k/ and llamafactory/)

TRL's way: its training template, rendered once for the whole conversation by transformers, and the mask that the
template's {% generation %} marks give; for plain text the ids and the end token; for prompt and completion its rule of
the longest common prefix. A row counts as explained only if the named differences, taken out of TRL's sample, leave
exactly ours.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.data_speed import unpack_qwen3
from kit import models, prompt
from kit.data.rows import formats
from kit.prompt import IGNORED, ChatFormat, Sample
from kit.support.errors import RowError

CHAT_TEMPLATES = {  # ours: TRL's
    "qwen3": "qwen3_training",
    "qwen3-thinking": "qwen3_training",
    "qwen3-instruct-2507": "qwen3_instruct_2507_training",
}
EXPLANATIONS = {
    "final-newline": "TRL's sample goes on after the last end token with the template's newline and trains it; ours "
    "ends with the end token, where a server stops.",
    "newline-trained": "TRL trains the newline after the end tokens of earlier answers too; no server lets the model "
    "write it.",
    "empty-think-block-trained": "Where an answer has no reasoning TRL trains the empty think block, so that the model "
    "learns not to think when asked to. We ask with the block, as Qwen3 does with enable_thinking=false.",
    "one-sample-an-answer": "Qwen3's template changes earlier answers when the conversation goes on, so ours begins a "
    "new sample where it does; TRL's is one sample.",
    "earlier-think-blocks-kept": "TRL keeps think blocks in earlier answers, empty ones too; Qwen3's template, which "
    "the model is asked with, takes them out, and so do we.",
    "prompt-and-completion-melt": "TRL encodes prompt and completion in one piece; where a token spans both, the end "
    "of the prompt gets other ids than when the model is asked. Ours are encoded apart.",
}


@dataclass(frozen=True)
class Ids:
    """The ids that differences are made of."""

    end: int
    newline: int
    blank_line: int
    think: int
    end_think: int

    @property
    def empty_think_block(self) -> list[int]:
        return [self.think, self.blank_line, self.end_think, self.blank_line]


def known_ids(tokenizer: Any) -> Ids:
    return Ids(*tokenizer.convert_tokens_to_ids(["<|im_end|>", "Ċ", "ĊĊ", "<think>", "</think>"]))


@dataclass
class Tally:
    """What the comparison of one file under one template came to."""

    rows: int = 0
    ids_equal: int = 0
    ids_equal_but_final_newline: int = 0
    masks_equal: int = 0
    unexplained: int = 0
    first_unexplained: int | None = None
    trained_tokens: int = 0
    trl_trained_tokens: int = 0

    def __post_init__(self) -> None:
        self.differences: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def add(self, number: int, ours: list[Sample], theirs: Sample, names: list[str], is_explained: bool) -> None:
        self.rows += 1
        our_ids, but_newline = [sample.ids for sample in ours], -1 if "final-newline" in names else None
        self.ids_equal += our_ids == [theirs.ids]
        self.ids_equal_but_final_newline += our_ids == [theirs.ids[:but_newline]]
        self.masks_equal += [sample.labels for sample in ours] == [theirs.labels]
        self.differences.update(names)
        self.trained_tokens += sum(sample.trained_tokens for sample in ours)
        self.trl_trained_tokens += theirs.trained_tokens
        if not is_explained:
            self.unexplained += 1
            self.first_unexplained = self.first_unexplained or number

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "differences": dict(self.differences), "left_out": dict(self.left_out)}


# TRL's samples


def trl_template(name: str) -> str:
    """A training template from TRL's package."""
    return (resources.files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def trl_chat(tokenizer: Any, template: str, conversation: formats.Conversation) -> Sample:
    made = tokenizer.apply_chat_template(
        conversation.messages,
        tools=conversation.tools,
        chat_template=template,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    return _masked(made["input_ids"], made["assistant_masks"])


def trl_text(tokenizer: Any, text: str) -> Sample:
    end = "" if text.endswith(tokenizer.eos_token) else tokenizer.eos_token
    ids = tokenizer(text + end)["input_ids"]
    return Sample(0, ids, ids)


def trl_completion(tokenizer: Any, question: str, answer: str) -> Sample:
    from trl.data_utils import common_prefix_length

    end = "" if answer.endswith(tokenizer.eos_token) else tokenizer.eos_token
    asked, whole = (tokenizer(text)["input_ids"] for text in (question, question + answer + end))
    shared = common_prefix_length(asked, whole)
    return _masked(whole, [place >= shared for place in range(len(whole))])


def _masked(ids: list[int], mask: Sequence[int]) -> Sample:
    return Sample(0, ids, [id if trained else IGNORED for id, trained in zip(ids, mask, strict=True)])


# Differences


def runs(sample: Sample) -> list[tuple[int, int]]:
    """(start, end) of each stretch of trained ids."""
    trained = [False, *(label != IGNORED for label in sample.labels), False]
    edges = [place for place in range(len(trained) - 1) if trained[place] != trained[place + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def without_final_newline(sample: Sample, ids: Ids) -> Sample:
    cut = -1 if sample.ids[-2:] == [ids.end, ids.newline] else None
    return Sample(0, sample.ids[:cut], sample.labels[:cut])


def without_trained_newlines(sample: Sample, ids: Ids) -> Sample:
    pairs = zip([None, *sample.ids], sample.ids, sample.labels, strict=False)
    return Sample(
        0,
        sample.ids,
        [IGNORED if (before, id) == (ids.end, ids.newline) else label for before, id, label in pairs],
    )


def without_trained_empty_think_blocks(sample: Sample, ids: Ids) -> Sample:
    labels, block = list(sample.labels), ids.empty_think_block
    for start, _ in runs(sample):
        if sample.ids[start : start + len(block)] == block:
            labels[start : start + len(block)] = [IGNORED] * len(block)
    return Sample(0, sample.ids, labels)


DIFFERENCES: dict[str, Callable[[Sample, Ids], Sample]] = {
    "final-newline": without_final_newline,
    "newline-trained": without_trained_newlines,
    "empty-think-block-trained": without_trained_empty_think_blocks,
}


def explain(template: str, ours: list[Sample], theirs: Sample, ids: Ids) -> tuple[list[str], bool]:
    """The names of the differences, and whether they are all."""
    names = []
    for name, take_out in DIFFERENCES.items():
        if name == "empty-think-block-trained" and template == "qwen3-instruct-2507":
            continue  # it has no thinking: a block in an answer is content
        changed = take_out(theirs, ids)
        if changed != theirs:
            names.append(name)
        theirs = changed
    if len(ours) == 1:
        return names, (ours[0].ids, ours[0].labels) == (theirs.ids, theirs.labels)
    names.append("one-sample-an-answer")
    answers = [(sample, *run) for sample in ours for run in runs(sample)]
    if template != "qwen3" or len(answers) != len(runs(theirs)):
        return names, False
    for (sample, our_start, our_end), (start, end) in zip(answers, runs(theirs), strict=True):
        asked, their_asked = sample.ids[:our_start], theirs.ids[:start]
        if asked != their_asked:
            names.append("earlier-think-blocks-kept")
            asked, their_asked = without_think_blocks(asked, ids), without_think_blocks(their_asked, ids)
        if (asked, sample.ids[our_start:our_end]) != (their_asked, theirs.ids[start:end]):
            return names, False
    return list(dict.fromkeys(names)), all(runs(sample)[-1][1] == len(sample.ids) for sample in ours)


def without_think_blocks(prompt_ids: list[int], ids: Ids) -> list[int]:
    kept, inside = [], False
    for before, id in zip([None, *prompt_ids], prompt_ids, strict=False):
        inside = inside or id == ids.think
        is_blank_line_after = before == ids.end_think and id == ids.blank_line
        if not inside and not is_blank_line_after:
            kept.append(id)
        inside = inside and id != ids.end_think
    return kept


def explain_completion(ours: Sample, theirs: Sample, asked: list[int], answered: list[int]) -> tuple[list[str], bool]:
    if (ours.ids, ours.labels) == (theirs.ids, theirs.labels):
        return [], True
    is_ours_apart = ours.ids == asked + answered and ours.labels == [IGNORED] * len(asked) + answered
    return ["prompt-and-completion-melt"], is_ours_apart and theirs.ids[: len(asked) + 1] != ours.ids[: len(asked) + 1]


# Files


def rows(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line]


def examples(path: Path, tally: Tally) -> Iterator[tuple[int, formats.Example]]:
    """(row number, example) of the rows that are trained on."""
    all_rows = rows(path)
    form, _ = formats.detect(all_rows)
    for number, row in enumerate(all_rows, start=1):
        try:
            example = formats.convert(row, form, {})
        except RowError as error:
            tally.left_out[error.code] += 1
            continue
        if example.good:
            yield number, example
        else:
            tally.left_out["marked as a bad answer"] += 1


def compare_chats(path: Path, name: str, chat: ChatFormat, tokenizer: Any, ids: Ids) -> Tally:
    template = trl_template(CHAT_TEMPLATES[name])
    tally = Tally()
    for number, example in examples(path, tally):
        conversation = example.conversations[0]  # of a pair: the chosen one
        try:
            ours = chat.samples(conversation.messages, conversation.tools)
        except RowError as error:
            tally.left_out[error.code] += 1
            continue
        theirs = trl_chat(tokenizer, template, conversation)
        tally.add(number, ours, theirs, *explain(name, ours, theirs, ids))
    return tally


def compare_text(path: Path, chat: ChatFormat, tokenizer: Any) -> Tally:
    tally = Tally()
    for number, example in examples(path, tally):
        segments = chat.text_segments(example.text)
        ours, theirs = (
            Sample.from_segments(0, segments, chat.encoder.encode(segments)),
            trl_text(tokenizer, example.text),
        )
        tally.add(number, [ours], theirs, [], ours == theirs)
    return tally


def compare_completions(path: Path, chat: ChatFormat, tokenizer: Any) -> Tally:
    tally = Tally()
    for number, example in examples(path, tally):
        question, answer = (message["content"] for message in example.conversations[0].messages)
        (ours,) = chat.samples(example.conversations[0].messages)
        theirs = trl_completion(tokenizer, question, answer)
        asked, answered = (tokenizer(text)["input_ids"] for text in (question, answer + tokenizer.eos_token))
        tally.add(number, [ours], theirs, *explain_completion(ours, theirs, asked, answered))
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds gsm8k/ and llamafactory/")
    data = parser.parse_args().data
    files = sorted(path for folder in ("gsm8k", "llamafactory") for path in (data / folder).glob("*.json*"))
    if not files:
        parser.error(f"{data} holds neither gsm8k/*.json* nor llamafactory/*.json*")
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        unpack_qwen3(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        small = {path.name: path for path in Path(folder).iterdir()}
        qwen3 = models.Model("Qwen3", folder, {}, small)
        chats = {name: prompt.load(qwen3, name) for name in (*CHAT_TEMPLATES, "plain")}
    ids = known_ids(tokenizer)
    figures: dict[str, dict[str, Any]] = {}
    for path in files:
        compared = {}
        purpose = formats.detect(rows(path))[0].purpose
        if purpose == "text":
            compared["text"] = compare_text(path, chats["plain"], tokenizer)
        else:
            for name in CHAT_TEMPLATES:
                compared[name] = compare_chats(path, name, chats[name], tokenizer, ids)
        if path.parent.name == "gsm8k" or path.name.startswith(("identity", "alpaca")):
            compared["plain"] = compare_completions(path, chats["plain"], tokenizer)
        figures[f"{path.parent.name}/{path.name}"] = {name: tally.to_json() for name, tally in compared.items()}
    unexplained = sum(tally["unexplained"] for compared in figures.values() for tally in compared.values())
    measure.write("trl_masks", {"unexplained": unexplained, "explanations": EXPLANATIONS, "files": figures})
    if unexplained:
        raise SystemExit(f"{unexplained} rows differ in a way that has no name: see results/trl_masks.json")


if __name__ == "__main__":
    main()
