"""The options of python -m kit.chat, each written once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from kit.options.command_line import parse, typed_as
from kit.options.option import Door, Typed
from kit.support.errors import USAGE, failure


class ChatCommand(Door):
    """Talk to what was trained, with the very template of training.

      kit chat runs/x                                    in the terminal
      kit chat runs/x runs/y --compare                   untuned and tuned side by side
      kit chat runs/x --prompts questions.txt --json     for scripts
      kit chat runs/x --serve                            an OpenAI-compatible API on this machine

    In the chat, /help says what else can be typed. Ctrl-C stops the answer, Ctrl-D leaves.
    Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

    door = "chat"

    what: Annotated[tuple[str, ...], Typed(positional=True)] = ()
    """A run's folder, an adapter's folder, or a model (folder, name on the hub, or `tiny`). Several runs or adapters
    of one kind and one base model are loaded together: /adapter NAME switches."""
    add: tuple[str, ...] = ()
    """More adapters of that base model, as NAME=FOLDER."""
    base: str | None = None
    """The base model, where an adapter does not name the right one (its folder was moved)."""
    template: str = "auto"
    """Chat template: auto (the one of training, or the model's own), or a name from templates/."""

    backend: Literal["auto", "unsloth", "hf"] = "auto"
    """Who loads the model. auto: Unsloth on a graphics card, plain transformers + PEFT on a CPU (starts sooner)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the graphics card where torch can use one, else the CPU."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the arithmetic. auto: the run's own on a machine of its kind, else this machine's."""
    load_in_4bit: Literal["auto", "on", "off"] = "auto"
    """Base weights in 4-bit NF4 or in 16 bit. auto: as they were in training; of what is no run, as they are stored."""

    system: str = ""
    """System prompt."""
    thinking: bool = False
    """Let a model that can think (Qwen3) do so before it answers; its thoughts are shown dimmed."""
    compare: bool = False
    """Each question to the untuned model and to every adapter, side by side."""
    prompt: str | None = None
    """Answer this and stop."""
    prompts: Path | None = None
    """Answer each line of a .txt file, or each row of a .jsonl file (messages, or prompt), and stop."""
    json_output: Annotated[bool, Typed("json")] = False
    """With --prompt or --prompts: one JSON object a line on standard output."""

    sample: bool = False
    """Draw answers at random, as the model's generation_config.json says, or as Qwen3's makers advise. Without it, and
    without one of the next three, the likeliest token is taken each time: equal questions, equal answers."""
    temperature: NonNegativeFloat | None = None
    """How even the draw is; 0: the likeliest token each time."""
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    """Draw among the likeliest tokens that make up this share."""
    top_k: PositiveInt | None = None
    """Draw among so many of the likeliest tokens."""
    seed: int | None = None
    """Equal seed, equal draw."""
    max_tokens: PositiveInt = 1024
    """Longest answer; one that is cut here is marked so."""

    serve: bool = False
    """Start transformers' OpenAI-compatible server for it, on this machine only."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Of the server."""

    @model_validator(mode="after")
    def _one_way(self) -> "ChatCommand":
        if self.prompt is not None and self.prompts is not None:
            raise ValueError("--prompt and --prompts are two ways: take one")
        if self.json_output and not self.is_script:
            raise ValueError("--json goes with --prompt or --prompts")
        if self.serve and (self.is_script or self.compare):
            raise ValueError("--serve answers its clients alone: no --prompt, --prompts or --compare with it")
        if odd := [pair for pair in self.add if not all(pair.partition("="))]:
            raise ValueError(f"--add takes NAME=FOLDER, not {odd[0]}")
        return self

    @property
    def is_script(self) -> bool:
        return self.prompt is not None or self.prompts is not None


def read_command(argv: Sequence[str]) -> ChatCommand:
    """Raises KitError (status 2): unknown option, a value of the wrong kind, nothing to talk to."""
    command = parse(ChatCommand, argv)
    if not command.what and not command.add:
        door = typed_as(ChatCommand.door)
        raise failure(
            "nothing-to-talk-to",
            "Name a run, an adapter or a model.",
            "Nothing is guessed.",
            f"{door} runs/NAME",
            f"{door} tiny               (the small model that comes with the kit)",
            status=USAGE,
        )
    return command
