"""Start a program with a time limit; the answer is a record, never an exception."""

import subprocess
from typing import Callable, Dict, NamedTuple, Optional, Sequence


class Output(NamedTuple):
    """`code`: exit status; None: not started (missing) or ended for its time limit (`hung`). `text`: stdout and
    stderr.
    """

    code: Optional[int]
    text: str
    hung: bool = False

    @property
    def ok(self) -> bool:
        return self.code == 0


Runner = Callable[..., Output]
MAX_CHARACTERS = 1_000_000


def run_command(command: Sequence[str], timeout_s: float = 5.0, env: Optional[Dict[str, str]] = None) -> Output:
    """Run without a shell; output is decoded as UTF-8 with replacement characters, whatever the program wrote."""
    try:
        done = subprocess.run(
            list(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env=env,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # there is such a flag on Windows only
        )
    except subprocess.TimeoutExpired as expired:
        return Output(None, (expired.stdout or b"").decode("utf-8", "replace")[-MAX_CHARACTERS:], hung=True)
    except (OSError, ValueError) as error:
        return Output(None, str(error))
    return Output(done.returncode, done.stdout.decode("utf-8", "replace")[-MAX_CHARACTERS:])
