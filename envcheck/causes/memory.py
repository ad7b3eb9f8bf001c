"""Causes: card memory, main memory, disk, worker processes."""

from envcheck.causes._registry import cause
from envcheck.facts import Facts
from envcheck.shell import Shell

HELD = "nvidia-smi   # memory in use, and by whom"


@cause(
    "model-does-not-fit-vram",
    "error",
    "The weights alone do not fit into the memory of the card.",
    "Parameters x bytes: 16-bit weights take 2 bytes each, 4-bit about 0.6 with their constants. What does not fit "
    "is put on the CPU, "
    "where quantised layers cannot run.",
    HELD,
    "transformers sources; arithmetic",
)
def _(shell: Shell, facts: Facts):
    four = (
        []
        if facts.run("load_in_4bit") or "4bit" in (facts.model or "").lower()
        else ["# load_in_4bit=True takes about a third of the memory"]
    )
    return [
        "# a smaller model, or a larger GPU (70B in 4-bit needs 48 GB, more VRAM than one consumer card has)",
        *four,
        "# free VRAM that other processes hold: nvidia-smi shows them; close them or restart the notebook",
    ]


@cause(
    "oom-training",
    "error",
    "Training needs more memory than the card has.",
    "Weights, gradients, optimiser states and activations together; activations grow with batch size and sequence "
    "length.",
    HELD,
    "PyTorch memory documentation",
)
def _(shell: Shell, facts: Facts):
    memory = (
        []
        if facts.is_windows
        else [shell.set_env("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True") + "  # less fragmentation"]
    )
    return [
        "# in this order: load_in_4bit=True; per_device_train_batch_size=1 with gradient_accumulation_steps; shorter "
        "max_length",
        "# (max_seq_length); gradient checkpointing (use_gradient_checkpointing='unsloth'); optim='adamw_8bit'; "
        "lower LoRA rank; smaller model",
        "# close other programs that hold VRAM (nvidia-smi)",
        *memory,
    ]


@cause(
    "oom-evaluation",
    "error",
    "Evaluation keeps the logits of the whole set on the GPU.",
    "With compute_metrics the trainer gathers all logits (rows x length x vocabulary) before it computes anything.",
    HELD,
    "transformers Trainer documentation",
)
def _(shell: Shell, facts: Facts):
    return [
        "# Trainer(preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1)), eval_accumulation_steps=1,",
        "# per_device_eval_batch_size=1, or prediction_loss_only=True; fp16_full_eval / bf16_full_eval halves the rest",
    ]


@cause(
    "oom-save-merge",
    "error",
    "Merging to 16 bit takes more memory than there is (card or main memory).",
    "The whole model is held in 16 bit while it is merged and written: 2 bytes for each parameter, and more for a "
    "shard in flight.",
    HELD + "; free -h",
    "Unsloth documentation",
)
def _(shell: Shell, facts: Facts):
    return [
        "# model.save_pretrained_merged(..., save_method='merged_16bit', maximum_memory_usage=0.5), lower it further "
        "if needed,",
        "# or merge in a fresh process without the trainer (on the CPU if main memory allows),",
        "# or save only the LoRA adapter: model.save_pretrained('adapter')",
    ]


@cause(
    "wsl-pinned-memory",
    "error",
    "WSL2 limits pinned host memory: it fails as 'out of memory' while VRAM is free.",
    "Offloaded gradient checkpointing and pinned data loaders allocate page-locked memory, of which WSL2 gives only "
    "a part.",
    "free -h; nvidia-smi",
    "NVIDIA CUDA on WSL user guide, limitations",
)
def _(shell: Shell, facts: Facts):
    return [
        "# in the script: use_gradient_checkpointing=True (not 'unsloth', which offloads to pinned memory), "
        "dataloader_pin_memory=False",
        "# more memory for WSL: in Windows, %UserProfile%\\.wslconfig: [wsl2] memory=24GB (about 3/4 of the RAM), "
        "then: wsl --shutdown",
    ]


@cause(
    "dataset-workers-died",
    "error",
    "Dataset worker processes were killed or could not start.",
    "Each process holds its own copy of tokenizer and data: main memory runs out and the kernel kills one; or a "
    "worker cannot be started "
    "by this script.",
    "free -h; sudo dmesg | grep -i 'killed process'",
    "datasets documentation",
)
def _(shell: Shell, facts: Facts):
    guard = (
        ["# on Windows also: if __name__ == '__main__': around the script"] if facts.is_windows or not facts.os else []
    )
    return [
        "# dataset_num_proc=None or 1 (SFTConfig), num_proc=1 in dataset.map; preprocessing_num_workers: 1; free "
        "main memory (RAM)",
        *guard,
    ]


