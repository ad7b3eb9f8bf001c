"""Loads models by their names on the hub, from a cache that has them and without a network. Prints one JSON.

python tests/card/loaded_bases.py CACHE NAME...     what was loaded for each, and which hosts were asked
"""

import json
import os
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from huggingface_hub import constants

from kit import backend, models, prompt
from kit.support.errors import KitError


def cut_network() -> list[str]:
    """The hosts that are asked from now on; none is reached."""
    asked: list[str] = []

    def refused(connection: socket.socket, address: object) -> None:
        asked.append(str(address))
        raise ConnectionRefusedError("there is no network")

    def unknown(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror("there is no network")

    socket.socket.connect = refused  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = unknown  # type: ignore[assignment]
    return asked


def load(name: str) -> dict | str:
    """The name that the loaded base bears and its layers in 4 bit; or the finding."""
    import bitsandbytes

    loading = backend.Loading("cuda", "bf16", True, 512, backend="unsloth")
    model = models.find(name)
    try:
        base = backend.load(model, loading, backend.start(loading), prompt.load(model, "auto")).model
    except KitError as error:
        return error.findings[0].id
    in_4bit = sum(isinstance(module, bitsandbytes.nn.Linear4bit) for module in base.modules())
    return {"base": base.config._name_or_path, "in_4bit": in_4bit}


def main(cache: str, *names: str) -> None:
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = cache, False
    os.environ.pop("HF_HUB_OFFLINE", None)
    asked = cut_network()
    print(json.dumps({"loaded": {name: load(name) for name in names}, "asked": asked}))


if __name__ == "__main__":
    main(*sys.argv[1:])
