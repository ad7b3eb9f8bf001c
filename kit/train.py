"""Fine-tune a model: the whole path on one page.

    python -m kit.train --preset rtx5080 --data my.jsonl
    python -m kit.train --data my.jsonl --plan          will it fit? no torch, nothing written
    python -m kit.train --config runs/x/run.toml        the same run again

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (what is finished is saved).

May import: support, options, models, prompt, data, memory, backend, run, report.
"""

import functools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from envcheck import probe, rules, settings
from envcheck.facts import Facts
from kit import memory, models
from kit.options import Run, TrainCommand, resolve
from kit.run import telling, trackers
from kit.run.folder import RunFolder
from kit.run.layout import REPORT
from kit.run.notes import collect_notes
from kit.run.prepared import Planned, Prepared, refuse_pairs
from kit.run.record import Result
from kit.support import console
from kit.support.callable_module import make_callable
from kit.support.errors import describe_error, stop_on_errors
from kit.support.progress import ProgressBars
from kit.support.units import GIB
from kit.support.user_shell import quoted

if TYPE_CHECKING:
    from kit.data import DataReport
    from kit.run.session import OnEvaluation


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: command_line(sys.argv[1:] if argv is None else argv))


def command_line(argv: list[str]) -> int:
    facts = functools.cache(probe.collect)
    command: TrainCommand = telling.with_rows(resolve.load(argv, facts))
    if command.plan:
        telling.show_plan(plan(command, facts()))
        return 0
    prepared = prepare(command, facts())
    telling.show(prepared)
    result = train(prepared)
    telling.show_result(result, prepared.output)
    if command.json_output:
        print(json.dumps(asdict(result), ensure_ascii=False, indent=1))
    return 0


def plan(command: TrainCommand, facts: Facts) -> Planned:
    """What a run would need. Where its data are not named, or its tokenizer is not there, every sample counts as
    max_length_tokens long."""
    settled = _settled(command, facts)
    return _with_data(settled) if settled.reads_data else _planned(settled, None)


def prepare(command: TrainCommand, facts: Facts) -> Prepared:
    """Facts -> model -> data -> plan: all that can be wrong is found here, in seconds and with nothing written."""
    return _with_data(_settled(command, facts))


def _settled(command: TrainCommand, facts: Facts) -> Planned:
    """Machine, options and model; no plan yet."""
    run, facts = resolve.planned_for(command, facts)
    run, reasons = resolve.settle(run, facts)
    trackers.check(run.report_to)
    findings = rules.judge(resolve.seen_by(run, facts)) if run.device == "cuda" else ()  # of the card in use
    model = models.find_to_plan(run) if command.plan else models.find_for(run)
    return Planned(command, run, reasons, facts, findings, model, None)


def _with_data(settled: Planned) -> Prepared:
    from kit import data, prompt  # here, not above: a plan without data is there before these are imported

    chat = prompt.load(settled.model, settled.run.template, settled.run.train_added_tokens)
    with console.progress() as on_progress:
        rows = data.read(settled.run, chat, on_progress)
    refuse_pairs(rows.report)
    chat = chat.as_trained(rows.report.purpose, rows.report.rows_thinking)
    return Prepared(**vars(_planned(settled, rows.report)), chat=chat, data=rows)


def _planned(settled: Planned, report: "DataReport | None") -> Planned:
    sizes = memory.known_sizes(settled.model)
    run, chosen, made = plan_of(settled.command, settled.run, settled.facts, sizes, report)
    made = made and replace(made, reasons=(memory.source_of_sizes(settled.model), *made.reasons))
    return replace(settled, run=run, reasons=settled.reasons | chosen, plan=made)


