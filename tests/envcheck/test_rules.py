import pytest
from hypothesis import given, settings
from test_facts import ANY_FACTS

from envcheck import known, rules
from envcheck.facts import Facts
from envcheck.rules import training

BLACKWELL = {"name": "NVIDIA GeForce RTX 5080", "compute_capability": "12.0", "vram_gib": 15.9}
ADA = {"name": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9", "vram_gib": 23.5}
TURING = {"name": "Tesla T4", "compute_capability": "7.5", "vram_gib": 14.7}
PASCAL = {"name": "NVIDIA GeForce GTX 1080 Ti", "compute_capability": "6.1", "vram_gib": 11.0}
MIG = {"name": "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "compute_capability": "8.0"}
LINUX = {"os": "Ubuntu 24.04"}

DEEP = {"os": "Windows 11", "long_paths": False, "site_packages_characters": 86, "packages": {"torch": None}}

REACHED = [  # (id, facts that give it away)
    ("windows-sysmem-fallback", {"os": "Windows 11", "gpu": [BLACKWELL], "driver": "581.57"}),
    ("windows-sysmem-fallback", {"os": "Windows 10", "gpu": [PASCAL]}),
    ("windows-sysmem-fallback", {"os": "Ubuntu 24.04 (WSL2)", "wsl": True, "gpu": [ADA], "driver": "560.94"}),
    ("windows-path-too-long", DEEP),
    ("windows-path-too-long", {**DEEP, "packages": {}}),
    ("gpu-not-nvidia", {"gpu": [{"name": "Apple M4 Pro"}], "os": "macOS 15.6 arm64"}),
    ("gpu-not-nvidia", {"gpu": [{"name": "Intel(R) Arc(TM) A770 Graphics"}]}),
    ("gpu-not-nvidia", {"gpu": [{"name": "AMD Radeon RX 7900 XTX"}], "packages": {"torch": "2.9.1+rocm6.4"}}),
    ("torch-lacks-gpu-arch", {"gpu": [BLACKWELL], "packages": {"torch": "2.9.1+cu126"}}),
    (
        "torch-lacks-gpu-arch",
        {
            "gpu": [{"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}],
            "packages": {"torch": "1.13.1+cu117"},
        },
    ),
    ("torch-lacks-gpu-arch", {"gpu": [{"name": "NVIDIA GeForce RTX 5060"}], "packages": {"torch": "2.5.1"}}),
    ("torch-dropped-gpu-arch", {"gpu": [PASCAL], "packages": {"torch": "2.8.0+cu128"}}),
    ("torch-dropped-gpu-arch", {"gpu": [PASCAL], "packages": {"torch": "2.8.0+cu128"}, "os": "Windows 11"}),
    (
        "torch-dropped-gpu-arch",
        {"gpu": [{"name": "Tesla V100-SXM2-16GB", "compute_capability": "7.0"}], "packages": {"torch": "2.11.0+cu128"}},
    ),
    ("torch-cpu-only-build", {"gpu": [ADA], "packages": {"torch": "2.8.0+cpu"}}),
    ("torch-cpu-only-build", {"packages": {"torch": "2.8.0+cpu"}, "driver": "560.94", "os": "Windows 11"}),
    ("torch-missing", {"gpu": [ADA], "packages": {"torch": None}}),
    ("no-gpu-present", {"os": "Linux (Colab)", "gpu": [], "torch_cuda": "12.4"}),
    ("no-gpu-present", {"os": "Ubuntu 24.04", "gpu": [], "training": {"load_in_4bit": True}}),
    ("driver-too-old-for-cuda", {"driver": "470.256.02", "torch_cuda": "12.4", "gpu": [ADA]}),
    ("driver-too-old-for-cuda", {"driver": "565.77", "gpu": [BLACKWELL]}),
    ("driver-too-old-for-cuda", {"driver_cuda": "12.8", "torch_cuda": "13.0"}),
    ("driver-library-mismatch", {"nvidia_smi": "Failed to initialize NVML: Driver/library version mismatch"}),
    (
        "driver-not-loaded",
        {"nvidia_smi": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."},
    ),
    ("gpu-hardware-fault", {"nvidia_smi": "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost."}),
    ("container-gpu-access-missing", {"os": "Ubuntu 22.04 (Docker)", "gpu": [], "torch_cuda": "12.8"}),
    (
        "container-gpu-access-missing",
        {"os": "Linux (Docker)", "gpu": [ADA], "torch_cuda": "12.8", "torch_cuda_available": False},
    ),
    ("gpu-too-old-for-feature", {"gpu": [TURING], "model": "RedHatAI/Qwen3-8B-FP8"}),
    ("gpu-too-old-for-feature", {"gpu": [PASCAL], "packages": {"vllm": "0.9.1"}}),
    ("mixed-gpu-architectures", {"gpu": [BLACKWELL, PASCAL], "packages": {"torch": "2.8.0+cu128"}}),
    ("mixed-gpu-architectures", {"gpu": [ADA, TURING], "env": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}}),
    ("cuda-visible-devices-hides-gpu", {"gpu": [ADA], "env": {"CUDA_VISIBLE_DEVICES": "1"}}),
    ("cuda-visible-devices-hides-gpu", {"gpu_count": 2, "env": {"CUDA_VISIBLE_DEVICES": "2,3"}}),
    (
        "cuda-device-order",
        {
            "gpu": [ADA, {"name": "NVIDIA GeForce RTX 3090", "compute_capability": "8.6"}],
            "env": {"CUDA_VISIBLE_DEVICES": "1"},
        },
    ),
    ("env-var-misspelled", {"env": {"CUDA_VISBLE_DEVICES": "0"}}),
    ("env-var-misspelled", {"env": {"cuda_visible_devices": "0"}}),
    ("unsloth-single-gpu-only", {"gpu": [ADA, ADA], "packages": {"unsloth": "2024.8"}}),
    ("more-processes-than-gpus", {"gpu": [ADA], "training": {"num_processes": 2}}),
    (
        "quantized-model-wrong-device",
        {"gpu": [TURING, TURING], "training": {"load_in_4bit": True, "bf16": False, "fp16": True}},
    ),
    ("nccl-p2p-unsupported", {"gpu": [ADA, ADA], "env": {}, "training": {"num_processes": 2}}),
    ("nccl-too-old-for-gpu", {"gpu": [BLACKWELL, BLACKWELL], "packages": {"nvidia-nccl-cu12": "2.21.5"}}),
    ("mig-instance-selection", {"gpu": [MIG, MIG], "env": {}}),
    ("cuda-library-shadowed", {"env": {"LD_LIBRARY_PATH": "/usr/local/cuda-11.8/lib64"}, "torch_cuda": "12.4"}),
    ("cuda-library-shadowed", {"packages": {"torch": "2.5.1+cu124", "nvidia-nvjitlink-cu12": "12.1.105"}}),
    ("cuda-runtime-major-mismatch", {"packages": {"torch": "2.8.0+cu128", "torchaudio": "2.8.0+cu118"}}),
    ("cuda-toolkit-missing", {"installing": {"flash-attn": "2.8.3"}, "nvcc": False}),
    ("libcuda-not-found", {"wsl": True, "env": {"LD_LIBRARY_PATH": "/opt/lib"}}),
    ("no-c-compiler", {"os": "Ubuntu 24.04", "c_compiler": False, "gpu": [ADA]}),
    ("python-headers-missing", {"python_headers": False, "python": "3.11.4"}),
    ("system-library-too-old", {"glibc": "2.17", "packages": {"torch": "2.8.0+cu128"}}),
    ("windows-vc-runtime-missing", {"os": "Windows 10", "packages": {"torch": "2.4.0+cu124"}}),
    (
        "xformers-fa3-on-blackwell",
        {"gpu": [BLACKWELL], "packages": {"torch": "2.8.0+cu128", "xformers": "0.0.32.post2"}},
    ),
    ("xformers-built-for-other-torch", {"packages": {"torch": "2.7.1+cu128", "xformers": "0.0.32.post2"}}),
    (
        "xformers-built-for-other-torch",
        {"packages": {"torch": "2.7.1+cu128"}, "built_for": {"xformers": {"torch": "2.6.0+cu124"}}},
    ),
    (
        "cuda-package-on-rocm",
        {"packages": {"torch": "2.8.0+rocm6.3"}, "built_for": {"xformers": {"torch": "2.8.0+cu128"}}},
    ),
    (
        "flash-attn-abi-mismatch",
        {"packages": {"torch": "2.8.0+cu128", "flash-attn": "2.7.4+cu12torch2.6cxx11abiFALSE"}},
    ),
    ("attention-kernel-unsupported", {"gpu": [TURING], "training": {"attn_implementation": "flash_attention_2"}}),
    ("attention-kernel-unsupported", {"gpu": [BLACKWELL], "packages": {"flash-attn": "2.6.3"}}),
    ("attention-kernel-unsupported", {"gpu": [BLACKWELL], "packages": {"flash-attn": "2.7.4.post1"}}),
    ("attention-kernel-unsupported", {"gpu": [BLACKWELL], "packages_bounds": {"flash-attn": "==2.6.*"}}),
    ("attention-kernel-unsupported", {"gpu": [BLACKWELL], "training": {"attn_implementation": "flash_attention_3"}}),
    ("bnb-missing-cuda-binary", {"packages": {"torch": "2.9.0+cu130", "bitsandbytes": "0.47.0"}}),
    ("bnb-missing-cuda-binary", {"os": "Windows 11", "packages": {"bitsandbytes": "0.42.0"}}),
    (
        "bnb-missing-cuda-binary",
        {
            "torch_cuda": "13.2",
            "packages": {"bitsandbytes": "0.49.2"},
            "built_for": {"bitsandbytes": {"cuda": "118 128 130"}},
        },
    ),
    (
        "bnb-no-kernels-for-gpu",
        {
            "gpu": [{"name": "AMD Radeon VII (gfx906)"}],
            "packages": {"torch": "2.8.0+rocm6.3", "bitsandbytes": "0.49.0"},
        },
    ),
    (
        "bnb-no-kernels-for-gpu",
        {"gpu": [PASCAL], "packages": {"bitsandbytes": "0.47.0"}, "training": {"load_in_8bit": True, "fp16": True}},
    ),
    ("triton-missing", {"os": "Windows 11", "gpu": [ADA], "packages": {"triton": None}}),
    ("triton-torch-mismatch", {"os": "Windows 11", "packages": {"triton": "3.1.0"}}),
    ("triton-torch-mismatch", {"os": "Ubuntu", "packages": {"torch": "2.9.1+cu128", "triton": "3.2.0"}}),
    ("torchvision-mismatch", {"packages": {"torch": "2.8.0", "torchvision": "0.22.1"}}),
    ("torchvision-mismatch", {"packages": {"torch": "2.8.0+cu128", "torchvision": "0.23.0+cpu"}}),
    ("torchaudio-mismatch", {"packages": {"torch": "2.8.0+cu128", "torchaudio": "2.7.1+cu128"}}),
    ("torchao-incompatible", {"packages": {"peft": "0.19.1", "torchao": "0.13.0"}}),
    ("vllm-version-mismatch", {"packages": {"vllm": "0.8.5", "torch": "2.7.0+cu128"}}),
    ("numpy-abi-mismatch", {"packages": {"torch": "2.1.2", "numpy": "2.0.1"}}),
    ("python-version-unsupported", {"python": "3.8.10", "requires_python": ">=3.9"}),
    ("python-version-unsupported", {"python": "3.14.0", "installing": {"torch": "2.8.0"}}),
    ("environment-mixup", {"packages": {"transformers": "4.57.1"}, "imported_versions": {"transformers": "4.40.0"}}),
    ("package-metadata-broken", {"broken_packages": ["transformers"]}),
    ("unsloth-zoo-out-of-step", {"packages": {"unsloth": "2025.11.6", "unsloth_zoo": "2025.3.1"}}),
    ("unsloth-zoo-out-of-step", {"packages": {"unsloth": "2025.3.19", "unsloth_zoo": "2025.9.3"}}),
    ("newer-than-unsloth-supports", {"packages": {"unsloth": "2025.11.6", "transformers": "5.2.0"}}),
    ("newer-than-unsloth-supports", {"packages": {"unsloth": "2025.8.1", "transformers": "5.1.0"}}),
    (
        "newer-than-unsloth-supports",
        {"requires": {"unsloth": "torch>=2.4.0,<2.11.0"}, "installing": {"torch": "2.12.0"}},
    ),
    ("transformers-too-old-for-model", {"model": "Qwen/Qwen3-8B", "packages": {"transformers": "4.49.0"}}),
    (
        "torch-too-old-for-transformers",
        {"packages": {"torch": "2.4.1+cu121", "transformers": "4.55.0", "accelerate": "1.10.1"}},
    ),
    ("package-set-out-of-step", {"packages": {"transformers": "4.57.1", "huggingface-hub": "1.1.0"}}),
    ("package-set-out-of-step", {"packages": {"transformers": "5.3.0", "peft": "0.17.1"}}),
    ("trl-renamed-argument", {"packages": {"trl": "0.24.0"}, "training": {"sft_trainer_kwargs": ["tokenizer"]}}),
    ("silent-truncation", {"packages": {"trl": "0.18.2"}, "training": {"sft_trainer_kwargs": ["max_seq_length"]}}),
    ("bf16-unsupported", {"gpu": [TURING], "training": {"bf16": True}}),
    ("precision-mismatch", {"training": {"bf16": True, "fp16": True}}),
    ("fp16-overflow", {"model": "google/gemma-2-9b-it", "training": {"fp16": True}}),
    ("fp16-overflow", {"training": {"model_half": True}}),
    ("all-labels-masked", {"model": "unsloth/Qwen3-4B", "training": {"response_part": "<|start_header_id|>assistant"}}),
    ("chat-template-missing", {"model": "meta-llama/Llama-3.1-8B", "training": {"apply_chat_template": True}}),
    (
        "lora-target-modules-not-found",
        {"model": "tiiuae/falcon-7b", "training": {"target_modules": ["q_proj", "v_proj"]}},
    ),
    ("lora-target-modules-not-found", {"training": {"target_modules": [".*proj"]}}),
    (
        "model-does-not-fit-vram",
        {"gpu": [TURING], "model": "Qwen/Qwen2.5-72B-Instruct", "training": {"load_in_4bit": True}},
    ),
    ("oom-evaluation", {"training": {"compute_metrics": True}}),
    (
        "oom-save-merge",
        {"model": "Qwen3-32B", "ram_gib": 16, "gpu": [ADA], "training": {"save_method": "merged_16bit"}},
    ),
    ("wsl-pinned-memory", {"wsl": True, "training": {"use_gradient_checkpointing": "unsloth"}}),
    ("windows-multiprocessing-spawn", {"os": "Windows 11", "training": {"dataset_num_proc": 4}}),
    ("windows-pagefile-too-small", {"os": "Windows 11", "ram_gib": 16, "swap_gib": 2}),
    (
        "expandable-segments-conflict",
        {"os": "Windows 11", "env": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}},
    ),
    ("disk-full", {"disk_free_gib": 20, "model": "Llama-3.1-8B", "training": {"save_method": "merged_16bit"}}),
    ("model-gated", {"model": "google/gemma-3-4b-it", "hf_logged_in": False}),
    ("merge-needs-16bit-base", {"model": "someone/Qwen-7B-bnb-4bit", "training": {"save_method": "merged_16bit"}}),
    ("hub-download-failed", {"hub_reachable": False}),
    ("gpu-not-nvidia", {"gpu": [{"name": "Intel Arc B580"}]}),
    ("smoke-test-failed", {"smoke": {"NF4 layer": {"verdict": "failed", "detail": "boom"}}}),
    ("smoke-test-hung", {"smoke": {"NF4 layer": {"verdict": "hung"}}}),
]

QUIET = [  # (id that must not appear, facts that are fine)
    ("windows-sysmem-fallback", {"os": "Ubuntu 24.04", "gpu": [BLACKWELL], "driver": "581.57"}),
    ("windows-sysmem-fallback", {"os": "Windows 11", "gpu": []}),
    ("windows-sysmem-fallback", {"os": "Windows 11", "gpu": [BLACKWELL], "training": {"device": "cpu"}}),
    ("windows-sysmem-fallback", {"os": "Windows 10", "gpu": [PASCAL], "driver": "531.79"}),
    ("windows-path-too-long", {**DEEP, "site_packages_characters": 85}),
    ("windows-path-too-long", {**DEEP, "long_paths": True}),
    ("windows-path-too-long", {**DEEP, "packages": {"torch": "2.14.1+cu130"}}),
    ("windows-path-too-long", {**DEEP, "os": "Ubuntu 24.04"}),
    ("windows-path-too-long", {"os": "Windows 11", "packages": {"torch": None}}),
    ("gpu-not-nvidia", {"gpu": [{"name": "Intel(R) UHD Graphics 770"}, ADA]}),
    ("gpu-not-nvidia", {"gpu": []}),
    ("torch-lacks-gpu-arch", {"gpu": [ADA], "torch_arch_list": ["sm_80", "sm_86", "sm_90"]}),
    ("torch-lacks-gpu-arch", {"gpu": [BLACKWELL], "torch_arch_list": ["sm_90", "compute_90"]}),
    (
        "torch-lacks-gpu-arch",
        {"gpu": [{"name": "NVIDIA GB10", "compute_capability": "12.1"}], "packages": {"torch": "2.11.0+cu130"}},
    ),
    ("torch-lacks-gpu-arch", {"gpu": [BLACKWELL], "packages": {"torch": "2.7.0.dev20250220+cu128"}}),
    ("driver-too-old-for-cuda", {"driver": "535.247.01", "torch_cuda": "12.8", "gpu": [ADA]}),
    ("driver-too-old-for-cuda", {"driver": "470.57", "torch_cuda": "12.1", "torch_cuda_available": True}),
    (
        "cuda-visible-devices-hides-gpu",
        {"gpu": [ADA], "env": {"CUDA_VISIBLE_DEVICES": ""}, "training": {"device": "cpu"}},
    ),
    ("no-gpu-present", {"gpu": [], "training": {"device": "cpu", "bf16": True}}),
    (
        "env-var-misspelled",
        {"env": {"CUDA_HOME": "/x", "CUDA_PATH_V12_8": "y", "NCCL_DEBUG_SUBSYS": "INIT", "CUDA_CACHE_PATH": "z"}},
    ),
    (
        "xformers-built-for-other-torch",
        {
            "packages": {"torch": "2.11.0+cu128", "xformers": "0.0.35"},
            "built_for": {"xformers": {"torch": "2.10.0+cu128"}},
        },
    ),
    ("newer-than-unsloth-supports", {"packages": {"unsloth": "2027.3.1", "transformers": "6.0.0", "torch": "2.17.0"}}),
    ("triton-missing", {"packages": {"triton": None, "torch": "2.8.0+cpu"}, "gpu": []}),
    (
        "no-c-compiler",
        {"os": "Windows 11", "gpu": [ADA], "c_compiler": False, "packages": {"triton-windows": "3.5.1.post24"}},
    ),
    ("attention-kernel-unsupported", {"gpu": [BLACKWELL], "packages": {"flash-attn": "2.8.3"}}),
    ("attention-kernel-unsupported", {"gpu": [BLACKWELL], "packages": {"flash-attn": None}}),
    ("attention-kernel-unsupported", {"gpu": [BLACKWELL], "packages_bounds": {"flash-attn": ">=0"}}),
    ("attention-kernel-unsupported", {"gpu": [ADA], "packages": {"flash-attn": "2.6.3"}}),
    (
        "attention-kernel-unsupported",
        {"gpu": [BLACKWELL], "packages": {"flash-attn": "2.6.3"}, "smoke": {"flash-attn": {"verdict": "ok"}}},
    ),
    (
        "attention-kernel-unsupported",
        {
            "gpu": [{"name": "NVIDIA A100-SXM4-80GB", "compute_capability": "8.0"}],
            "training": {"attn_implementation": "flash_attention_3"},
        },
    ),
    ("fp16-overflow", {"model": "Qwen/Qwen3-4B", "training": {"fp16": True}}),
    ("model-does-not-fit-vram", {"gpu": [BLACKWELL], "model": "unsloth/Qwen3-14B", "training": {"load_in_4bit": True}}),
    ("model-gated", {"model": "unsloth/gemma-3-4b-it", "hf_logged_in": False}),
    ("python-version-unsupported", {"python": "3.12", "requires_python": ">=3.9"}),
]


@pytest.mark.parametrize(("cause_id", "facts"), REACHED)
def test_the_facts_give_it_away(cause_id, facts):
    assert cause_id in [item.id for item in rules.judge(Facts.from_json(facts))]


@pytest.mark.parametrize(("cause_id", "facts"), QUIET)
def test_it_stays_quiet(cause_id, facts):
    assert cause_id not in [item.id for item in rules.judge(Facts.from_json(facts))]


@pytest.mark.parametrize(
    ("packages", "severity"),
    [
        ({"flash-attn": "2.6.3"}, "warning"),
        ({"flash-attn": "2.6.3", "unsloth": "2026.10.9"}, "error"),
        ({"flash-attn": "2.7.4.post1", "unsloth": "2026.10.9"}, "note"),
    ],
)
def test_flash_attn_without_kernels_for_blackwell_is_an_error_only_where_it_is_used(packages, severity):
    found = rules.judge(Facts.from_json({"gpu": [BLACKWELL], "packages": packages}))
    assert [item.severity for item in found if item.id == "attention-kernel-unsupported"] == [severity]


@pytest.mark.parametrize("cause_id", ["windows-sysmem-fallback", "gpu-not-nvidia"])
def test_what_a_healthy_machine_should_know_is_a_note(machines, cause_id):
    named = {"windows-sysmem-fallback": "rtx5080-windows", "gpu-not-nvidia": "apple-silicon"}[cause_id]
    assert [(item.id, item.severity) for item in rules.judge(Facts.from_json(machines[named]))] == [(cause_id, "note")]


@pytest.mark.parametrize(
    ("machine", "name"), [("amd-radeon-linux", "AMD Radeon RX 7900 XTX"), ("apple-silicon", "Apple M4 Pro")]
)
def test_a_gpu_that_idles_is_named_and_why(machines, machine, name):
    """Also where torch is built for it: there nothing said why it idles."""
    facts = Facts.from_json(machines[machine])
    (said,) = [item for item in rules.judge(facts) if item.id == "gpu-not-nvidia"]
    assert name in said.what
    assert "CPU" in said.what
    assert bool(facts.torch_hip) == any("ROCm" in value for _, value in said.details)
    assert "--preset cpu" in " ".join(said.fix)


CARDS = {
    "6.1": "NVIDIA GeForce GTX 1080 Ti",
    "7.0": "Tesla V100-SXM2-16GB",
    "7.5": "Tesla T4",
    "8.0": "NVIDIA A100-SXM4-80GB",
    "8.6": "NVIDIA GeForce RTX 3090",
    "8.9": "NVIDIA GeForce RTX 4090",
    "9.0": "NVIDIA H100 80GB HBM3",
    "12.0": "NVIDIA GeForce RTX 5080",
}


def matching_machines():
    """Every CUDA wheel of the table on every card it serves, with the companions of its release."""
    for release in known.table("torch")["releases"]:
        pair = known.pair_of_torch(release["torch"])
        for variant in release["variants"]:
            built = known.architectures(release["torch"], variant, "linux_x86_64") or []
            for capability, name in CARDS.items():
                if known.serves(built, known.parse_capability(capability)):
                    xformers = (pair["xformers"] or "").split(" ")[0]
                    packages = {
                        "torch": f"{release['torch']}+{variant}",
                        "torchvision": f"{release['torchvision']}+{variant}",
                        "triton": pair["triton"].lstrip("=~"),
                        "numpy": "1.26.4",
                        "torchaudio": release["torchaudio"],
                        "torchao": pair["torchao"],
                    }
                    if "7.5" <= capability < "10" and xformers and len(capability) == 3:
                        packages["xformers"] = xformers
                    yield {
                        "os": "Ubuntu 24.04",
                        "python": "3.12.3",
                        "gpu": [{"name": name, "compute_capability": capability, "vram_gib": 16}],
                        "driver": "595.58",
                        "driver_cuda": "13.2",
                        "torch_cuda": known.cuda_of(variant) if variant != "cpu" else None,
                        "packages": {key: value for key, value in packages.items() if value},
                        "env": {},
                        "c_compiler": True,
                        "python_headers": True,
                        "ram_gib": 32,
                        "disk_free_gib": 100,
                    }


def test_no_alarm_where_wheel_card_driver_and_companions_belong_together():
    machines = list(matching_machines())
    alarms = [
        (data["packages"], data["gpu"][0]["name"], item.id)
        for data in machines
        for item in rules.judge(Facts.from_json(data))
    ]
    assert len(machines) > 300
    assert alarms == []


def test_errors_come_first_and_nothing_is_said_twice(machines):
    for name, data in machines.items():
        found = rules.judge(Facts.from_json(data))
        order = [("error", "warning", "note").index(item.severity) for item in found]
        assert order == sorted(order), name
        assert len({(item.id, item.what) for item in found}) == len(found), name


def test_a_rule_that_raises_becomes_a_finding_and_the_others_still_run():
    def broken(facts):
        raise KeyError("x")
        yield

    def works(facts):
        return (rules.finding("torch-missing", facts),)

    found = rules.judge(Facts(), (rules.Check("a", (), (broken, works)),))
    assert [item.id for item in found] == ["torch-missing", "rule-crashed"]


def test_unknown_is_never_ok():
    assert {state for _, state, _ in rules.verdicts(Facts())} == {"unknown"}


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"gpu": [BLACKWELL], "packages": {"peft": "0.21.2"}}, "unknown"),
        ({"gpu": [BLACKWELL], "packages": {"torch": "2.11.0+cu128"}}, "ok"),
        ({"gpu": [BLACKWELL], "packages": {}, "torch_cuda": "12.8"}, "ok"),
    ],
)
def test_a_torch_that_could_not_be_read_is_unknown(facts, state):
    assert rules.verdicts(Facts.from_json(facts))[2][:2] == ("PyTorch build", state)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"gpu": [BLACKWELL]}, "unknown"),
        ({"gpu_count": 1}, "unknown"),
        ({"gpu": [BLACKWELL], "driver": "581.57"}, "ok"),
        ({"gpu": []}, "ok"),
    ],
)
def test_a_driver_that_could_not_be_read_is_unknown(facts, state):
    assert rules.verdicts(Facts.from_json(facts))[0][:2] == ("driver", state)


@settings(max_examples=200, deadline=None)
@given(ANY_FACTS)
def test_no_rule_crashes_on_any_facts(data):
    crashed = [item.details for item in rules.judge(Facts.from_json(data)) if item.id == "rule-crashed"]
    assert crashed == []


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("unsloth/Meta-Llama-3.1-70B-bnb-4bit", 70),
        ("Mixtral-8x7B", 46.7),
        ("SmolLM2-135M", 0.135),
        ("Qwen3-30B-A3B", 30),
        ("Llama 3.1 405B FP8", 405),
        ("gemma-3-12b-it", 12),
        ("Mistral", None),
        ("google/flan-t5", None),
        ("TinyLlama-1.1B (bnb 4-bit)", 1.1),
        (None, None),
    ],
)
def test_parameters_are_read_from_the_name(model, size):
    assert training.billions(model) == size
