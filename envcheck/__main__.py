"""python -m envcheck: is this machine fit for fine-tuning, and what to type if it is not."""

import argparse
import getpass
import json
import socket
import sys
from pathlib import Path
from typing import Optional, Sequence

from envcheck import report, rules, streams
from envcheck.causes import CAUSES
from envcheck.explain import judge_all
from envcheck.facts import Facts, decode


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit status: 0 no error found, 1 errors found, 2 wrong usage. A reader that has seen enough (| head) and Ctrl-C
    are no reason for a traceback."""
    streams.prepare()
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except OSError as error:
        if not streams.is_closed_pipe(error):
            raise
        streams.leave_pipe()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["install"]:
        from envcheck import install  # it starts programs: loaded only when asked for

        return install.main(arguments[1:])
    parser = _options()
    options = parser.parse_args(arguments)
    for name in ("facts", "log", "save", "explain"):
        if getattr(options, name) == "":
            parser.error(f"--{name}: the name is empty")
    if options.list:
        return _print(report.catalogue())
    if options.explain:
        return _explain(options.explain)
    if options.log:
        return _log(options, parser)
    facts = _facts(options, parser)
    if options.save:
        return _save(facts, options.save, parser)
    if options.settings:
        return _settings(facts)
    findings = judge_all(facts)
    if options.json:
        _print(json.dumps(report.to_json(facts, findings, rules.verdicts(facts)), indent=1, ensure_ascii=False))
    else:
        _print(report.screen(facts, rules.verdicts(facts), findings, report.colour_wanted(sys.stdout)))
    return 1 if any(item.severity == "error" for item in findings) else 0


def _print(text: str) -> int:
    print(text)
    return 0


def _facts(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Facts:
    if options.facts:
        try:
            return Facts.from_json(Path(options.facts).read_bytes())
        except (OSError, ValueError) as error:
            parser.error(f"--facts {options.facts}: {error}")
    from envcheck.probe import collect  # only a live machine needs it

    return collect(smoke=not (options.no_smoke or options.save or options.settings), hub=True)


def _log(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Explain a text; without --facts no machine is looked at."""
    from envcheck import explain

    try:
        data = sys.stdin.buffer.read() if options.log == "-" else Path(options.log).read_bytes()
    except OSError as error:
        parser.error(f"--log {options.log}: {error}")
    facts = _facts(options, parser) if options.facts else Facts()
    findings = explain.explain(decode(data), facts)
    if options.json:
        _print(json.dumps(report.to_json(facts, findings), indent=1, ensure_ascii=False))
    else:
        said = report.render_all(findings, report.colour_wanted(sys.stdout))
        _print(said or "Nothing to explain: the text is empty, and the facts give no cause away.")
    return 1 if any(item.severity == "error" for item in findings) else 0


def _explain(cause_id: str) -> int:
    if cause_id not in CAUSES:
        import difflib

        near = difflib.get_close_matches(cause_id.lower(), CAUSES, 1)
        print(
            f"no such id: {cause_id}" + (f"; did you mean {near[0]}?" if near else "; --list shows all"),
            file=sys.stderr,
        )
        return 2
    return _print(report.page(cause_id))


def _settings(facts: Facts) -> int:
    from envcheck import settings

    return _print(settings.to_toml(settings.choose(facts)))


def _save(facts: Facts, path: str, parser: argparse.ArgumentParser) -> int:
    host = socket.gethostname()
    names = [str(Path.home()), host, host.split(".")[0], _user()]
    text = json.dumps(report.redact(facts.to_json(), names), indent=1, ensure_ascii=False)
    try:
        Path(path).write_bytes(f"{text}\n".encode())
    except OSError as error:
        parser.error(f"--save {path}: {error}")
    print(f"saved {path}: no user, host or folder names, no tokens; read it before you share it", file=sys.stderr)
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m envcheck",
        description=__doc__,
        epilog="python -m envcheck install --help: install the training stack. Exit status: 0 no error, 1 errors "
        "found, 2 wrong usage.",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object (schema %d) instead of the screen" % report.SCHEMA
    )
    parser.add_argument("--facts", metavar="FILE", help="judge this saved machine instead of this one")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--log", metavar="FILE|-", help="explain this error text, together with --facts if given")
    task.add_argument(
        "--save", metavar="FILE", help="write the facts of this machine to a file fit for a bug report, and stop"
    )
    task.add_argument("--explain", metavar="ID", help="what this id means, why it happens, how to fix and check it")
    task.add_argument("--list", action="store_true", help="list all ids")
    parser.add_argument("--no-smoke", action="store_true", help="do not run the small tests on this machine")
    task.add_argument(
        "--settings", action="store_true", help="print how to train on this machine, as TOML with reasons"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