def plan_of(
    command: TrainCommand, run: Run, facts: Facts, model_config: dict[str, Any], report: "DataReport | None"
) -> tuple[Run, dict[str, str], memory.Plan | None]:
    """The run with its memory settings chosen, why, and the plan of it."""
    machine = settings.choose(resolve.seen_by(run, facts))
    room, main_memory = machine.memory_bytes.value, machine.main_memory_bytes.value
    way = cast("memory.Checkpointing", resolve.as_option(machine.gradient_checkpointing)[0])
    if run.vram_limit_gib and run.device == "cuda":
        limit_bytes = int(run.vram_limit_gib * GIB)
        room = limit_bytes if room is None else min(room, limit_bytes)
    most = memory.fit(model_config, run, room, way, command.fit, main_memory) if command.fit else None
    run, chosen = memory.choose(model_config, run, report, room, way, main_memory)
    made = memory.plan(model_config, run, report, room, main_memory)
    return run, chosen, memory.with_reasons(made, chosen, most) if made else None


def train(
    prepared: Prepared, progress: ProgressBars = console.progress, on_evaluation: "OnEvaluation | None" = None
) -> Result:
    """Load -> adapt -> train -> save -> record. Returns the result, also of an equal run that finished earlier.

    on_evaluation: hears step and held-out loss (nats a token) of each evaluation during the run; True stops the run
    there, with a checkpoint and its adapter: it counts as interrupted, and the next call goes on from there.

    Raises KitError: whatever ends a run; KeyboardInterrupt after Ctrl-C, with all that is finished saved.
    """
    run, model, chat, data = prepared.run, prepared.model, prepared.chat, prepared.data
    stop_on_errors(prepared.findings)
    folder = RunFolder.claim(prepared.output, prepared.command, data.report.sha256)
    if folder.earlier:
        console.note(f"{folder.path} holds this very run, finished: nothing to do. --fresh trains again.")
        return folder.earlier
    trackers.use_folder(run.report_to, folder.path)

    from kit import backend  # here, not above: what comes before needs none of it
    from kit.run.fit import fit
    from kit.run.recording import Recording
    from kit.run.session import Session

    loading = backend.Loading.of(run, prepared.facts)
    with console.busy(backend.starting_words(loading)):
        chosen = backend.start(loading)
    notes = collect_notes(prepared, chosen, folder.different)
    for text in notes:
        console.note(text)
    with console.busy(f"loading {model.name}"):
        loaded = backend.adapt(backend.load(model, loading, chosen, chat), run)
    write_page = functools.partial(_write_page, folder.path)
    recording = Recording(prepared, folder, chosen, notes, write_page)
    with folder.open(prepared.command):
        recording.begin()
        with recording.errors(), progress() as on_progress:
            outcome = fit(
                Session(loaded, run, data, chat, folder, on_progress, console.note, write_page, on_evaluation)
            )
        recording.end(outcome)
    if outcome.status == "interrupted":
        console.note(f"stopped after step {outcome.result.steps}; the same command goes on from there")
        raise KeyboardInterrupt
    return outcome.result


def plan_with(**options: Any) -> memory.Plan | None:
    """kit.plan: what a run of these options of `kit train` needs; None where the sizes of the model are not known.

    Raises KitError: wrong options, no such model, data that cannot be trained on.
    """
    return plan(*_given(options | {"plan": True})).plan


def prepare_with(**options: Any) -> Prepared:
    """The run of these options, checked and planned. Raises KitError: as plan_with."""
    return prepare(*_given(options))


def train_with(**options: Any) -> Result:
    """kit.train: the run of these options, trained. Raises as `train`."""
    return train(prepare_with(**options))


def _given(options: dict[str, Any]) -> tuple[TrainCommand, Facts]:
    facts = functools.cache(probe.collect)
    return telling.with_rows(resolve.given(options, facts)), facts()


def _write_page(folder: Path) -> None:
    """The report of what is written down so far. No error in it ends a run."""
    try:
        from kit.report import page  # here, not above: plots take half a second to import

        page.write(folder)
    except Exception as error:
        console.note(f"no {REPORT}: {describe_error(error)}; python -m kit.report {quoted(folder)} tries again")


make_callable(__name__, train_with)
if __name__ == "__main__":
    sys.exit(main())
