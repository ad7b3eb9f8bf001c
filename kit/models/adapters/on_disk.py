"""An adapter in a folder: of a known kind, with all its files. What a run is, is not known here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit.models import read_json
from kit.options.methods import ADAPTER_KINDS, Method, method_of
from kit.support.errors import KitError, problem
from kit.support.user_shell import shell

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
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


def find(path: Path, name: str = "") -> Adapter:
    """The adapter in that folder; by default it is called as the folder is.

    Raises KitError: files are missing, weights in a pickle, a link out of the folder, a kind that the kit does not use.
    """
    wrong = _file_missing(path) or _leaves_folder(path)
    if wrong:
        raise KitError(wrong)
    config = read_json(path / CONFIG)
    if not isinstance(config.get("peft_type"), str) or not method_of(config) or config.get("megatron_config"):
        raise KitError(_other_kind(path, config))
    return Adapter(name or path.resolve().name, path, config, None)


def content_of(path: Path) -> str:
    """What lies in a folder, in words; the first few."""
    if not path.exists():
        return "no such folder"
    return ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing" if path.is_dir() else "a file"


def _file_missing(path: Path) -> Finding | None:
    missing = next((name for name in (CONFIG, WEIGHTS) if not (path / name).exists()), "")
    if not missing:
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
        f"{path} lacks {missing}.",
        "It was not copied or downloaded to its end, or the training never saved it.",
        "copy or download the folder again",
        details={"found": content_of(path)},
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
        f"{shell().copy_over_link(str(real), str(path / WEIGHTS))}        (if it is meant)",
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
