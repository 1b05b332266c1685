"""Markup by hand: everything that comes from data goes through `escape`."""

import html
import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from reports.chart import Table

MOST_ROWS = 30  # of a table that is shown whole; a longer one scrolls in its box


def escape(text: Any) -> str:
    """Text that is safe between tags and inside quoted attributes."""
    return html.escape(str(text), quote=True)


def data_block(key: str, data: Any) -> str:
    """Data for a script, as JSON that no text in it can end or turn into markup."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{escape(key)}">{text}</script>'


def scripts(name: str, parts: Iterable[str]) -> str:
    """The files viewer/NAME.PART.js, and NAME.js for an empty part, in a scope of their own."""
    folder = files("reports") / "viewer"
    names = (f"{name}.{part}.js" if part else f"{name}.js" for part in parts)
    held = "".join((folder / one).read_text(encoding="utf-8") for one in names)
    return f'"use strict";\n{{\n{held}}}\n'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_kind(kind)}>{escape(text)}</p>"


def bullets(items: Iterable[str], kind: str = "") -> str:
    """A list of plain sentences."""
    inside = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul{_kind(kind)}>{inside}</ul>" if inside else ""


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Names with what they are, as a definition list."""
    inside = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs
    )
    return f'<dl class="facts">{inside}</dl>'


def details(summary: str, inside: str) -> str:
    """Something to unfold."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def unfolded(summary: str) -> tuple[str, str]:
    """What stands before and after markup that is open until a script has something better."""
    return f'<details class="still" open><summary>{escape(summary)}</summary>', "</details>"


def table(shown: Table, *, caption: bool = True) -> str:
    """A table that scrolls sideways in its own box; its columns can be sorted where JS runs."""
    numeric = [_is_number(shown.frame[column]) for column in shown.frame.columns]
    short = [_is_short(shown, str(column)) for column in shown.frame.columns]
    head = "".join(
        f'<th scope="col"{" class=n" if number and place else ""}>{escape(column)}</th>'
        for place, (column, number) in enumerate(zip(shown.frame.columns, numeric, strict=True))
    )
    # On a phone long names take several lines.
    wide = bool(short) and not _is_short(shown, str(shown.frame.columns[0]), 16)
    rows = []
    for record in shown.frame.itertuples(index=False):
        cells: list[str] = []
        columns = zip(shown.frame.columns, record, numeric, short, strict=True)
        for column, value, number, brief in columns:
            text = escape(shown.text(str(column), value))
            order = f' data-v="{value:.9g}"' if number else ""
            kind = " class=n" if number else " class=s" if brief else " class=l"
            if not cells:
                kind = " class=w" if wide else ""
            tag = "td" if cells else "th scope=row"
            cells.append(f"<{tag}{kind}{order}>{text}</{tag[:2]}>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    many = len(rows) > MOST_ROWS
    count = f" <small>{len(rows)} rows</small>" if many else ""
    title = f"<caption>{escape(shown.title)}{count}</caption>" if caption else ""
    kind = "scroll long" if many else "scroll"
    return (
        f'<div class="{kind}" data-key="{escape(shown.key)}" tabindex="0" role="region" '
        f'aria-label="{escape(shown.title)}">'
        f'<table class="sortable">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _is_short(shown: Table, column: str, most: int = 40) -> bool:
    """Whether all cells of a column are short enough to stay in one line."""
    return all(len(shown.text(column, value)) <= most for value in shown.frame[column])


def _is_number(column: Any) -> bool:
    return bool(column.dtype.kind in "if")


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
