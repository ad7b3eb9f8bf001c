"""Small tests on the card that is there, each in a child process with a time limit; a crash or a hang is a result,
not the end.

A test is a short program for the interpreter that runs envcheck. It prints "ok ..." as its last line, or "skip
REASON"; anything else, and every exit status but 0, means failed.
"""
# ruff: noqa: PTH118, PTH123
# names come from the environment: os.path answers False where Path raises on Python 3.8

import os
import sys
import tempfile
from typing import Any, Dict, NamedTuple, Optional, Tuple

from envcheck import other_gpus
from envcheck.facts import Facts
from envcheck.probe.commands import Output, Runner

DETAIL_CHARACTERS = 4000


class Test(NamedTuple):
    """`package`: only where this distribution is installed; `gpu`: only where torch can use one."""

    name: str
    package: str
    gpu: bool
    limit_s: float
    source: str


START = """
import torch
cuda = torch.cuda.is_available()
device = "cuda" if cuda else "cpu"
half = torch.bfloat16 if not cuda or torch.cuda.get_device_capability() >= (8, 0) else torch.float16
"""

SEES = """
import json, torch
cuda = torch.cuda.is_available()
mps = getattr(torch.backends, "mps", None)
print(json.dumps({
    "torch_cuda_available": cuda, "torch_cuda": torch.version.cuda, "torch_hip": getattr(torch.version, "hip", None),
    "torch_arch_list": torch.cuda.get_arch_list() if cuda else None,
    "torch_mps_available": bool(mps and mps.is_available())}))
print("ok torch", torch.__version__)
"""

MATMUL = (
    START
    + """
a = torch.randn(512, 512, device=device)
exact, fast = a @ a, (a.to(half) @ a.to(half)).float()
error = ((exact - fast).norm() / exact.norm()).item()
assert error < 0.05, "the %s product is off by %.3f" % (half, error)
print("ok %s on %s" % (str(half)[6:], device))
"""
)

ATTENTION = (
    START
    + """
q, k, v = (torch.randn(1, 4, 128, 64, device=device, dtype=half, requires_grad=True) for _ in range(3))
out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
out.float().sum().backward()
assert torch.isfinite(q.grad).all(), "the gradient is not finite"
print("ok forward and backward on %s" % device)
"""
)

NF4 = (
    START
    + """
import bitsandbytes as bnb
layer = bnb.nn.Linear4bit(256, 256, bias=False, quant_type="nf4", compute_dtype=half)
plain = layer.weight.data.clone().float()
layer = layer.to(device)
x = torch.randn(4, 256, device=device, dtype=half, requires_grad=True)
y = layer(x)
y.float().sum().backward()
error = ((y.float().cpu() - x.detach().float().cpu() @ plain.T).norm() / y.float().norm().cpu()).item()
assert error < 0.3 and torch.isfinite(x.grad).all(), "the NF4 layer is off by %.2f" % error
print("ok NF4 forward and backward on %s, bitsandbytes %s" % (device, bnb.__version__))
"""
)

OPTIMIZER = (
    START
    + """
import bitsandbytes as bnb
weight = torch.nn.Parameter(torch.ones(8192, device=device))
optimizer = bnb.optim.AdamW8bit([weight], lr=0.1)
weight.grad = torch.ones_like(weight)
optimizer.step()
assert (weight < 1).all(), "the step changed nothing"
print("ok one AdamW8bit step")
"""
)

TRITON = (
    START
    + """
import triton, triton.language as tl

@triton.jit
def add_one(pointer, n, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(pointer + index, tl.load(pointer + index, mask=index < n) + 1, mask=index < n)

x = torch.zeros(1000, device=device)
add_one[(4,)](x, 1000, BLOCK=256)
torch.cuda.synchronize()
assert (x == 1).all(), "the kernel gave wrong numbers"
print("ok compiled and ran, triton %s" % triton.__version__)
"""
)

XFORMERS = (
    START
    + """
import xformers, xformers.ops as ops
q = torch.randn(1, 128, 4, 64, device=device, dtype=half, requires_grad=True)
ops.memory_efficient_attention(q, q, q, attn_bias=ops.LowerTriangularMask()).float().sum().backward()
torch.cuda.synchronize()
print("ok forward and backward, xformers %s" % xformers.__version__)
"""
)

