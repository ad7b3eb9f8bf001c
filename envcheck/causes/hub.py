"""Causes: model files, the hub, merging and export."""

from envcheck.causes._registry import cause
from envcheck.facts import Facts
from envcheck.shell import Shell

HUB = "huggingface_hub documentation"


@cause(
    "model-gated",
    "error",
    "The model is gated: you are not logged in, or its terms are not accepted.",
    "Gated repositories answer 401 or 403 until the account of the token has accepted the terms on the model's page.",
    "hf auth whoami",
    HUB,
)
def _(shell: Shell, facts: Facts):
    page = (
        f"https://huggingface.co/{facts.model}"
        if facts.model and "/" in facts.model and " " not in facts.model
        else "the model's page"
    )
    return [
        f"# accept the terms on {page}, then log in with a token of that account:",
        shell.run("hf auth login"),
        "# without a prompt: set HF_TOKEN to the token; older hub: huggingface-cli login",
        "# or take an ungated copy of the same model from unsloth/... (for example unsloth/Meta-Llama-3.1-8B-Instruct)",
    ]


@cause(
    "model-not-found",
    "error",
    "There is no model under this name, on the hub or on disk.",
    "A hub id is organisation/name; anything else is taken for a local folder. Repositories also move, get renamed "
    "or are deleted.",
    "hf download ORGANISATION/NAME config.json",
    HUB,
)
def _(shell: Shell, facts: Facts):
    return [
        "# use the full repo id (organisation/name, the owner is part of it) and check the spelling on the hub, or "
        "the path of a local folder",
        "# a repo that is gone: another model or a mirror of it on the hub, with the same architecture",
        "# an id that Unsloth built itself: update it: " + shell.install("-U", "unsloth", "unsloth_zoo"),
    ]


@cause(
    "lfs-pointer-weights",
    "error",
    "The weight files are git-lfs pointers (about 130 bytes), not weights.",
    "A clone without git-lfs, or an interrupted download, leaves text files in their place; safetensors then reads a "
    "header of nonsense.",
    "ls -l *.safetensors; head -c 100 model.safetensors",
    "safetensors and git-lfs documentation",
)
def _(shell: Shell, facts: Facts):
    repo = facts.model if facts.model and "/" in facts.model and " " not in facts.model else "ORGANISATION/NAME"
    return [
        "# in the cloned folder:",
        shell.run("git lfs install"),
        shell.run("git lfs pull"),
        "# or download again with the hub's own tool:",
        shell.run(f"hf download {repo} --force-download"),
        "# then check the file sizes against the model's page",
    ]


@cause(
    "hub-download-failed",
    "error",
    "The download stalls, or the hub cannot be reached.",
    "The transfer helpers (Xet, hf_transfer) can hang on some networks; without a route (firewall, proxy, blocked "
    "region) nothing comes.",
    "curl -sI https://huggingface.co | head -1",
    HUB,
)
def _(shell: Shell, facts: Facts):
    return [
        "# it stalls: plain downloads without the helpers:",
        shell.set_env("HF_HUB_DISABLE_XET", "1"),
        shell.set_env("HF_HUB_ENABLE_HF_TRANSFER", "0"),
        "# no route: check network, firewall and proxy (HTTPS_PROXY), or a mirror (HF_ENDPOINT=https://...), or copy "
        "the model to a local folder",
        "# everything is in the cache already:",
        shell.set_env("HF_HUB_OFFLINE", "1"),
    ]


@cause(
    "merge-needs-16bit-base",
    "error",
    "A 16-bit merge was asked, but only a 4-bit base is there.",
    "merged_16bit writes the adapter into 16-bit weights; 4-bit ones have lost the digits it would need.",
    "the model id of the run: names with bnb-4bit are quantised already",
    "Unsloth documentation",
)
def _(shell: Shell, facts: Facts):
    return [
        "# train from the 16-bit (16bit) repo with load_in_4bit=True, then save_method='merged_16bit' works,",
        "# or save_method='forced_merged_4bit' for a 4-bit result, or keep the LoRA adapter: "
        "model.save_pretrained('adapter')",
    ]


@cause(
    "gguf-build-failed",
    "error",
    "llama.cpp for the GGUF export could not be built or found.",
    "The export needs llama.cpp's converter and the llama-quantize program; building them needs cmake, a compiler "
    "and the curl headers.",
    "ls llama.cpp/build/bin/llama-quantize",
    "llama.cpp build documentation",
)
def _(shell: Shell, facts: Facts):
    if facts.is_windows:
        return [
            "# take the ready-made llama.cpp release for Windows (llama-quantize.exe) or build it:",
            "winget install Kitware.CMake",
            "git clone https://github.com/ggml-org/llama.cpp",
            "cmake llama.cpp -B llama.cpp/build -DLLAMA_CURL=OFF",
            "cmake --build llama.cpp/build --config Release --target llama-quantize",
        ]
    tools = (
        "brew install cmake"
        if facts.is_macos
        else shell.apt("build-essential cmake libcurl4-openssl-dev git", "cmake gcc-c++ libcurl-devel git")
    )
    build = "cmake llama.cpp -B llama.cpp/build -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF"
    return [
        tools,
        shell.run("git clone https://github.com/ggml-org/llama.cpp"),
        shell.run(build),
        shell.run("cmake --build llama.cpp/build --config Release -j --target llama-quantize llama-gguf-split"),
        shell.run("cp llama.cpp/build/bin/llama-quantize llama.cpp/"),
        "# then run the export again from this folder",
    ]
