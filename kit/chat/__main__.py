"""Talk to what was trained.

    python -m kit.chat runs/x                                    in the terminal
    python -m kit.chat runs/x runs/y --compare                   untuned and tuned side by side
    python -m kit.chat runs/x --prompts questions.txt --json     for scripts
    python -m kit.chat runs/x --serve                            an OpenAI-compatible API on this machine

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import contextlib
import json
import sys
from typing import Any

from envcheck import probe
from kit.chat import target as targets
from kit.chat.asking import Reply, Speaker, load, prompt_ids
from kit.chat.options import ChatCommand, read_command
from kit.chat.prompts import Messages, asked, read_prompts, with_system
from kit.chat.session import Printer, Session, footer, side_by_side
from kit.chat.target import Target
from kit.support import console


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: chat(read_command(sys.argv[1:] if argv is None else argv)))


def chat(command: ChatCommand) -> int:
    target = targets.find(command, probe.collect())
    prompts = _prompts(command, target) if command.is_script else []
    if command.serve:
        from kit.chat.serve import check_server, serve

        check_server(command)
    loaded, untuned = _load(target)
    if command.serve:
        return serve(loaded, target, command)

    from kit.backend import answering

    speaker = Speaker(loaded, target, targets.sampling(command, target.model), command.max_tokens, untuned)
    with answering(loaded), answering(untuned) if untuned else contextlib.nullcontext():
        if command.is_script:
            _answer_all(speaker, target, command, prompts)
        else:
            Session(speaker, target, command).run()
    return 0


def _prompts(command: ChatCommand, target: Target) -> list[tuple[int, Messages]]:
    """(line, messages), each with room for an answer."""
    if command.prompts:
        found = read_prompts(command.prompts, command.system)
    else:
        found = [(1, with_system(asked(command.prompt), command.system))]
    for _, messages in found:
        for place in _asked_ones(command, target):
            prompt_ids(target, place, messages, command.thinking)
    return found


def _asked_ones(command: ChatCommand, target: Target) -> list[int | None]:
    return target.places if command.compare else [0 if target.names else None]


def _load(target: Target) -> tuple[Any, Any]:
    for text in target.notes:
        console.note(text)
    names = f" with {', '.join(target.names)}" if target.adapters else ""
    names += f", beside {target.untuned.name}" if target.untuned else ""
    bits = "4 bit" if target.run.load_in_4bit else target.run.precision
    console.say(f"model     {target.model.name} in {bits} on {target.run.device}{names}")
    console.say(f"template  {target.chat(None).template_origin}")
    with console.busy(f"loading {target.model.name}"):
        return load(target)


def _answer_all(speaker: Speaker, target: Target, command: ChatCommand, prompts: list[tuple[int, Messages]]) -> None:
    with console.progress() as shown:
        for number, (line, messages) in enumerate(prompts, start=1):
            ids = {
                place: prompt_ids(target, place, messages, command.thinking) for place in _asked_ones(command, target)
            }
            if command.json_output:
                for place in ids:
                    print(_json(target, place, line, messages, speaker.answer(place, ids[place])), flush=True)
                if len(prompts) > 1:
                    shown("answers", number, len(prompts), "")
            else:
                _show(speaker, target, messages, ids)


def _show(speaker: Speaker, target: Target, messages: Messages, ids: dict[int | None, list[int]]) -> None:
    console.say(f"> {messages[-1]['content']}", style="bold")
    if len(ids) > 1:
        side_by_side(speaker, target, ids, lambda: False)
        return
    ((place, one),) = ids.items()
    printer = Printer()
    answer = speaker.answer(place, one, printer)
    printer.end()
    console.say(footer(target, place, answer), style="dim")


def _json(target: Target, place: int | None, line: int, messages: Messages, answer: Reply) -> str:
    record = {
        "line": line,
        "prompt": messages[-1]["content"],
        "adapter": None if place is None else target.name(place),
        "answer": answer.said,
        "thoughts": answer.thoughts,
        "tokens": answer.tokens,
        "tokens_per_s": answer.tokens_per_s,
        "finish_reason": answer.finish_reason,
    }
    return json.dumps(record, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
