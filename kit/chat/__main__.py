"""The command kit.chat; its examples and exit status stand with its options."""

import json
import sys

from envcheck import probe
from kit.backend.starting import starting_words
from kit.chat.asking import Speaker, prompt_ids
from kit.chat.options import ChatCommand, read_command
from kit.chat.prompts import question, read_prompts, with_system
from kit.chat.serve import check_server, serve
from kit.chat.target import Target, find
from kit.chat.terminal import TerminalChat, side_by_side, stream
from kit.prompt.chat_format import Message
from kit.support import console


def main(argv: list[str] | None = None) -> int:
    return console.status_of(lambda: chat(read_command(sys.argv[1:] if argv is None else argv)))


def chat(command: ChatCommand) -> int:
    target = find(command, probe.collect())
    prompts = _prompts(command, target) if command.is_script else []
    if command.serve:
        check_server(command.port)
    _show_target(target)
    with console.busy(f"{starting_words(target.loading)}; loading {target.model.name}"):
        speaker = Speaker(target, command.max_tokens)
    if command.serve:
        return serve(speaker, command)
    with speaker.ready():
        if command.is_script:
            _answer_all(speaker, command, prompts)
        else:
            TerminalChat(speaker, command).run()
    return 0


def _prompts(command: ChatCommand, target: Target) -> list[tuple[int, list[Message]]]:
    """(line, messages), each with room for an answer. Raises KitError."""
    if command.prompts:
        prompts = read_prompts(command.prompts, command.system)
    else:
        prompts = [(1, with_system(question(command.prompt or ""), command.system))]
    for _, messages in prompts:
        _ids(command, target, messages)
    return prompts


def _ids(command: ChatCommand, target: Target, messages: list[Message]) -> dict[int | None, list[int]]:
    """Index -> what that one is asked with."""
    indices = target.indices if command.compare else [0 if target.names else None]
    return {index: prompt_ids(target, index, messages, command.thinking) for index in indices}


def _show_target(target: Target) -> None:
    for text in target.notes:
        console.note(text)
    names = f" with {', '.join(target.names)}" if target.adapters else ""
    names += f", beside {target.untuned.name}" if target.untuned else ""
    bits = "4 bit" if target.loading.load_in_4bit else target.loading.precision
    console.say(f"model     {target.model.name} in {bits} on {target.loading.device}{names}")
    console.say(f"template  {target.chat(None).template_origin}")


def _answer_all(speaker: Speaker, command: ChatCommand, prompts: list[tuple[int, list[Message]]]) -> None:
    with console.progress() as on_progress:
        for number, (line, messages) in enumerate(prompts, start=1):
            ids = _ids(command, speaker.target, messages)
            if command.json_output:
                for index in ids:
                    print(_json(speaker, index, line, messages, ids[index]), flush=True)
                if len(prompts) > 1:
                    on_progress("answers", number, len(prompts), "")
                continue
            console.say(f"> {messages[-1]['content']}", style="bold")
            if len(ids) > 1:
                side_by_side(speaker, ids)
            else:
                stream(speaker, *next(iter(ids.items())))


def _json(speaker: Speaker, index: int | None, line: int, messages: list[Message], ids: list[int]) -> str:
    reply = speaker.reply(index, ids)
    record = {
        "line": line,
        "prompt": messages[-1]["content"],
        "adapter": None if index is None else speaker.target.name(index),
        "answer": reply.answer,
        "thoughts": reply.thoughts,
        "tokens": reply.tokens,
        "tokens_per_s": reply.tokens_per_s,
        "finish_reason": reply.finish_reason,
    }
    return json.dumps(record, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
