"""Which adapter, or whole model, a name means, and whether its folder is whole."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit.models import read_json
from kit.options.methods import ADAPTER_KINDS, FULL, LORA, Method, method_of
from kit.support.errors import KitError, problem

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RUN = "run.toml"
ADAPTER, MODEL = "adapter", "model"  # folders of what a run made, which of them goes by its method
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter; `run_folder` is that of the kit's run that made it, where it lies in one."""

    name: str
    path: Path
    config: dict[str, Any]
    run_folder: Path | None

    @property
    def base(self) -> str:
        """The name or folder of the model that it was trained on, "" if unsaid."""
        return self.config.get("base_model_name_or_path") or ""

    @property
    def kind(self) -> str:
        """As PEFT calls it."""
        return self.config["peft_type"]

    @property
    def method(self) -> Method:
        """That makes such adapters. `find` gives no adapter of another kind."""
        method = method_of(self.config)
        assert method, f"{self.path} is of no known kind"
        return method

    @property
    def virtual_tokens(self) -> int:
        """So many learnt positions stand before every prompt; no weight is changed where there are any."""
        return self.config.get("num_virtual_tokens") or 0 if self.method.learns_virtual_tokens else 0


def run_folder(path: Path) -> Path | None:
    """The run that a path means: the run's own folder, or that of its adapter or model."""
    if (path / RUN).is_file():
        return path
    return path.parent if path.name in (ADAPTER, MODEL) and (path.parent / RUN).is_file() else None


def run_method(run: Path) -> str:
    """The method of a run's run.toml; lora where it says none, as older ones."""
    try:
        return str(tomllib.loads((run / RUN).read_text(encoding="utf-8")).get("method", LORA.name))
    except (OSError, ValueError):
        return LORA.name


def whole_model(name: str | Path) -> Path | None:
    """The folder of the model that a run of `full` made, where a name means one and it is finished."""
    run = run_folder(Path(name).expanduser())
    if run is None or (run / ADAPTER / CONFIG).is_file():
        return None
    return run / MODEL if (run / MODEL / "config.json").is_file() else None


def find(name: str | Path, called: str = "") -> Adapter:
    """The adapter of a run folder, or in a folder of its own; `called`: its name, by default the folder's.

    Raises KitError: no adapter, a whole model instead, weights missing or in a pickle, a link out of the folder, a kind
    that the kit does not use.
    """
    given = Path(name).expanduser()
    run = run_folder(given)
    path = run / ADAPTER if run else given
    if not (path / CONFIG).is_file():
        raise KitError(_is_whole(run) if whole_model(given) else _unfinished(run) if run else _no_adapter(given))
    wrong = _weights_missing(path) or _leaves_folder(path)
    if wrong:
        raise KitError(wrong)
    config = read_json(path / CONFIG)
    if not isinstance(config.get("peft_type"), str) or not method_of(config) or config.get("megatron_config"):
        raise KitError(_other_kind(path, config))
    return Adapter(called or (run or path).resolve().name, path, config, run)


def _is_whole(run: Path) -> Finding:
    return problem(
        "run-is-a-whole-model",
        f"The run {run} trained every weight: it has a model in {run / MODEL}, and no adapter.",
        "An adapter is only the change to a model, and can lie over it beside others; a whole model stands alone.",
        f"python -m kit.chat {run}        (--compare: beside the model that it was trained from)",
        f"python -m kit.merge {run} -o FOLDER --to gguf",
    )


def _unfinished(run: Path) -> Finding:
    made = "model" if run_method(run) == FULL.name else "adapter"
    return problem(
        "run-without-adapter",
        f"The run {run} has no {made} yet.",
        f"It is not finished: the {made} is saved at its end, and checkpoints hold it until then.",
        f"python -m kit.train --config {run / RUN} --output {run}        (goes on where it stopped)",
    )


def _no_adapter(path: Path) -> Finding:
    if (path / "config.json").is_file():
        return problem(
            "not-an-adapter",
            f"{path} is a whole model, not an adapter.",
            "An adapter is only the change to a model.",
            f"give a run folder, or a folder with {CONFIG}",
        )
    run = next((parent for parent in path.absolute().parents[:2] if (parent / RUN).is_file()), None)
    return problem(
        "no-adapter",
        f"{path} is no run and no adapter.",
        f"A run folder holds {RUN}, an adapter's folder {CONFIG}, a model's folder config.json.",
        *([f"give {run}        (the run that it is a part of)"] if run and path.exists() else []),
        "give runs/NAME          (a folder that kit.train made), or an adapter's folder",
        details={"found": _found(path)},
    )


def _found(path: Path) -> str:
    if not path.exists():
        return "no such folder"
    return ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing" if path.is_dir() else "a file"


def _weights_missing(path: Path) -> Finding | None:
    if (path / WEIGHTS).exists():
        return None
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles:
        return problem(
            "adapter-is-pickle",
            f"The adapter in {path} is a pickle file, which is not read.",
            "A pickle file can run any program when it is opened; safetensors cannot.",
            "save it again with PEFT where it was made: model.save_pretrained(folder, safe_serialization=True)",
            details={"found": ", ".join(pickles[:4])},
        )
    return problem(
        "adapter-incomplete",
        f"{path} lacks {WEIGHTS}.",
        "It was not copied or downloaded to its end, or the training never saved it.",
        "copy or download the folder again",
        details={"found": _found(path)},
    )


def _leaves_folder(path: Path) -> Finding | None:
    """A link is followed within the folder, and within the hub's cache, which is made of links."""
    real, home = (path / WEIGHTS).resolve(), path.resolve()
    of_cache = home.parents[1] / "blobs" if len(home.parents) > 1 and home.parent.name == "snapshots" else home
    if real.is_relative_to(home) or real.is_relative_to(of_cache):
        return None
    return problem(
        "adapter-leaves-its-folder",
        f"{path / WEIGHTS} is a link to a file outside of its folder.",
        "A folder from elsewhere could make the kit read, and ship, a file that is no part of it.",
        f"cp --remove-destination {real} {path / WEIGHTS}        (if it is meant)",
        details={"links to": real},
    )


def _other_kind(path: Path, config: Mapping[str, Any]) -> Finding:
    return problem(
        "adapter-kind-unknown",
        f"{path} is an adapter of a kind that the kit does not use.",
        f"Known are {', '.join(ADAPTER_KINDS)}. Others are not tested here, and a Megatron one names a program to "
        "be run.",
        "peft.PeftModel.from_pretrained(base, folder)        (what PEFT itself offers)",
        details={"peft_type": config.get("peft_type"), "megatron_config": bool(config.get("megatron_config"))},
    )
