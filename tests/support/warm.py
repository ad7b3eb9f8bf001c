"""A Python that has imported the libraries already and forks for each program that it is given: see processes.py.

python tests/support/warm.py unsloth|hf|card        reads one request a line, answers with the exit status of each
"""

import gc
import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)
# In the order of kit.backend: Unsloth first, because it patches the others.
USED = ("trl.trainer.sft_trainer", "peft.tuners.lora.bnb", "bitsandbytes", "transformers.models.qwen3.modeling_qwen3",
        "matplotlib.backends.backend_svg", "kit.backend", "kit.report.page", "kit.run.fit")  # fmt: skip
LIBRARIES = {"unsloth": ("unsloth", *USED), "hf": USED, "card": USED}


def main(libraries: str) -> None:
    from kit.backend.silence import silence

    with silence():
        if libraries == "card":  # what the kit decides before it imports Unsloth belongs to that import
            from kit import backend

            backend.start(backend.Loading("cuda", "bf16", True, 512, backend="unsloth"))
        for name in LIBRARIES[libraries]:
            importlib.import_module(name)
    gc.freeze()  # pages that all forks share
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            sys.exit(run(**request))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(arguments: list[str], env: dict[str, str], files: list[str]) -> int | str | None:
    """As `python ARGUMENTS` in that environment, with those files for standard input, output and error."""
    for number, (file, flags) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        os.dup2(os.open(file, flags), number)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - until the process ends
    os.environ.clear()
    os.environ.update(env)
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).parent.resolve()))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        return end.code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(sys.argv[1])
