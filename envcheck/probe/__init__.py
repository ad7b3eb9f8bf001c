"""This machine -> Facts. The only part of envcheck that touches the machine; nothing here raises: what fails is
unknown.

`collect` does not import torch: versions come from the installed packages' own files. The full check (`smoke=True`)
asks child processes, so that a crash or a hang there is a fact and not the end of the report.
"""

from typing import Any, Callable, Dict, List

from envcheck.facts import Facts
from envcheck.probe import nvidia, packages, system
from envcheck.probe import smoke as smoke_tests
from envcheck.probe.commands import Runner, run_command

Reader = Callable[[Runner], Dict[str, Any]]


def collect(smoke: bool = False, hub: bool = False, run: Runner = run_command) -> Facts:
    """Read this machine: about 0.2 s, with smoke=True up to minutes.

    smoke: also run the small tests in child processes. hub: also try to reach the model hub (0.7 s at most). run: how
    to start a program; tests hand in their own.
    """
    readers: List[Reader] = [system.read, packages.read, nvidia.read]
    if hub:
        readers.append(system.read_hub)
    facts, unread = Facts(), []
    for reader in readers:
        try:
            values = reader(run)
        except Exception as error:
            unread.append(f"{reader.__module__.rpartition('.')[2]}: {type(error).__name__}: {error}"[:200])
            continue
        unread += values.pop("unread", [])
        facts = facts.with_changes(**values)
    facts = facts.with_changes(unread=tuple(unread) or None)
    return smoke_tests.extend(facts, run) if smoke else facts