FLASH = (
    START
    + """
import flash_attn
q = torch.randn(1, 128, 4, 64, device=device, dtype=half, requires_grad=True)
flash_attn.flash_attn_func(q, q, q, causal=True).float().sum().backward()
torch.cuda.synchronize()
print("ok forward and backward, flash-attn %s" % flash_attn.__version__)
"""
)

UNSLOTH = """
import os
os.environ["UNSLOTH_DISABLE_STATISTICS"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "1"
own = os.path.dirname(os.path.abspath(__file__))  # a card has it write trainers, by itself into the current folder
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", os.path.join(own, "unsloth_compiled_cache"))
import unsloth
print("ok imported, unsloth %s" % unsloth.__version__)
"""

TESTS: Tuple[Test, ...] = (
    Test("16-bit product", "torch", False, 60, MATMUL),
    Test("attention", "torch", False, 60, ATTENTION),
    Test("NF4 layer", "bitsandbytes", False, 90, NF4),
    Test("8-bit optimiser", "bitsandbytes", True, 90, OPTIMIZER),
    Test("Triton kernel", "triton", True, 120, TRITON),
    Test("xformers", "xformers", True, 90, XFORMERS),
    Test("flash-attn", "flash-attn", True, 90, FLASH),
    Test("import unsloth", "unsloth", False, 180, UNSLOTH),
)
SEES_LIMIT_S = 60.0


def extend(facts: Facts, run: Runner) -> Facts:
    """The facts with torch_arch_list and its like, and `smoke`: test -> verdict (ok, failed, hung, skipped) and
    detail.
    """
    if facts.installed("torch") is not True:
        return facts
    seen = run_source(SEES, SEES_LIMIT_S, run)
    results: Dict[str, Dict[str, Any]] = {"import torch": verdict(seen)}
    if results["import torch"]["verdict"] != "ok":
        return facts.with_changes(smoke=results)
    facts = with_torch(facts, seen)
    others = other_gpus.names(facts)  # what the kit leaves alone is not tested either
    for test in TESTS:
        here = facts.installed(test.package) or (test.package == "triton" and facts.installed("triton-windows"))
        if not here or (test.gpu and (others or not facts.torch_cuda_available)):
            reason = "not installed" if not here else f"{others} is left alone" if others else "torch sees no GPU"
            results[test.name] = {"verdict": "skipped", "detail": reason}
        else:
            results[test.name] = verdict(
                run_source(test.source, test.limit_s, run, other_gpus.HIDDEN if others else None)
            )
    return facts.with_changes(smoke=results)


def with_torch(facts: Facts, seen: Output) -> Facts:
    """What torch says about itself, merged into the facts; a line that is no JSON changes nothing."""
    line = next((line for line in seen.text.splitlines() if line.startswith("{")), "{}")
    try:
        said = Facts.from_json(line)
    except ValueError:
        return facts
    names = ("torch_cuda_available", "torch_cuda", "torch_hip", "torch_arch_list", "torch_mps_available")
    return facts.with_changes(**{name: getattr(said, name) for name in names if getattr(said, name) is not None})


def run_source(source: str, limit_s: float, run: Runner, hidden: Optional[Dict[str, str]] = None) -> Output:
    """Triton reads the source of its kernels from a file, so every test is one."""
    with tempfile.TemporaryDirectory(prefix="envcheck-") as folder:
        path = os.path.join(folder, "smoke_test.py")
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(source)
        env = {**os.environ, "PYTHONIOENCODING": "utf-8", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
        return run([sys.executable, path], limit_s, {**env, **(hidden or {})})


def verdict(answer: Output) -> Dict[str, Any]:
    if answer.hung:
        return {"verdict": "hung", "detail": answer.text[-DETAIL_CHARACTERS:]}
    last = (answer.text.strip().splitlines() or [""])[-1]
    if answer.ok and last.startswith("skip "):
        return {"verdict": "skipped", "detail": last[5:]}
    if answer.ok and last.startswith("ok"):
        return {"verdict": "ok", "detail": last[3:]}
    code = "" if answer.ok else f" (exit status {answer.code})"
    return {"verdict": "failed", "detail": (answer.text.strip()[-DETAIL_CHARACTERS:] or "no output") + code}
