"""Fine-tune a model: the whole path on one page.

    python -m kit.train --preset rtx5080 --data my.jsonl
    python -m kit.train --data my.jsonl --plan          will it fit? no torch, nothing written
    python -m kit.train --config runs/x/run.toml        the same run again

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (what is finished is saved).

May import: support, options, models, prompt, data, memory, backend, run, report.
"""

import contextlib
import functools
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envcheck import probe, rules, settings
from envcheck import report as reports
from envcheck.facts import Facts, Finding
from kit import memory, models
from kit.models import families
from kit.options import Run, TrainCommand, resolve
from kit.options.methods import TAKEN_BY
from kit.run import record, telling, trackers
from kit.run.folder import RunFolder
from kit.run.layout import DATA, EVENTS, LEFT_OUT, MANIFEST, PLAN, REPORT, SAMPLES
from kit.run.record import Result
from kit.support import console
from kit.support.errors import KitError, describe_error, problem, stop_on_errors
from kit.support.progress import ProgressBars
from kit.support.units import GIB

if TYPE_CHECKING:
    from kit.data import Data, DataReport
    from kit.prompt import ChatFormat
    from kit.run.watch import OnEvaluation


@dataclass(frozen=True)
class Prepared:
    """Everything known before torch is imported."""

    command: TrainCommand
    run: Run  # with each `auto` settled
    reasons: dict[str, str]
    facts: Facts
    findings: tuple[Finding, ...]
    model: models.Model
    chat: "ChatFormat | None"  # None for the plan of a run without data
    data: "Data | None"
    plan: memory.Plan | None

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.run.output or record.default_output(self.run, self.model)

    @functools.cached_property
    def padding_pct(self) -> float:
        from kit.data.batches import budget_tokens, padding_share

        run, lengths = self.run, self.data.train.lengths
        share = padding_share(lengths, run.batch_size, budget_tokens(lengths, run.micro_batch_size), run.seed)
        return round(100 * share, 1)


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: command_line(sys.argv[1:] if argv is None else argv))


def command_line(argv: list[str]) -> int:
    facts = functools.cache(probe.collect)
    command = resolve.load(argv, facts)
    prepared = prepare(command, facts())
    if command.plan:
        show_plan(prepared)
        return 0
    show(prepared)
    result = train(prepared)
    telling.result(result, prepared.output)
    if command.json_output:
        print(json.dumps(asdict(result), ensure_ascii=False, indent=1))
    return 0


def prepare(command: TrainCommand, facts: Facts) -> Prepared:
    """Facts -> model -> data -> plan: all that can be wrong is found here, in seconds and with nothing written."""
    run, facts = resolve.planned_for(command, facts)
    run, reasons = resolve.settle(run, facts)
    trackers.check(run.report_to)
    findings = rules.judge(facts) if run.device == "cuda" else ()  # a card that is not used need not be well
    model = models.find(run.model)
    chat, rows = _rows(run, model) if run.data or not command.plan else (None, None)
    run, chosen, plan = plan_of(command, run, facts, model.config, rows.report if rows else None)
    return Prepared(command, run, reasons | chosen, facts, findings, model, chat, rows, plan)


def plan_of(
    command: TrainCommand, run: Run, facts: Facts, model_config: dict[str, Any], report: "DataReport | None"
) -> tuple[Run, dict[str, str], memory.Plan | None]:
    """The run with its memory settings chosen, why, and the plan of it."""
    machine = settings.choose(resolve.seen_by(run, facts))
    room, way = machine.memory_bytes.value, resolve.as_option(machine.gradient_checkpointing)[0]
    if run.vram_limit_gib and run.device == "cuda":
        limit_bytes = int(run.vram_limit_gib * GIB)
        room = limit_bytes if room is None else min(room, limit_bytes)
    most = memory.fit(model_config, run, room, way, command.fit) if command.fit else None
    run, chosen = memory.choose(model_config, run, report, room, way)
    plan = memory.plan(model_config, run, report, room)
    return run, chosen, memory.with_reasons(plan, chosen, most) if plan else None


