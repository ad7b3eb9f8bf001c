"""Facts and findings as a notebook shows them: HTML without scripts, SVG with its colours inside, else plain text.

Standard library only, so that a machine on which nothing else works can still be looked at. Imports facts, causes,
rules, explain, settings, report, probe.

    from envcheck.card import card
    card()
"""

import html
import re
from dataclasses import dataclass, fields
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from envcheck import report, rules, settings
from envcheck.explain import judge_all
from envcheck.facts import Facts, Finding

SIGNS = {"ok": "✅", "unknown": "❔", "note": "💡", "warning": "⚠️", "error": "❌"}
LEFT = ' style="text-align:left;vertical-align:top"'  # Jupyter's own tables go to the right; others ignore it
TOGETHER = (("ok", "fine"), ("unknown", "not checked"))  # states whose checks stand in one line


@dataclass(frozen=True)
class Findings:
    """What is wrong, each with its cause, its evidence and what to type."""

    items: Tuple[Finding, ...]

    def __repr__(self) -> str:
        return report.render_all(self.items)

    def _repr_html_(self) -> str:
        return "".join(map(finding_html, self.items))


@dataclass(frozen=True)
class Card:
    """A machine at a glance: the verdict, what it is, each check, and each finding with the command that mends it."""

    facts: Facts
    findings: Tuple[Finding, ...]

    def __repr__(self) -> str:
        return report.screen(self.facts, rules.verdicts(self.facts), self.findings)

    def _repr_html_(self) -> str:
        checks = rules.verdicts(self.facts)
        worst = self.findings[0].severity if self.findings else "ok"
        lines = [line.split(None, 1) for line in report.machine(self.facts).splitlines()]
        rows = [("", name, words) for name, words in lines]
        rows += [(SIGNS[state], name, words) for name, state, words in checks if state not in dict(TOGETHER)]
        for state, title in TOGETHER:
            names = [name for name, found, _ in checks if found == state]
            rows += [(SIGNS[state], title, " · ".join(names))] if names else []
        title = html.escape(report.verdict(self.findings, checks))
        return f"<h3>{SIGNS[worst]} {title}</h3>{_table(rows)}{Findings(self.findings)._repr_html_()}"


@dataclass(frozen=True)
class Table:
    """Rows to look at, the first of them the heads."""

    rows: Sequence[Sequence[Any]]

    def __repr__(self) -> str:
        return "\n".join("  ".join(map(str, row)) for row in self.rows)

    def _repr_html_(self) -> str:
        heads, *rows = self.rows
        return _table(rows, heads)


@dataclass(frozen=True)
class Way:
    """Machines side by side, such as one machine before and after each repair: the checks that are not the same on
    all of them, as a picture."""

    machines: Mapping[str, Facts]

    def checks(self) -> Dict[str, List[Tuple[str, str]]]:
        """Check -> (state, words) on each machine; the last entry is the machine as a whole."""
        seen = [{name: (state, words) for name, state, words in rules.verdicts(facts)}
                for facts in self.machines.values()]  # fmt: skip
        names = [check.name for check in rules.CHECKS]
        rows = {name: [one.get(name, ("unknown", "")) for one in seen] for name in names}
        changing = {name: row for name, row in rows.items() if len({state for state, _ in row}) > 1}
        worst = [next(iter(rules.judge(facts)), None) for facts in self.machines.values()]
        fit = [("ok", "fit") if one is None or one.severity == "note" else (one.severity,) * 2 for one in worst]
        return {**changing, "the machine": fit}

    def __repr__(self) -> str:
        lines = [f"{name}: " + ", ".join(state for state, _ in row) for name, row in self.checks().items()]
        return "\n".join(["; ".join(self.machines), *lines])

    def _repr_mimebundle_(self, **_: Any) -> Dict[str, str]:
        return {"image/svg+xml": _grid(tuple(self.machines), self.checks()), "text/plain": repr(self)}


def finding_html(finding: Finding) -> str:
    """What, why, the evidence, and what to type."""
    what, why = html.escape(finding.what), html.escape(finding.why)
    evidence = " · ".join(f"{html.escape(label)}: {html.escape(str(value))}" for label, value in finding.details)
    lines = [f"{SIGNS[finding.severity]} <b>{what}</b> <code>{html.escape(finding.id)}</code>", why]
    lines += [f"<i>{evidence}</i>"] if evidence else []
    fix = "<pre><code>" + html.escape("\n".join(finding.fix)) + "</code></pre>" if finding.fix else ""
    return f"<p>{'<br/>'.join(filter(None, lines))}</p>{fix}"


