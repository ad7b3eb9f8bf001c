"""A data set on the hub -> the Arrow files of one of its splits, fetched and cached by the `datasets` library."""

from pathlib import Path
from typing import TYPE_CHECKING

from kit.models import HUB_TIMEOUT_S
from kit.support.errors import KitError, did_you_mean, failure
from kit.support.file_names import file_name
from kit.support.user_shell import quoted, shell

if TYPE_CHECKING:
    from datasets import DatasetBuilder

SHOWN_NAMES, SHOWN_CHARACTERS = 20, 200


def find_split(name: str) -> list[Path]:
    """The files behind `owner/name`, `owner/name:split` or `owner/name:config:split`; without a name, `train`.

    Raises KitError: no such data set, config or split; a login that is needed; no network; rows that cannot be built.
    """
    repo, *choice = name.split(":")
    config = choice[0] if len(choice) == 2 else None
    split = choice[-1] if choice else "train"
    _ask(repo)
    builder = _built(repo, config)
    splits = list(builder.info.splits)
    if split not in splits:
        start = f"{repo}:{config}" if config else repo
        raise _no_such("split", split, splits, repo, [f"--data {start}:{name}" for name in splits])
    return [Path(file["filename"]) for file in builder.as_dataset(split).cache_files]


def _ask(repo: str) -> None:
    """Raises KitError for a data set that is not there or not open to the user, and for no network.

    The request has no retries, so that a missing network is reported in seconds; offline there is none.
    """
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return
    try:
        if HfApi().dataset_info(repo, timeout=HUB_TIMEOUT_S).gated:
            HfApi().auth_check(repo, repo_type="dataset")
    except GatedRepoError:
        raise _gated(repo) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise failure(
            "data-hub-missing",
            f"The hub has no data set {repo}, or it is not open to you. There is no such file or folder here either.",
            "A name that does not exist and one that needs a login get the same answer.",
            f"check the path, or the spelling on https://huggingface.co/datasets/{repo}",
            "hf auth login        (if the data set is private)",
        ) from None
    except HfHubHTTPError as error:
        refused = error.response.status_code in (401, 403)
        raise _gated(repo) if refused else _unreachable(repo, error) from None
    except (OSError, httpx.HTTPError) as error:
        raise _unreachable(repo, error) from None


def _built(repo: str, config: str | None) -> "DatasetBuilder":
    """The data set in Arrow files. Scripts of a data set are never run: the library no longer can."""
    import datasets
    import httpx
    from huggingface_hub import constants

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it would tell a server of every load
    try:
        if not constants.HF_HUB_OFFLINE:
            known = datasets.get_dataset_config_names(repo)
            if (config or datasets.get_dataset_default_config_name(repo)) not in known:
                raise _no_such("configuration", config, known, repo, [f"--data {repo}:{name}:train" for name in known])
        builder = datasets.load_dataset_builder(repo, config)
        builder.download_and_prepare()
    except (ConnectionError, httpx.HTTPError) as error:
        raise _unreachable(repo, error) from None
    except (datasets.exceptions.DatasetsError, OSError, RuntimeError, ValueError, TypeError) as error:
        if constants.HF_HUB_OFFLINE:  # what was not downloaded is missed in many ways
            raise _unreachable(repo, error) from None
        cause, folder = error.__cause__ or error, _local_folder(repo)
        raise failure(
            "data-hub-unreadable",
            f"The rows of {repo} cannot be built.",
            f"{type(cause).__name__}: {str(cause).strip()[:SHOWN_CHARACTERS]}",
            f"hf download {repo} --repo-type dataset --local-dir {quoted(folder)}",
            f"--data {quoted(folder)}        (its files as they are)",
        ) from None
    return builder


def _local_folder(repo: str) -> Path:
    return Path("data", file_name(repo.split("/")[1]))


def _gated(repo: str) -> KitError:
    return failure(
        "data-hub-gated",
        f"The data set {repo} is not open to you.",
        "Its owners ask for a login, and some for consent to their terms.",
        f"ask for access on https://huggingface.co/datasets/{repo}",
        "hf auth login",
    )


def _unreachable(repo: str, error: Exception) -> KitError:
    from huggingface_hub import constants

    folder = _local_folder(repo)
    return failure(
        "data-hub-offline",
        f"{repo} is no file or folder here, and the hub cannot be asked for it.",
        "HF_HUB_OFFLINE is set, and the data set was not downloaded before."
        if constants.HF_HUB_OFFLINE
        else f"The connection failed: {type(error).__name__}.",
        shell().unset_env("HF_HUB_OFFLINE")
        if constants.HF_HUB_OFFLINE
        else shell().set_env("HF_HUB_OFFLINE", "1") + "     (takes it from an earlier download)",
        f"hf download {repo} --repo-type dataset --local-dir {quoted(folder)}     (where there is a connection)",
        f"--data {quoted(folder)}",
    )


def _no_such(kind: str, name: str | None, known: list[str], repo: str, fix: list[str]) -> KitError:
    return failure(
        "data-hub-split",
        f"{repo} has no {kind} {name}. {did_you_mean(name, known)}".rstrip()
        if name
        else f"{repo} has several {kind}s, and none is the default.",
        "Data sets on the hub are named owner/name, owner/name:split or owner/name:configuration:split.",
        *fix[:SHOWN_NAMES],
        details={f"{kind}s": ", ".join(known[:SHOWN_NAMES])},
    )