def _rows(run: Run, model: models.Model) -> "tuple[ChatFormat, Data]":
    from kit import data, prompt  # here, not above: a plan without data is there before these are imported

    chat = prompt.load(model, run.template)
    with console.progress() as shown:
        rows = data.read(run, chat, shown)
    if "preferences" in rows.report.purpose:
        raise KitError(
            problem(
                "data-preference-pairs",
                "The rows are pairs of a chosen and a rejected answer.",
                "This command trains on answers; training on preferences is not there yet.",
                "python -m kit.data FILE       (checks such pairs)",
            )
        )
    return chat, rows


def train(
    prepared: Prepared,
    progress: ProgressBars = console.progress,
    pause_step: int | None = None,
    on_evaluation: "OnEvaluation | None" = None,
) -> Result:
    """Load -> adapt -> train -> save -> record. Returns the result, also of an equal run that finished earlier.

    on_evaluation: hears step and held-out loss (nats a token) of each evaluation during the run; True stops the run
    there, with a checkpoint and its adapter: it counts as interrupted, and the next call goes on from there.

    pause_step: stop after it, with a checkpoint and the held-out loss; the next call goes on from there.
    """
    run, rows, model = prepared.run, prepared.data, prepared.model
    stop_on_errors(prepared.findings)
    path = prepared.output
    folder = RunFolder.claim(path, prepared.command, rows.report.sha256)
    if folder.earlier:
        console.note(f"{path} holds this very run, finished: nothing to do. --fresh trains again.")
        return folder.earlier
    for name, value in trackers.environment(run.report_to, path).items():
        os.environ.setdefault(name, value)

    from kit import backend  # here, not above: importing it takes seconds and Unsloth must come first

    loading = backend.Loading.of(run)
    with console.busy("starting the libraries"):
        chosen = backend.start(loading)
    notes = notes_of(prepared, chosen, folder.different)
    for text in notes:
        console.note(text)
    with console.busy(f"loading {model.name}"):
        loaded = backend.adapt(backend.load(model, loading, chosen, prepared.chat), run)
    with folder.open(prepared.command):
        return run_in(folder, prepared, chosen, loaded, notes, progress, pause_step, on_evaluation)


def run_in(
    folder: RunFolder,
    prepared: Prepared,
    chosen: Any,
    loaded: Any,
    notes: list[str],
    progress: ProgressBars,
    pause_step: int | None = None,
    on_evaluation: "OnEvaluation | None" = None,
) -> Result:
    """The run itself, every outcome of it on record."""
    from kit.run import fit

    rows = prepared.data
    folder.write_json(DATA, rows.report.to_json() | {"padding_pct": prepared.padding_pct})
    folder.write_lines(LEFT_OUT, rows.left_out())
    folder.write_json(PLAN, prepared.plan.to_json() if prepared.plan else None)

    write_page = functools.partial(_write_page, folder.path)

    def keep(status: str, result: Result | None) -> None:
        folder.write_json(MANIFEST, manifest(prepared, chosen, status, notes, result))
        if status != "running":
            write_page()

    keep("running", None)
    try:
        with progress() as shown:
            result = fit.fit(
                loaded,
                prepared.run,
                rows,
                prepared.chat,
                folder,
                shown,
                console.note,
                write_page,
                pause_step,
                on_evaluation,
            )
    except fit.Paused as stop:
        keep("interrupted", stop.result)
        return stop.result
    except fit.Interrupted as stop:
        keep("interrupted", stop.result)
        console.note(f"stopped after step {stop.result.steps}; the same command goes on from there")
        raise KeyboardInterrupt from None
    except BaseException as error:
        with contextlib.suppress(KitError):  # a disk that takes no manifest must not hide what went wrong first
            if folder.is_ours:
                if not isinstance(error, KeyboardInterrupt):
                    folder.add_line(EVENTS, {"kind": "failed", "text": why(error)})
                keep("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", None)
        raise
    folder.write_json(SAMPLES, {name: [asdict(answer) for answer in getattr(result, name)]
                                       for name in ("before", "after")})  # fmt: skip
    keep("finished", result)
    return result


def _write_page(folder: Path) -> None:
    """The page of what is written down so far. No error in it ends a run."""
    try:
        from kit.report import page  # here, not above: plots take half a second to import

        page.write(folder)
    except Exception as error:
        console.note(f"no {REPORT}: {describe_error(error)}; python -m kit.report {folder} tries again")