def card(facts: Optional[Facts] = None) -> Card:
    """Of this machine, with the small tests (a minute at most on most machines), or of saved facts."""
    if facts is None:
        from envcheck.probe import collect  # only a live machine needs it

        facts = collect(smoke=True, hub=True)
    return Card(facts, judge_all(facts))


def choices(machines: Mapping[str, Facts]) -> Table:
    """How to train on each of these machines; of a single one also why."""
    chosen = {name: settings.choose(facts) for name, facts in machines.items()}
    alone = len(chosen) == 1
    rows = [("setting", *chosen, *(["why"] if alone else []))]
    for item in fields(settings.Settings):
        found = [getattr(one, item.name) for one in chosen.values()]
        values = [_value(item.name, choice.value) for choice in found]
        rows.append((item.name, *values, *([found[0].reason] if alone else [])))
    return Table(rows)


def _table(rows: Sequence[Sequence[Any]], heads: Sequence[Any] = ()) -> str:
    head = "".join(f"<th{LEFT}>{_cell(item)}</th>" for item in heads)
    body = ["".join(f"<td{LEFT}>{_cell(item)}</td>" for item in row) for row in rows]
    lines = ([head] if heads else []) + body
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _cell(item: Any) -> str:
    return html.escape(str(item)).replace("\n", "<br/>")


def _value(name: str, value: Any) -> str:
    if value is None:
        return "unknown" if name.endswith("_bytes") else "in this process"
    if name.endswith("_bytes"):
        return f"{value / settings.GIB:.1f} GiB"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


# --- the picture ------------------------------------------------------------------------------------------------------
FILLS = {"ok": "#cfead6", "unknown": "#e6e6e6", "note": "#d5e6f7", "warning": "#fbe3b3", "error": "#f6c9c4"}
MARKS = {"ok": "✓", "unknown": "?", "note": "i", "warning": "!", "error": "✗"}
NAMES_PX, CELL_PX, ROW_PX, HEAD_PX = 150, 122, 52, 66
LETTERS, MOST_LINES = 20, 2  # of the words in a cell


def _grid(titles: Sequence[str], checks: Mapping[str, Sequence[Tuple[str, str]]]) -> str:
    """Machines from left to right, checks from top to bottom."""
    wide, high = NAMES_PX + CELL_PX * len(titles) + 6, HEAD_PX + ROW_PX * len(checks) + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" role="img" '
        f'aria-label="{html.escape(", ".join(titles))}" font-family="sans-serif" font-size="12" fill="#1b1b1b">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for place, title in enumerate(titles):
        middle = NAMES_PX + CELL_PX * (place + 0.5)
        parts.append(f'<text x="{middle}" y="16" text-anchor="middle" font-weight="bold">{place + 1}</text>')
        parts += _lines(title, middle, 33, 17)
    for number, (name, row) in enumerate(checks.items()):
        top = HEAD_PX + ROW_PX * number
        parts += _lines(name, NAMES_PX - 10, top + ROW_PX / 2, 22, "end")
        for place, (state, words) in enumerate(row):
            left = NAMES_PX + CELL_PX * place
            parts.append(f'<rect x="{left + 2}" y="{top + 2}" width="{CELL_PX - 4}" height="{ROW_PX - 4}" rx="5" '
                         f'fill="{FILLS[state]}"/>')  # fmt: skip
            parts.append(f'<text x="{left + CELL_PX / 2}" y="{top + 18}" text-anchor="middle" font-size="14" '
                         f'font-weight="bold">{MARKS[state]}</text>')  # fmt: skip
            shown = words if state in ("error", "warning", "note") or words == "fit" else ""
            parts += _lines(shown.split(",")[0], left + CELL_PX / 2, top + 31, LETTERS, size=10)[:MOST_LINES]
    return "".join(parts) + "</svg>"


def _lines(text: str, x: float, y: float, letters: int, anchor: str = "middle", size: int = 12) -> List[str]:
    """A text in lines, broken at a blank or behind a hyphen."""
    lines = [""]
    for piece in re.findall(r"[^\s-]*(?:-|\s+|$)", text):
        lines = [*lines[:-1], lines[-1] + piece] if len(lines[-1] + piece) <= letters else [*lines, piece]
    return [
        f'<text x="{x}" y="{y + number * (size + 2)}" text-anchor="{anchor}" font-size="{size}">'
        f"{html.escape(line.strip())}</text>"
        for number, line in enumerate(filter(str.strip, lines))
    ]
