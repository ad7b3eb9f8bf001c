"""Tables for a page or a notebook."""

import html
from collections.abc import Container, Iterable, Sequence


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]], marked: Container[int] = ()) -> str:
    """Every cell escaped; marked: indices of the rows that stand out."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    lines = []
    for index, row in enumerate(rows):
        mark = ' class="total" style="font-weight: 600"' if index in marked else ""  # notebooks have no such class
        lines.append(f"<tr{mark}>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
