"""A run folder -> one record. The run may be under way: each file may be missing, half written or broken.

What cannot be read is left out of the record and named in `unread`; nothing here raises for it.
"""

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.options import Run
from kit.options.methods import LORA
from kit.run.layout import ANSWERS, BEGUN, DATA, EVENTS, LOCK, MANIFEST, MARKS, METRICS, OPTIONS, PARITY, PLAN
from kit.run.record import Result
from kit.support.redacting import value_text, without_folders
from kit.support.untrusted import dict_or_empty, dicts_in, finite_number, texts_in

FIGURES = ("loss", "grad_norm", "learning_rate", "tokens", "elapsed_s", "memory_bytes")  # of a step


@dataclass(frozen=True)
class SampledAnswers:
    """A question with its answers: (what of, the text), the untuned model's first."""

    question: str
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says. Tables are as in its files, with values of other kinds than expected left out.

    status: finished, interrupted, failed, running, stopped (no process is in it any more) or unknown.
    method: as --method of kit.train says it. losses: (step, loss of the held-out rows in nats a token), from the
    untuned model to the result.
    """

    folder: Path
    status: str
    method: str = LORA.name
    manifest: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    steps: tuple[dict[str, float], ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    samples: tuple[SampledAnswers, ...] = ()
    parity: dict[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.absolute().name

    @property
    def loss_before(self) -> float | None:
        return finite_number(self.result.get("loss_before")) or (
            self.losses[0][1] if self.losses and not self.losses[0][0] else None
        )

    @property
    def loss_after(self) -> float | None:
        """Of the result; of a run that has none: the last one measured after the first step."""
        after = finite_number(self.result.get("loss_after"))
        return after or (self.losses[-1][1] if self.losses and self.losses[-1][0] else None)

    @property
    def last_step(self) -> int:
        return int(self.steps[-1]["step"]) if self.steps else int(finite_number(self.result.get("steps")) or 0)

    @property
    def planned_steps(self) -> int | None:
        steps = finite_number(self.plan.get("steps"))
        return int(steps) if steps else None

    @property
    def options(self) -> dict[str, dict[str, str]]:
        """Option -> value, origin and, where the kit chose it, the reason; as texts without the user's folders."""
        options, chosen = dict_or_empty(self.manifest.get("options")), dict_or_empty(self.manifest.get("chosen"))
        texts = {}
        for name, about in options.items():
            own, by_kit = dict_or_empty(about), dict_or_empty(chosen.get(name))
            value = by_kit.get("value", own.get("value"))
            origin = str(own.get("origin", ""))
            texts[name] = {
                "value": value_text(value),
                "origin": "chosen" if by_kit else without_folders(origin),
                "reason": without_folders(str(by_kit.get("reason", ""))),
            }
        return texts

    @property
    def failure(self) -> str:
        """Why it ended, in words; "" where nothing is on record."""
        texts = [str(event.get("text", "")) for event in self.events if event.get("kind") == "failed"]
        return texts[-1] if texts else ""

    @property
    def verified(self) -> bool | None:
        """Whether what was made of it last was proven equal; None: nothing was made."""
        return passed(self.parity)


def passed(parity: dict[str, Any]) -> bool | None:
    return parity.get("passed") is True if parity else None


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MARKS)


def options(folder: Path) -> Run | None:
    """The options that the run was made with; None where they are missing, broken, or of another kit."""
    try:
        return read_options(folder)
    except (OSError, ValueError):
        return None


def read_options(folder: Path) -> Run:
    """The same. Raises OSError: no such file; ValueError: broken, or options that this kit does not have."""
    return Run(**tomllib.loads((folder / OPTIONS).read_text(encoding="utf-8")))


def method(folder: Path) -> str:
    """That of the run's options; lora where they say none, as older ones."""
    try:
        return str(tomllib.loads((folder / OPTIONS).read_text(encoding="utf-8")).get("method", LORA.name))
    except (OSError, ValueError):
        return LORA.name


def chosen(folder: Path) -> dict[str, Any]:
    """Option -> what the kit chose for it on the machine of the run; {} where that is not known."""
    found = dict_or_empty(_manifest(folder).get("chosen"))
    return {name: choice["value"] for name, choice in found.items() if "value" in dict_or_empty(choice)}


def data_sha256(folder: Path) -> str | None:
    """Of the rows that the run was begun with; None where it never got to them, or the file is broken."""
    found = dict_or_empty(_json(folder / DATA, [])).get("sha256")
    return found if isinstance(found, str) else None


def finished_result(folder: Path) -> Result | None:
    """None of a run that is not finished."""
    manifest = _manifest(folder)
    try:
        return Result.from_json(manifest["result"]) if manifest["status"] == "finished" else None
    except (KeyError, TypeError):
        return None


