"""Before and at the import of the libraries: the card, its memory, the environment; and who loads and adapts."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envcheck import other_gpus, settings, visible, wheels
from envcheck.facts import Facts, Gpu
from kit.backend.device import has_card
from kit.backend.device_errors import card_errors_explained
from kit.backend.silence import silence
from kit.support import environment
from kit.support.cache import cache_folder
from kit.support.errors import failure
from kit.support.units import GIB, gib
from kit.support.user_shell import shell

if TYPE_CHECKING:
    from kit.backend.loading import Loading


@dataclass(frozen=True)
class Backend:
    """Who loads and adapts: `name` is unsloth or hf, `reason` says why. notes: what was decided as it started.
    card_bytes: what of the card was free for the run then; None on a CPU."""

    name: str
    reason: str
    notes: tuple[str, ...] = ()
    card_bytes: int | None = None

    @property
    def compiles_layers(self) -> bool:
        """In the first step on a card, which then takes minutes."""
        return self.name == "unsloth" and environment.compiles_layers(os.environ)


@dataclass(frozen=True)
class PlannedCard:
    """The card that is planned for, so that it is the one that is used.

    is_only_one: of NVIDIA's cards in the machine. limit_bytes: most that torch may take of it; None: what there is.
    spills: the limit is the kit's own, as beyond it the driver would give main memory and say nothing.
    """

    gpu: Gpu
    is_only_one: bool
    limit_bytes: int | None
    spills: bool

    @classmethod
    def of(cls, facts: Facts, limit_gib: float | None = None) -> "PlannedCard | None":
        """None: the facts know of none. limit_gib: what the user allows.

        On Windows, and in WSL on it, the driver gives main memory where the card's is full, at a tenth of the speed,
        and memory never runs out. A limit, of what the plan has to itself, makes torch say it.
        """
        gpu = settings.best_card(facts)
        if gpu is None:
            return None
        limit_bytes = int(limit_gib * GIB) if limit_gib else None
        spills = limit_bytes is None and bool(facts.is_windows or facts.is_wsl)
        if spills:
            limit_bytes = settings.choose(facts).memory_bytes.value
        return cls(gpu, len(wheels.nvidia_cards(facts)) == 1, limit_bytes, spills and limit_bytes is not None)


def starting_words(loading: "Loading") -> str:
    """What the user waits for."""
    folder = Path(os.environ.get(environment.COMPILED_FOLDER) or cache_folder("unsloth"))
    is_first = loading.device == "cuda" and loading.backend != "hf" and not any(folder.glob("*.py"))
    return "starting the libraries" + (": the first time on this machine takes a minute" if is_first else "")


@card_errors_explained()
def start(loading: "Loading") -> Backend:
    """Import the libraries in the right order. Where Unsloth cannot start, `auto` goes on with transformers and PEFT.

    Raises KitError: the backend is to be unsloth and Unsloth cannot start; torch sees no card, or another one.
    """
    notes = _set_environment(loading)
    backend = Backend("hf", loading.reason) if loading.backend == "hf" else _start_unsloth(loading.backend == "unsloth")
    card_bytes = None
    if loading.device == "cuda":
        _check_card(loading.card)
        card_bytes = _free_for_the_run()
        notes += _limit_card(loading.card, card_bytes)
        if backend.compiles_layers:
            notes += (
                f"{environment.LAYERS_COMPILED} is set, so the layers are compiled in the first step: minutes, another "
                "memory than planned, and after a resume another rounding.",
            )
    return Backend(backend.name, backend.reason, notes, card_bytes)


def _set_environment(loading: "Loading") -> tuple[str, ...]:
    """Before torch and Unsloth are imported, which read it then."""
    folder, notes = _private_folder(cache_folder("unsloth"))
    os.environ.update(environment.of_compiled(folder, os.environ))
    environment.set_constant(os.environ)
    if loading.device == "cpu":
        os.environ.update(other_gpus.HIDDEN)  # also a card that torch would find and then fail on
    elif loading.card:
        card = loading.card
        os.environ.update(environment.of_card(card.gpu.index, card.gpu.uuid, card.is_only_one, os.environ))
    return notes


def _private_folder(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder, which nobody else may write to, as what lies in it is run; else one for this process, and why."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)  # by its owner only
    except OSError as error:
        own = Path(tempfile.mkdtemp(prefix="unsloth-"))
        return own, (f"{folder} cannot be this user's alone ({error.strerror}): Unsloth writes its trainers to {own}.",)
    return folder, ()


def _start_unsloth(required: bool) -> Backend:
    """Unsloth, or where it cannot start and is not required hf. Raises KitError: required, and it cannot start."""
    try:
        with silence():
            import unsloth  # noqa: F401 - patches trl, transformers and peft
    except Exception as error:  # a broken install raises anything: ImportError, RuntimeError, OSError, AttributeError
        reason = f"Unsloth cannot start: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if not required:
            return Backend("hf", reason)
        raise failure(
            "unsloth-cannot-start",
            "Unsloth was asked for and cannot start.",
            reason,
            "python -m envcheck           (says what is broken)",
            "--backend hf                 (plain transformers and PEFT)",
        ) from error
    return Backend("unsloth", "Unsloth started")


def _check_card(card: PlannedCard | None) -> None:
    """Raises KitError: torch sees no card, or not the one that was planned for."""
    import torch

    if not has_card():
        raise failure(
            "torch-sees-no-card",
            "There is a graphics card, and torch cannot use it.",
            "Either torch is built for the CPU or for AMD, or a run in this process was on the CPU: that cannot be "
            "undone.",
            "python -m envcheck           (says what is wrong with torch or the driver)",
            "a fresh process              (in a notebook: restart the kernel)",
        )
    seen = torch.cuda.get_device_properties(0)
    if card and not is_same(card.gpu, seen.name, str(getattr(seen, "uuid", ""))):
        raise failure(
            "other-card",
            f"The run is planned for {card.gpu.name}, and torch uses {seen.name}.",
            "Something in this process had begun to use a card before, or its number is another one's: a card cannot "
            "be exchanged after that.",
            "a fresh process              (in a notebook: restart the kernel, and the kit's cells first)",
            f"{shell().set_env(visible.VARIABLE, 'GPU-...')}       (before it: the UUID that nvidia-smi -L says)",
        )


def is_same(gpu: Gpu, name: str, uuid: str) -> bool:
    """Whether it is the card that torch names so. A card without a UUID is known by its name; a slice of one (MIG)
    by neither."""
    if (gpu.uuid or "").startswith("MIG-"):
        return True
    if gpu.uuid and uuid:
        return gpu.uuid.lower() == f"gpu-{uuid}".lower()
    return gpu.name in (None, name)


def _free_for_the_run() -> int:
    """Of the card: what nobody holds, and what torch has kept of an earlier run in this process."""
    import torch

    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()


def _limit_card(card: PlannedCard | None, free_bytes: int) -> tuple[str, ...]:
    """No more of the card than the limit: beyond it torch says that memory ran out. Limit and counted peak are those
    of this run, also where several follow one another in a process. free_bytes: for it, now."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    limit_bytes, total_bytes = card.limit_bytes if card else None, torch.cuda.get_device_properties(0).total_memory
    if card and limit_bytes is not None and card.spills:
        limit_bytes = min(limit_bytes, free_bytes)
    share = 1.0 if limit_bytes is None else min(1.0, limit_bytes / total_bytes)
    torch.cuda.set_per_process_memory_fraction(share)
    if not card or limit_bytes is None or not card.spills:
        return ()
    return (
        f"No more than {gib(limit_bytes)} GiB of the card are taken: beyond what is free the driver of Windows would "
        "take main memory without a word, at a tenth of the speed (--vram-limit-gib sets another limit; "
        "python -m envcheck --explain windows-sysmem-fallback).",
    )
