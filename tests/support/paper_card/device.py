"""What torch.cuda answers on a paper card: name and size are the card's, memory taken is this process's own."""

import contextlib
from types import SimpleNamespace
from typing import Any

import psutil
import torch

from tests.support.paper_card import cards
from tests.support.paper_card.placement import CPU, is_card

ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
LIMITS: dict[int, float] = {}  # index of a card -> the share of its memory that may be taken


class Stream:
    """Everything is done at once, so there is nothing to wait for."""

    cuda_stream = stream_id = device_index = 0
    device = torch.device("cuda", 0)

    def __init__(self, *_: Any, **__: Any): ...

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def wait(self, *_: Any) -> None: ...

    wait_stream = wait_event = synchronize = record = wait

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: object) -> float:
        return 0.0

    def record_event(self, event: Any = None) -> Any:
        return event or Stream()


class Guard(contextlib.AbstractContextManager):
    """`with torch.cuda.device(index)`."""

    def __init__(self, device: Any = 0):
        self.idx = device

    def __exit__(self, *_: Any) -> None: ...


GENERATOR = torch.Generator()


def card(device: Any = None) -> cards.Card:
    """The one of torch's index, "cuda:1" or device; the first where nothing is said."""
    index = device if type(device) is int else torch.device(device).index if device is not None else 0
    return cards.visible()[index or 0]


def properties(device: Any = None) -> SimpleNamespace:
    """The fields of cudaDeviceProp that somebody reads, those of an RTX 5080 where cards differ."""
    found = card(device)
    return SimpleNamespace(
        name=found.name, major=found.capability[0], minor=found.capability[1], total_memory=found.total_bytes,
        uuid=found.uuid.removeprefix("GPU-"), multi_processor_count=84, warp_size=32, is_integrated=0,
        is_multi_gpu_board=0, max_threads_per_multi_processor=1536, regs_per_multiprocessor=65536,
        shared_memory_per_block=49152, shared_memory_per_block_optin=101376, shared_memory_per_multiprocessor=102400,
        L2_cache_size=67108864, gcnArchName="", pci_bus_id=found.index, pci_device_id=0, pci_domain_id=0,
    )  # fmt: skip


def taken_bytes() -> int:
    return psutil.Process().memory_info().rss


def memory(device: Any = None) -> tuple[int, int]:
    """(free, total) in bytes."""
    total = card(device).total_bytes
    return max(0, total - taken_bytes()), total


def limit(fraction: float, device: Any = None) -> None:
    LIMITS[device or 0] = fraction


def nothing() -> Any:
    """An answer for what only a real card does; one for each name, as torch's compiler keeps a table of functions."""
    return lambda *_, **__: None


MEMORY = ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved")
ONLY_REAL = (
    "_lazy_init", "empty_cache", "init", "ipc_collect", "reset_max_memory_allocated", "reset_peak_memory_stats",
    "set_device", "synchronize",
)  # fmt: skip
ANSWERS = {
    "is_available": lambda: bool(cards.visible()),
    "device_count": lambda: len(cards.visible()),
    "current_device": lambda: 0,
    "is_initialized": lambda: True,
    "get_device_name": lambda device=None: card(device).name,
    "get_device_capability": lambda device=None: card(device).capability,
    "get_device_properties": properties,
    "is_bf16_supported": lambda including_emulation=True: card().capability >= (8, 0),
    "get_arch_list": lambda: ARCHITECTURES,
    "can_device_access_peer": lambda *_: False,
    "mem_get_info": memory,
    **{name: lambda device=None: taken_bytes() for name in MEMORY},
    "memory_stats": lambda device=None: {"allocated_bytes.all.current": 0, "reserved_bytes.all.peak": 0},
    "host_memory_stats": lambda: {"allocated_bytes.current": 0, "active_bytes.current": 0},
    "set_per_process_memory_fraction": limit,
    "get_per_process_memory_fraction": lambda device=None: LIMITS.get(device or 0, 1.0),
    "manual_seed": GENERATOR.manual_seed,
    "manual_seed_all": GENERATOR.manual_seed,
    "seed": GENERATOR.seed,
    "seed_all": GENERATOR.seed,
    "initial_seed": GENERATOR.initial_seed,
    "get_rng_state": lambda device="cuda": GENERATOR.get_state(),
    "set_rng_state": lambda state, device="cuda": GENERATOR.set_state(state),
    "get_rng_state_all": lambda: [GENERATOR.get_state()],
    "set_rng_state_all": lambda states: [GENERATOR.set_state(state) for state in states],
    "current_stream": lambda device=None: Stream(),
    "default_stream": lambda device=None: Stream(),
    "stream": lambda stream=None: contextlib.nullcontext(),
    "is_current_stream_capturing": lambda: False,
    "Stream": Stream,
    "Event": Stream,
    "StreamContext": contextlib.nullcontext,
    "device": Guard,
    **{name: nothing() for name in ONLY_REAL},
}
IN_C = {
    "_cuda_getCurrentRawStream": lambda index=0: 0,
    "_cuda_getDevice": lambda: 0,
    "_cuda_isCurrentStreamCapturing": lambda: False,
    "_host_emptyCache": nothing(),
    "_accelerator_getAccelerator": lambda: torch.device("cuda"),
    "_accelerator_getDeviceIndex": lambda: 0,
    "_accelerator_exchangeDevice": lambda index: 0,
    "_accelerator_maybeExchangeDevice": lambda index: 0,
    "_accelerator_getStream": lambda index: Stream(),
    "_accelerator_isAllocatorInitialized": lambda: False,
    "_accelerator_getMemoryInfo": lambda index=0: memory(index),
    "_accelerator_setDeviceIndex": nothing(),
    "_accelerator_setStream": nothing(),
    "_accelerator_synchronizeDevice": nothing(),
    "_accelerator_emptyCache": nothing(),
}
ACCELERATOR = {
    "is_available": ANSWERS["is_available"],
    "device_count": ANSWERS["device_count"],
    "current_accelerator": lambda *_, **__: torch.device("cuda"),
    "current_device_index": lambda: 0,
    "synchronize": nothing(),
}


def on_the_cpu(function: Any) -> Any:
    """The same, with the CPU's autocast for the card's."""
    return lambda *arguments: function(*("cpu" if is_card(one) else one for one in arguments))


def install() -> None:
    for module in (torch.cuda, torch.cuda.memory, torch.cuda.random, torch.cuda.streams):
        for name, answer in ANSWERS.items():
            if module is torch.cuda or hasattr(module, name):
                setattr(module, name, answer)
    for owner, answers in ((torch._C, IN_C), (torch.accelerator, ACCELERATOR)):
        for name, answer in answers.items():
            setattr(owner, name, answer)
    torch.Stream = torch.Event = Stream
    torch.version.cuda = cards.CUDA
    for name in ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype"):
        setattr(torch, name, on_the_cpu(getattr(torch, name)))
    torch.get_autocast_gpu_dtype = lambda: torch.get_autocast_dtype("cpu")
    for made in (torch.amp.autocast_mode.autocast, torch.amp.grad_scaler.GradScaler):
        _make_for_the_cpu(made)


def _make_for_the_cpu(made: type) -> None:
    make = made.__init__

    def init(self: Any, device: Any = "cuda", *arguments: Any, **options: Any) -> None:
        make(self, CPU.type if is_card(options.pop("device_type", device)) else device, *arguments, **options)

    made.__init__ = init