@cause(
    "windows-multiprocessing-spawn",
    "error",
    "On Windows worker processes import the script again and fail or start without end.",
    "Windows has no fork: every worker begins with the main module, and generated modules (UnslothSFTTrainer) are "
    "not on its path.",
    'python -c "import multiprocessing; print(multiprocessing.get_start_method())"',
    "Python multiprocessing documentation",
)
def _(shell: Shell, facts: Facts):
    return [
        "# dataset_num_proc=None (SFTConfig) and dataloader_num_workers=0; put the script into: if __name__ == "
        "'__main__':",
        "# and update unsloth:",
        shell.install("-U", "unsloth", "unsloth_zoo"),
    ]


@cause(
    "windows-pagefile-too-small",
    "error",
    "The Windows commit limit (RAM + page file) is exhausted.",
    "Windows reserves memory for every process at once; large DLLs and mapped weights count in full: WinError 1455.",
    "Get-CimInstance Win32_OperatingSystem | Select-Object TotalVirtualMemorySize, FreeVirtualMemory",
    "Microsoft documentation, WinError 1455",
)
def _(shell: Shell, facts: Facts):
    return [
        "# enlarge the page file: Settings > System > About > Advanced system settings > Performance > Advanced > "
        "Virtual memory:",
        "# custom size, at least 32 GB (32768 to 65536 MB), then restart",
        "# and fewer processes: dataloader_num_workers=0, dataset_num_proc=None",
    ]


@cause(
    "windows-sysmem-fallback",
    "note",
    "On Windows and WSL a full card borrows main memory: no error, but ten times slower or worse.",
    "NVIDIA's driver for Windows hands out main memory, over PCIe, when the card's own is full. 'Out of memory' is "
    "then never said, so nothing makes a batch smaller: a step that took a second takes ten or more. kit train keeps "
    "itself below what is free, so that torch says it in time; other programs, and a browser that comes later, do not.",
    "Task Manager, Performance, GPU: 'Dedicated GPU memory' full and 'Shared GPU memory' growing while it trains",
    "NVIDIA support answer 5490, System Memory Fallback (driver 536.40; setting from 546.01 on); microsoft/WSL issue "
    "11050; checked 2026-11-28",
)
def _(shell: Shell, facts: Facts):
    setting = "'CUDA - Sysmem Fallback Policy' -> 'Prefer No Sysmem Fallback'"
    less = "# less at once: fewer samples, shorter rows, a smaller model; close what else holds the card (nvidia-smi)"
    if facts.is_wsl or facts.is_linux:  # no other Linux has this
        return [
            f"# in Windows: NVIDIA Control Panel > Manage 3D settings > Global Settings > {setting}, Apply, then:",
            "# wsl --shutdown   (WSL has no setting of its own; it is reported not to follow this one in every driver)",
            "# so set a limit in the program as well, before it loads: torch.cuda.set_per_process_memory_fraction(0.9)",
            less,
        ]
    return [
        "# the python.exe that really runs (that of a venv only starts another one):",
        shell.python("import sys; print(sys._base_executable)"),
        f"# NVIDIA Control Panel > Manage 3D settings > Program Settings: add that python.exe, then {setting}, Apply",
        "# and start the program again: from now on it says 'out of memory', which kit train answers with less at once",
        less,
    ]


@cause(
    "expandable-segments-conflict",
    "error",
    "expandable_segments is set where it is not supported or clashes.",
    "The option works on Linux only, and vLLM's sleep mode uses a memory pool that excludes it.",
    "echo $PYTORCH_CUDA_ALLOC_CONF",
    "PyTorch CUDA allocator documentation, pytorch issue 147851",
)
def _(shell: Shell, facts: Facts):
    return [
        shell.unset_env("PYTORCH_CUDA_ALLOC_CONF"),
        shell.unset_env("PYTORCH_ALLOC_CONF"),
        "# remove expandable_segments:True from both (newer torch reads the second); keep the other options in them",
    ]


@cause(
    "disk-full",
    "error",
    "There is not enough disk for the weights.",
    "A merged 16-bit model takes 2 bytes for each parameter, and while it is written the downloaded weights are "
    "there too.",
    "df -h . ~/.cache/huggingface",
    "arithmetic",
)
def _(shell: Shell, facts: Facts):
    return [
        "# save only the LoRA adapter: model.save_pretrained('adapter'), or write to a larger disk (more free disk "
        "space)",
        "# free the download cache:",
        shell.run("hf cache prune"),
        "# or move the cache to a larger disk:",
        shell.set_env("HF_HOME", "D:\\hf" if facts.is_windows else "/path/on/larger/disk"),
    ]
