"""What torch, its libraries and Windows say: when memory runs out, when a card fails, when it cannot run a kernel.

Each as it is raised: the name of its kind, and its words.
"""

import builtins
import sys
from typing import Any

ADVICE = (
    "\nSearch for `{}' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information."
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nDevice-side assertion tracking was not enabled "
    "by user."
)
CUBLAS = "CUDA error: CUBLAS_STATUS_{} when calling `{}`"

MEMORY = {
    "card": (
        "OutOfMemoryError",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.47 "
        "GiB of which 1.12 GiB is free. Including non-PyTorch memory, this process has 14.20 GiB memory in use.",
    ),
    "runtime": ("AcceleratorError", "CUDA error: out of memory" + ADVICE.format("cudaErrorMemoryAllocation")),
    "runtime, by its name": ("RuntimeError", "cudaErrorMemoryAllocation while pinning 536870912 bytes"),
    "cudaMallocAsync": ("OutOfMemoryError", "Allocation on device "),
    "page-locked": ("RuntimeError", "cudaHostAlloc of 536870912 bytes failed"),
    "driver": ("RuntimeError", "CUDA driver error: out of memory"),
    "Triton": ("RuntimeError", "Triton Error [CUDA]: out of memory"),
    "driver, by its name": ("RuntimeError", "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    "cuBLAS": ("RuntimeError", CUBLAS.format("ALLOC_FAILED", "cublasCreate(handle)")),
    "cuDNN": ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cuSOLVER": (
        "RuntimeError",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    ),
    "Unsloth's loss": ("RuntimeError", "Unsloth: No or negligible GPU memory available for fused cross entropy."),
    "no NVML": (
        "RuntimeError",
        "NVML_SUCCESS == r INTERNAL ASSERT FAILED at "
        '"/pytorch/c10/cuda/CUDACachingAllocator.cpp":1131, please report a bug to PyTorch. ',
    ),
    "bitsandbytes": ("RuntimeError", "CUDA out of memory"),
    "Linux": (
        "RuntimeError",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)",
    ),
    "Windows": (
        "RuntimeError",
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 8589934592 bytes.",
    ),
    "mmap": ("RuntimeError", "unable to mmap 4096 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    "fork": ("OSError", "[Errno 12] Cannot allocate memory"),
    "Windows' page file": ("OSError", "[WinError 1455] The paging file is too small for this operation to complete"),
    "page file, in German": (
        "OSError",
        "[WinError 1455] Die Auslagerungsdatei ist zu klein, um diesen Vorgang durchzuführen",
    ),
    "page file, of safetensors": (
        "SafetensorError",
        "Error while opening file: Die Auslagerungsdatei ist zu klein (os error 1455)",
    ),
    "page file, of torch": ("RuntimeError", "Couldn't open shared file mapping: <torch_4242>, error code: <1455>"),
    "Windows 8": ("OSError", "[WinError 8] Not enough memory resources are available to process this command"),
    "Windows 14": ("OSError", "[WinError 14] Für diesen Vorgang ist nicht genügend Speicher verfügbar"),
    "Windows 1450": (
        "OSError",
        "[WinError 1450] Insufficient system resources exist to complete the requested service",
    ),
    "C++": ("RuntimeError", "std::bad_alloc"),
    "C++ of Windows": ("RuntimeError", "bad allocation"),
    "NumPy": ("MemoryError", "Unable to allocate 3.81 GiB for an array with shape (1024000000,) and data type float32"),
    "Arrow": ("MemoryError", "malloc of size 8589934592 failed"),
    "Python": ("MemoryError", ""),
    "Rust": ("SafetensorError", 'Os { code: 12, kind: OutOfMemory, message: "Cannot allocate memory" }'),
}

