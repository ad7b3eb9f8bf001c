"""What is asked for: every option, written once."""

from kit.options.run import (
    LINEAR_LAYERS,
    LORA_KINDS,
    METHODS_WITH,
    PREFIX_KINDS,
    UNSLOTH_KINDS,
    VIRTUAL_TOKEN_KINDS,
    Command,
    DataCommand,
    Rows,
    Run,
)

__all__ = [
    "LINEAR_LAYERS",
    "LORA_KINDS",
    "METHODS_WITH",
    "PREFIX_KINDS",
    "UNSLOTH_KINDS",
    "VIRTUAL_TOKEN_KINDS",
    "Command",
    "DataCommand",
    "Rows",
    "Run",
]
