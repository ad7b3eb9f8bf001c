"""What the data, the plan and the result of a run look like in the terminal."""

import json
from pathlib import Path

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from envcheck import other_gpus
from kit.memory import Plan
from kit.options import TrainCommand
from kit.options.example_rows import on_example_rows
from kit.run.layout import ADAPTER, MODEL, REPORT
from kit.run.notes import unknown_sizes
from kit.run.prepared import Planned, Prepared
from kit.run.record import Result
from kit.support import console
from kit.support.units import clock, gib


def with_rows(command: TrainCommand) -> TrainCommand:
    """The command; where it trains and names no data, on the rows that come with the kit: the first line of the run."""
    if command.run.data or command.plan:
        return command
    command = on_example_rows(command)
    console.say(
        f"No --data: training on the kit's example rows, {command.run.data[0]} (who the assistant is). "
        "Your own: --data my.jsonl"
    )
    return command


def show(planned: Planned) -> None:
    """What will be done, before it is done."""
    run, made = planned.run, planned.plan
    for name, reason in planned.reasons.items():
        if not (made and name in made.chosen):  # the plan says these
            console.say(f"{name:<23}{getattr(run, name)}: {reason}")
    template = f", template {planned.chat.template_origin}" if isinstance(planned, Prepared) else ""
    console.say(f"model     {planned.model.name}{template}")
    if isinstance(planned, Prepared):
        show_data(planned)
    if made:
        show_memory(made, "graphics card" if run.device == "cuda" else "CPU")


def show_data(prepared: Prepared) -> None:
    """Where every row went."""
    report = prepared.data.report
    for file in report.files:
        weight = {0: " (to measure on)", 1: ""}.get(file["weight"], f" (weight {file['weight']:g})")
        console.say(f"data      {file['name']}: {file['format']} rows{weight}")
    left_out = "".join(f" + {count:,} left out ({code})" for code, count in report.rows_left_out.items())
    kept = f"{report.rows_trained:,} to train + {report.rows_held_out:,} held out"
    console.say(f"          {report.rows_read:,} read = {kept}{left_out}")
    share_pct = 100 * report.trained_tokens / max(1, report.tokens)
    console.say(
        f"          {report.samples} samples of {report.median_tokens} (median) to {report.longest_tokens} tokens;"
    )
    console.say(f"          {report.tokens:,} tokens, {share_pct:.0f} % of them trained (the answers)")
    console.say(f"          {prepared.padding_pct} % of what is computed is padding")
    console.findings(prepared.data.findings)


def show_memory(plan: Plan, where: str) -> None:
    """The parts, and the verdict against the memory that may be taken."""
    table = Table(title=f"memory on the {where}, GiB", title_justify="left", box=None, pad_edge=False)
    table.add_column("part")
    for name in ("low", "high"):
        table.add_column(name, justify="right")
    for part in plan.parts:
        table.add_row(part.name, gib(part.low_bytes), gib(part.high_bytes))
    table.add_row("total", gib(plan.low_bytes), gib(plan.high_bytes), style="bold")
    available = "unknown" if plan.available_bytes is None else f"{gib(plan.available_bytes)} GiB may be used"
    console.stderr.print(table)
    console.say(f"verdict   {plan.verdict}: {available}")
    share_pct = 100 * plan.trained_params / plan.params
    console.say(f"          {plan.params:,} weights, {plan.trained_params:,} trained ({share_pct:.2f} %)")
    if plan.steps and plan.tokens:
        console.say(f"          {plan.steps} steps, about {plan.tokens:,} tokens")
    for reason in plan.reasons:
        console.say(f"          {reason}")
    if plan.fit:
        name = plan.fit["solved_for"]
        rest = ", ".join(f"{other} {plan.fit[other]}" for other in plan.fit if other not in (name, "solved_for"))
        most = f"{name} {plan.fit[name]} is the most that fits" if plan.fit[name] else f"no {name} fits"
        console.say(f"fit       {most}, with {rest}")


def show_result(result: Result, folder: Path) -> None:
    """Before and after, side by side, and the figures."""
    if result.after:
        table = Table(show_lines=True)
        for name in ("question", "before", "after"):
            table.add_column(name, overflow="fold", ratio=1)
        for before, after in zip(result.before, result.after, strict=True):
            table.add_row(Text(after.question), Text(before.text), Text(after.text))
        console.stderr.print(table)
    speed = f"{result.tokens_per_s:,.0f} tokens/s"
    rows = [f"{result.steps} steps, {result.tokens:,} tokens in {clock(result.train_s)} ({speed})"]
    if result.loss_before is not None and result.loss_after is not None:
        fall_pct = 100 * (1 - result.loss_after / result.loss_before)
        losses = f"held-out loss {result.loss_before:.3f} -> {result.loss_after:.3f}"
        rows.append(f"{losses} ({fall_pct:.0f} % lower)")
    if result.after:
        speeds = [answer.tokens_per_s for answer in result.after if answer.tokens]
        answered = f"answers at {sum(speeds) / len(speeds):,.0f} tokens/s" if speeds else "no answers"
        rows.append(f"{answered}; peak memory {gib(result.peak_memory_bytes)} GiB")
    made = MODEL if (folder / MODEL).is_dir() else ADAPTER
    rows.append(f"{made}: {folder}/{made}     what happened: {folder}/{REPORT}")
    console.stderr.print(Panel(Group(*map(Text, rows)), title="done", title_align="left"))


def show_plan(planned: Planned) -> None:
    """What --plan was asked for."""
    if planned.command.json_output:
        print(json.dumps(planned.plan.to_json() if planned.plan else None, indent=1))
    else:
        show(planned)
        if planned.run.data and not planned.reads_data:
            console.note(
                f"the rows are not read: the tokenizer of {planned.model.name} is not on this machine. Every sample "
                "counts as max_length_tokens long."
            )
        for text in other_gpus.notes(planned.facts):
            console.note(text)
        if planned.plan is None:
            console.note(unknown_sizes(planned.model))