def _manifest(folder: Path) -> dict[str, Any]:
    return dict_or_empty(_json(folder / MANIFEST, []))


def read(folder: str | Path) -> RunRecord:
    """What the folder says so far."""
    folder = Path(folder)
    unread: list[str] = []
    names = (MANIFEST, DATA, PLAN, BEGUN, PARITY)
    manifest, data, plan, begun, parity = (dict_or_empty(_json(folder / name, unread)) for name in names)
    result = dict_or_empty(manifest.get("result"))
    lines = _lines(folder / METRICS, unread)
    steps = _by_step(figures for line in lines if (figures := _figures(line)))
    return RunRecord(
        folder=folder,
        status=_status(folder, manifest),
        method=_method(folder, manifest),
        manifest=manifest,
        data=data,
        plan=plan,
        result=result,
        steps=steps,
        losses=_losses(lines, begun, result, steps),
        events=tuple(_lines(folder / EVENTS, unread)),
        samples=_samples(begun, _lines(folder / ANSWERS, unread), result),
        parity=parity,
        unread=tuple(unread),
    )


def _json(path: Path, unread: list[str]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        unread.append(f"{path.name} cannot be read ({_why(error)})")
        return None


def _lines(path: Path, unread: list[str]) -> list[dict[str, Any]]:
    """The objects of a .jsonl file. A last line without its end is being written, or was when the run was killed."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        unread.append(f"{path.name} cannot be read ({_why(error)})")
        return []
    objects: list[dict[str, Any]] = []
    broken = 0
    for line in text.split("\n")[:-1]:  # splitlines would also part an answer with a line separator in it
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):
            read = None
        if isinstance(read, dict):
            objects.append(read)
        elif line.strip():
            broken += 1
    if broken:
        unread.append(f"{path.name}: {broken} broken line{'s' if broken > 1 else ''} left out")
    return objects


def _why(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__


def _status(folder: Path, manifest: dict[str, Any]) -> str:
    status = manifest.get("status")
    if status == "running":
        return "running" if _is_in_use(folder / LOCK) else "stopped"
    return status if status in ("finished", "interrupted", "failed") else "unknown"


def _method(folder: Path, manifest: dict[str, Any]) -> str:
    value = dict_or_empty(dict_or_empty(manifest.get("options")).get("method")).get("value")
    return value if isinstance(value, str) else method(folder)


def _is_in_use(lock: Path) -> bool:
    """Whether a process, this one too, is in the folder of that lock."""
    from filelock import FileLock, Timeout

    try:
        if not lock.is_file():
            return False
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder of somebody else: its word is taken
        return True


def _step(line: dict[str, Any]) -> float | None:
    return finite_number(line.get("step"))


def _figures(line: dict[str, Any]) -> dict[str, float]:
    """Of a step; {} for a line that is of none."""
    step = _step(line)
    if step is None or "held_out_loss" in line:
        return {}
    found = {name: finite_number(line.get(name)) for name in FIGURES}
    return {"step": int(step)} | {name: value for name, value in found.items() if value is not None}


def _by_step(lines: Iterable[dict[str, float]]) -> tuple[dict[str, float], ...]:
    """In order, the later line of a step that stands twice."""
    last = {line["step"]: line for line in lines}
    return tuple(last[step] for step in sorted(last))


def _losses(
    lines: list[dict[str, Any]], begun: dict[str, Any], result: dict[str, Any], steps: tuple[dict[str, float], ...]
) -> tuple[tuple[int, float], ...]:
    losses = {0: finite_number(begun.get("loss"))}
    for line in lines:
        step, loss = _step(line), finite_number(line.get("held_out_loss"))
        if step is not None and loss is not None:
            losses[int(step)] = loss
    last = finite_number(result.get("steps")) or (steps[-1]["step"] if steps else 0)
    if (after := finite_number(result.get("loss_after"))) is not None:
        losses[int(last)] = after
    return tuple((step, loss) for step, loss in sorted(losses.items()) if loss is not None)


def _samples(
    begun: dict[str, Any], between: list[dict[str, Any]], result: dict[str, Any]
) -> tuple[SampledAnswers, ...]:
    before = dicts_in(begun.get("answers")) or dicts_in(result.get("before"))
    columns: list[tuple[str, list[Any]]] = [("before", [answer.get("text") for answer in before])]
    columns += [(f"step {int(step)}", texts_in(line.get("answers"))) for line in between if (step := _step(line))]
    if after := dicts_in(result.get("after")):
        columns.append(("after", [answer.get("text") for answer in after]))
    return tuple(
        SampledAnswers(
            str(answer.get("question", "")),
            tuple((name, str(texts[number])) for name, texts in columns if number < len(texts)),
        )
        for number, answer in enumerate(before)
    )
