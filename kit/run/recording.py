"""What is written down of a run for later: the options, on which machine, with which data, and how it ended."""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from envcheck import report
from kit.backend import Backend
from kit.run.folder import RunFolder
from kit.run.layout import DATA, EVENTS, LEFT_OUT, MANIFEST, PLAN, SAMPLES
from kit.run.prepared import Prepared
from kit.run.record import Result
from kit.run.session import Outcome
from kit.support.errors import KitError, explain_error

STACK = ("torch", "unsloth", "unsloth_zoo", "trl", "transformers", "peft", "datasets", "accelerate", "bitsandbytes",
         "tokenizers", "safetensors", "huggingface_hub", "pydantic", "rich")  # fmt: skip


def versions() -> dict[str, str | None]:
    """Installed version of each package the run stands on."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for name in STACK:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return installed


@dataclass(frozen=True)
class Recording:
    """The records of one run in its folder. notes: for the user, from before it began."""

    prepared: Prepared
    folder: RunFolder
    backend: Backend
    notes: Sequence[str]
    write_page: Callable[[], None]

    def begin(self) -> None:
        prepared, data = self.prepared, self.prepared.data
        self.folder.write_json(DATA, data.report.to_json() | {"padding_pct": prepared.padding_pct})
        self.folder.write_lines(LEFT_OUT, data.left_out())
        self.folder.write_json(PLAN, prepared.plan.to_json() if prepared.plan else None)
        self._write_manifest("running", None)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """An error that ends the run inside is on record before it goes on."""
        try:
            yield
        except BaseException as error:
            with suppress(KitError):  # a disk that takes no manifest must not hide what went wrong first
                if self.folder.is_ours:
                    self._end_by(error)
            raise

    def _end_by(self, error: BaseException) -> None:
        is_interrupt = isinstance(error, KeyboardInterrupt)
        if not is_interrupt:
            self.folder.add_line(EVENTS, {"kind": "failed", "text": explain_error(error)})
        self._write_manifest("interrupted" if is_interrupt else "failed", None)
        self.write_page()

    def end(self, outcome: Outcome) -> None:
        """Who paused a run may have it go on, so it counts as interrupted."""
        is_finished = outcome.status == "finished"
        if is_finished:
            answers = {
                name: [asdict(answer) for answer in getattr(outcome.result, name)] for name in ("before", "after")
            }
            self.folder.write_json(SAMPLES, answers)
        self._write_manifest("finished" if is_finished else "interrupted", outcome.result)
        self.write_page()

    def _write_manifest(self, status: str, result: Result | None) -> None:
        self.folder.write_json(MANIFEST, manifest(self.prepared, self.backend, self.notes, status, result))


def manifest(
    prepared: Prepared, backend: Backend, notes: Sequence[str], status: str, result: Result | None
) -> dict[str, Any]:
    """Everything needed to know this run again: versions, data, machine, options with their origin."""
    command, model = prepared.command, prepared.model
    options = command.run.model_dump(mode="json")
    settled = prepared.run.model_copy(update={"backend": backend.name})
    reasons = prepared.reasons | {"backend": backend.reason}
    return {
        "status": status,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "model": {"name": model.name, "architectures": model.config.get("architectures")},
        "data": {"files": options["data"], "sha256": prepared.data.report.sha256},
        "options": {
            name: {"value": value, "origin": command.origins.get(name, "default")} for name, value in options.items()
        },
        "chosen": {name: {"value": getattr(settled, name), "reason": reason} for name, reason in reasons.items()},
        "facts": report.redact(prepared.facts.to_json()),
        "notes": list(notes),
        "result": asdict(result) if result else None,
    }
