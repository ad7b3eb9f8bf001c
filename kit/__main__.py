"""All commands under one name: `kit train my.csv` is `python -m kit.train my.csv`. Alone it lists them, and the newest
runs.

Exit status: that of the command; 2 where there is no such command.
"""

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from envcheck.facts import Finding
from kit.options.command_line import is_script, typed_as
from kit.run import reading
from kit.run.reading import RunRecord
from kit.support import console
from kit.support.errors import USAGE, KitError, near_name, problem

DOCTOR = "doctor"  # a package beside the kit
COMMANDS = {  # -> module, what it does
    DOCTOR: ("envcheck.__main__", "is this machine fit? what to type if not"),
    "models": ("kit.memory.__main__", "which models fit which card, and which are here"),
    "train": ("kit.train", "fine-tune a model; the same command again goes on"),
    "data": ("kit.data.__main__", "check data, and see what the model will see"),
    "chat": ("kit.chat.__main__", "talk to what was trained"),
    "merge": ("kit.merge", "make a plain model of it, proven to answer the same"),
    "report": ("kit.report.__main__", "what happened in a run, as one page"),
    "sweep": ("kit.sweep.__main__", "measure what some options do on your own data"),
}
RUNS = Path("runs")
NEWEST = 5  # runs that are listed


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        module, _ = COMMANDS[words[0]]
        return importlib.import_module(module).main(words[1:])
    return console.status_of(lambda: _overview(words))


def _overview(words: Sequence[str]) -> int:
    """Raises KitError (status 2): a word that is no command."""
    if words and words[0] not in ("-h", "--help"):
        raise KitError(_unknown_command(words[0]), status=USAGE)
    width = max(len(_typed(name)) for name in COMMANDS)
    lines = ["Fine-tune a language model, in a run that cannot fail silently.", ""]
    lines += [f"  {_typed(name):<{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    lines += ["", f"--help after a command says more: {_typed('train')} --help"]
    if runs := _newest_runs(RUNS):
        lines += ["", f"The newest runs in {RUNS}:", *runs]
    console.stdout.print(Text("\n".join(lines)))
    return 0


def _typed(name: str) -> str:
    """The command as it works when it is typed."""
    return (
        typed_as(name) if is_script() or name != DOCTOR else f"python -m {COMMANDS[name][0].removesuffix('.__main__')}"
    )


def _unknown_command(word: str) -> Finding:
    is_data = Path(word).is_file()
    name = "train" if is_data else near_name(word, COMMANDS)
    typed = f"{_typed(name)} {word}" if name and is_data else _typed(name) if name else ""
    return problem(
        "unknown-command",
        f"There is no command {word}. {f'Did you mean {typed}?' if typed else ''}".rstrip(),
        f"The commands are {', '.join(COMMANDS)}.",
        typed or f"{_typed('train')} --help",
    )


def _newest_runs(folder: Path) -> list[str]:
    """A line for each, whatever state it is in; what cannot be looked into is left out."""
    try:
        runs = [(path.stat().st_mtime, path) for path in folder.iterdir() if reading.is_run(path)]
    except OSError:
        return []
    newest = sorted(runs, reverse=True)[:NEWEST]
    width = max((len(path.name) for _, path in newest), default=0)
    return [f"  {path.name:<{width}}  {_state(reading.read(path), changed_s)}" for changed_s, path in newest]


def _state(run: RunRecord, changed_s: float) -> str:
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(changed_s))
    before, after = run.loss_before, run.loss_after
    loss = f"  held-out loss {before:.3f} -> {after:.3f}" if before is not None and after is not None else ""
    return f"{date}  {run.status:<11}{loss}"


if __name__ == "__main__":
    sys.exit(main())