def why(error: BaseException) -> str:
    """In words, for the record."""
    found = error.findings if isinstance(error, KitError) else ()
    return " ".join(f"{one.what} {one.why}" for one in found) or f"{type(error).__name__}: {error}"


def show(prepared: Prepared) -> None:
    """What will be done, before it is done."""
    run = prepared.run
    for name, reason in prepared.reasons.items():
        if not (prepared.plan and f"{name} {getattr(run, name)}: {reason}" in prepared.plan.reasons):  # it says these
            console.say(f"{name:<23}{getattr(run, name)}: {reason}")
    template = f", template {prepared.chat.template_origin}" if prepared.chat else ""
    console.say(f"model     {prepared.model.name}{template}")
    if prepared.data:
        telling.data(prepared.data)
        console.say(f"          {prepared.padding_pct} % of what is computed is padding")
        console.findings(prepared.data.findings)
    if prepared.plan:
        telling.plan(prepared.plan, "graphics card" if run.device == "cuda" else "CPU")


def show_plan(prepared: Prepared) -> None:
    if prepared.command.json_output:
        print(json.dumps(prepared.plan.to_json() if prepared.plan else None, indent=1))
    else:
        show(prepared)
        if prepared.plan is None:
            console.note(_unknown_sizes(prepared.model))


def _unknown_sizes(model: models.Model) -> str:
    family = families.name_of(model.config)
    return f"The sizes of this model are not known to the planner ({family}): nothing is said about memory."


def notes_of(prepared: Prepared, chosen: Any, different: dict[str, str] | None) -> list[str]:
    """Every fallback and every setting that costs something, in words."""
    run, notes = prepared.run, []
    if different:
        changes = "; ".join(f"{name}: {change}" for name, change in different.items())
        notes.append(f"going on with another run than it began (--resume-anyway): {changes}")
    for name, methods in TAKEN_BY.items():
        if run.method not in methods and _was_asked_for(prepared.command, name):
            notes.append(f"{name} has no effect: it is for --method {', '.join(methods)}, and this is {run.method}.")
    if chosen.name == "hf" and run.backend == "auto":
        notes.append(f"{chosen.reason}. Going on with plain transformers and PEFT (--backend hf).")
    if run.report_to != trackers.NONE:
        notes.append(trackers.note(run.report_to, prepared.output))
    if run.lora_dropout > 0 and chosen.name == "unsloth":
        notes.append("lora_dropout above 0 leaves Unsloth's fast path: the run is slower.")
    tied = bool(prepared.model.config.get("tie_word_embeddings"))
    if run.embedding_offload == "on" and not memory.can_offload_embedding(tied, run):
        notes.append("embedding_offload has no effect: it is for Unsloth on a card and models with a head of its own.")
    positions = prepared.model.config.get("max_position_embeddings", run.max_length_tokens)
    if run.max_length_tokens > positions:
        notes.append(f"{prepared.model.name} was trained on {positions} positions: tokens beyond them are new to it.")
    if prepared.plan is None:
        notes.append(_unknown_sizes(prepared.model))
    elif prepared.plan.verdict == "will not fit":
        notes.append("The plan says that this will not fit; trying all the same.")
    return notes


def _was_asked_for(command: TrainCommand, name: str) -> bool:
    """With a flag, or in a file, which may also repeat the default."""
    origin = command.origins.get(name, "default")
    is_other = getattr(command.run, name) != Run.model_fields[name].default
    return origin in ("flag", "call") or (origin.startswith("file") and is_other)


def manifest(prepared: Prepared, chosen: Any, status: str, notes: list[str], result: Result | None) -> dict[str, Any]:
    reasons = {**prepared.reasons, "backend": chosen.reason}
    settled = prepared.run.model_copy(update={"backend": chosen.name})
    facts = reports.redact(prepared.facts.to_json())
    sha256 = prepared.data.report.sha256
    return record.manifest(prepared.command, settled, reasons, facts, prepared.model, sha256, status, notes, result)


if __name__ == "__main__":
    sys.exit(main())