# memory where the card is full; where it is not, the card's
ON_A_FULL_CARD = {
    "cuBLAS starts": ("RuntimeError", CUBLAS.format("NOT_INITIALIZED", "cublasCreate(handle)")),
    "cuDNN starts": ("RuntimeError", "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    "cuSOLVER starts": (
        "RuntimeError",
        "cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`",
    ),
    "cuBLAS inside": ("RuntimeError", CUBLAS.format("INTERNAL_ERROR", "cublasGemmEx(handle, opa, opb, m, n, k)")),
    "cuDNN engine": ("RuntimeError", "GET was unable to find an engine to execute this computation"),
}

CARD = {
    "card: illegal access": (
        "AcceleratorError",
        "CUDA error: an illegal memory access was encountered" + ADVICE.format("cudaErrorIllegalAddress"),
    ),
    "card: launch failure": (
        "AcceleratorError",
        "CUDA error: unspecified launch failure" + ADVICE.format("cudaErrorLaunchFailure"),
    ),
    "card: watchdog": (
        "AcceleratorError",
        "CUDA error: the launch timed out and was terminated" + ADVICE.format("cudaErrorLaunchTimeout"),
    ),
    "card: any other": ("AcceleratorError", "something that CUDA has never said before"),
    "card: misaligned": ("RuntimeError", "CUDA error: misaligned address"),
    "card: unknown": ("AcceleratorError", "CUDA error: unknown error" + ADVICE.format("cudaErrorUnknown")),
    "card: unknown, by its name": ("RuntimeError", "cudaErrorUnknown"),
    "card: Triton": ("RuntimeError", "Triton Error [CUDA]: an illegal memory access was encountered"),
    "card: cuBLAS": ("RuntimeError", CUBLAS.format("EXECUTION_FAILED", "cublasGemmEx(handle, opa, opb, m, n, k)")),
    "card: cuDNN": ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    "card: assert": ("AcceleratorError", "CUDA error: device-side assert triggered" + ADVICE.format("cudaErrorAssert")),
    "card: ECC": (
        "AcceleratorError",
        "CUDA error: uncorrectable ECC error encountered" + ADVICE.format("cudaErrorECCUncorrectable"),
    ),
    "card: lost": ("RuntimeError", "NVML error: GPU is lost"),
    "card: off the bus": ("RuntimeError", "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."),
    "card: standby": (
        "RuntimeError",
        "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. "
        "changing env variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be "
        "zero.",
    ),
    "card: none": ("RuntimeError", "No CUDA GPUs are available"),
    "card: busy": ("AcceleratorError", "CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
}

KERNEL = {
    "kernel: no image": ("AcceleratorError", "CUDA error: no kernel image is available for execution on the device"),
    "kernel: Triton": (
        "OutOfResources",
        "out of resource: shared memory, Required: 147456, Hardware limit: 101376. "
        "Reducing block sizes or `num_stages` may help.",
    ),
    "kernel: cuDNN": ("RuntimeError", "cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans built."),
    "kernel: argument": ("AcceleratorError", "CUDA error: invalid argument" + ADVICE.format("cudaErrorInvalidValue")),
    "kernel: registers": ("RuntimeError", "CUDA error: too many resources requested for launch"),
    "kernel: cuBLAS": ("RuntimeError", CUBLAS.format("NOT_SUPPORTED", "cublasGemmEx(handle, opa, opb, m, n, k)")),
    "kernel: PTX": ("RuntimeError", "CUDA error: the provided PTX was compiled with an unsupported toolchain."),
}

OTHERS = {
    "shapes": ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (4x5 and 6x7)"),
    "a file": ("OSError", "[Errno 2] No such file or directory: 'model.safetensors'"),
    "Linux 8": ("OSError", "Exec format error (os error 8)"),
    "a dead loss": ("ValueError", "The loss of the memory bank is out of range"),
}


def error_of_text(kind: str, text: str) -> Exception:
    """As the library raises it; where torch is not imported, a RuntimeError of the name of torch's own kind."""
    made: Any = getattr(builtins, kind, None) or getattr(sys.modules.get("torch"), kind, None)
    if made is None:
        base = RuntimeError if kind in ("OutOfMemoryError", "AcceleratorError") else Exception
        made = type(kind, (base,), {})
    return made(text)
