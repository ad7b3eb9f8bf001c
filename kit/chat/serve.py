"""An OpenAI-compatible API on this machine: transformers' server, with the model as it would be talked to."""

import contextlib
import json
import socket

from kit.backend.adapters_in_use import use_adapter
from kit.backend.serving import HOST, missing_packages, server
from kit.chat.asking import Speaker
from kit.chat.options import ChatCommand
from kit.prompt import thinking_switch
from kit.support import console
from kit.support.errors import failure
from kit.support.user_shell import shell


def check_server(port: int) -> None:
    """Raises KitError: packages missing, the port taken."""
    if missing := missing_packages():
        raise failure(
            "server-packages-missing",
            f"The server needs {' and '.join(missing)}, not installed here.",
            "They are not needed for anything else in the kit.",
            f"python -m pip install {' '.join(missing)}",
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just left is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise failure(
                "port-taken",
                f"Port {port} cannot be used.",
                error.strerror or str(error),
                f"--port {port + 1 if port < 65535 else 8000}",
            ) from None


def serve(speaker: Speaker, command: ChatCommand) -> int:
    """Until Ctrl-C. The first tuned one answers, or the untuned model where there is none."""
    target, index = speaker.target, 0 if speaker.target.names else None
    name, chat = target.name(index) if target.names else target.model.name, target.chat(index)
    thinking = thinking_switch(command.thinking)
    if len(target.adapters) > 1:
        console.note(f"a server answers with one adapter: {name}")
    if command.system:
        console.note("--system is not served: clients send their own system prompt")
    with speaker.ready(), use_adapter(speaker.loaded, index):
        running = server(speaker.loaded, name, chat.end_id, thinking, command.port)
        address = f"http://{HOST}:{command.port}/v1"
        console.say(f"serving   {name} at {address} for this machine only; Ctrl-C ends it", style="bold")
        question = json.dumps({"model": name, "messages": [{"role": "user", "content": "Who are you?"}]})
        console.say(f"          {shell().post_json(f'{address}/chat/completions', question)}")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn ends in order, and then passes it on
            running.run()
    console.say("the server has ended")
    return 0
