"""The drawn report of two runs: one page with what changed, its figures and its tables."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from reports import tables
from reports.chart import Chart, Table
from reports.comparison import Comparison, case_text, counts, sentence
from reports.figures import change as figure
from reports.frame.change import FAILS, LEVEL, SAME, UNCLEAR, facet_text, facets, rows_of
from reports.frame.names import name_of
from reports.html import bullets, details, paragraph, table
from reports.page import document, figure_markup
from reports.render import render
from reports.sections import Section
from reports.sections.shared import PASS_WORDS
from reports.text import bytes_text, joined, ms_text, three_places

_TITLES = {"time": "Time", "memory": "Memory", "error": "Error"}
_FORMS = {"time": ms_text, "memory": bytes_text, "error": three_places}
_HOW = {
    "time": "Below the line a pattern got faster, above it slower; the bar is the interval of the "
    "change, and a mark counts as a change only where all of its bar lies beyond what the machine "
    "shows of itself.",
    "memory": "Below the line a pattern needs less memory than before, above it more.",
    "error": "Below the line a pattern came closer to full attention, above it farther away.",
}


def write_comparison(found: Comparison, out: Path) -> Path:
    """Write OUT/comparison.html, OUT/figures and OUT/tables, and say where the page is."""
    sections = sections_of(found)
    for folder in (out / "figures", out / "tables"):
        folder.mkdir(parents=True, exist_ok=True)
    page = document(
        title="attnbench: two runs",
        lead=f"{found.b} against {found.a}",
        sections=sections,
        bodies=[_markup(section, out) for section in sections],
    )
    path = out / "comparison.html"
    path.write_text(page, encoding="utf-8")
    return path


def sections_of(found: Comparison) -> list[Section]:
    """The verdict, each quantity that both runs have, what fails now and what only one has."""
    sections = [_verdict(found)]
    for quantity in _TITLES:
        if found.changes.quantity.eq(quantity).any():
            sections.append(_quantity(found, quantity))
    sections += _failing(found)
    sections += _only(found)
    return sections


def charts(found: Comparison, quantity: str) -> list[Chart]:
    """A figure a facet of one quantity; of memory and error only what changed somewhere."""
    made: list[Chart] = []
    for facet in facets(found.changes, quantity):
        part = facet[~_uninteresting(facet)]
        line = part.asked + "@" + part.backend + "@" + part.layer.map(str)
        changed = line[~part.verdict.eq(SAME)]
        shown = part if quantity == "time" else part[line.isin(changed)]
        if len(shown):
            made.append(_chart(found, shown, quantity, len(made)))
    return made


def _uninteresting(part: pd.DataFrame) -> pd.Series:
    """Windows that were only timed beside others, and did not change."""
    changed = part[~part.verdict.isin([SAME, UNCLEAR])]
    beside = part.role.eq("comparison") & ~part.asked.map(name_of).eq("full")
    return beside & ~part.asked.isin(changed.asked)


def _chart(found: Comparison, part: pd.DataFrame, quantity: str, index: int) -> Chart:
    patterns = len(figure.series(part))
    told = part[~part.verdict.isin([SAME, UNCLEAR])]
    furthest = told.iloc[(told.ratio.map(abs_log)).argsort()[::-1][:3]] if len(told) else told
    said = joined(
        f"{case_text(row)} {figure.percent_text(row['ratio'])}" for row in rows_of(furthest)
    )
    where = facet_text(part.assign(**{"pass": part["pass"].map(lambda x: PASS_WORDS.get(x, x))}))
    level = f"Intervals hold together with {100 * LEVEL:.0f} %. "
    if quantity != "time":
        level = "Patterns and layers of which every case is the same are not drawn. "
    key = f"change-{quantity}" + (f"-{index + 1}" if index else "")
    return Chart(
        key=key,
        title=f"{_TITLES[quantity]} now, against before: {where}",
        conclusion=f"{len(told)} of {len(part)} cases changed"
        + (f", the most: {said}." if said else "."),
        how=_HOW[quantity],
        caption=f"Ratio of {found.b} to {found.a}, a panel a pattern, the most changed first, "
        "without windows that were only timed beside others and did not change; the band is the "
        f"threshold of {100 * found.threshold:.3g} %. {level}{where}.",
        table=_table(part, quantity, key),
        draw=partial(figure.draw, part=part, threshold=found.threshold),
        wide_height=figure.height(patterns, False),
        narrow_height=figure.height(patterns, True),
    )


def abs_log(ratio: float) -> float:
    """How far a ratio is from 1, either way."""
    return max(ratio, 1 / ratio)


def _verdict(found: Comparison) -> Section:
    rows = [
        {"of": quantity, **{name: number for name, number in by.items() if number}}
        for quantity, by in counts(found.changes).items()
        if sum(by.values())
    ]
    frame = pd.DataFrame(rows).fillna(0)
    frame = frame.astype({name: int for name in frame.columns if name != "of"})
    blocks: tuple[str | Table, ...] = (
        Table(key="counts", title="How many cases changed", frame=frame),
        bullets([f"{found.b} against {found.a}", *found.remarks], "verdict"),
    )
    said = sentence(found)
    return Section(key="verdict", title=f"{said[0].upper()}{said[1:-1]}", blocks=blocks)


def _quantity(found: Comparison, quantity: str) -> Section:
    rows = found.changes[found.changes.quantity.eq(quantity)]
    blocks: list[str | Chart | Table] = list(charts(found, quantity))
    if not blocks:
        blocks.append(paragraph(f"Nothing changed: {len(rows)} cases are the same.", "empty"))
    told = rows[~rows.verdict.eq(SAME)]
    if len(told):
        blocks.append(_table(told, quantity, f"{quantity}-changes"))
    return Section(key=quantity, title=_TITLES[quantity], blocks=tuple(blocks))


def _table(part: pd.DataFrame, quantity: str, key: str) -> Table:
    ordered = part.iloc[part.ratio.fillna(1).map(lambda x: -abs_log(x) if x > 0 else 0).argsort()]
    frame = pd.DataFrame(
        {
            "case": [case_text(row) for row in rows_of(ordered)],
            "verdict": ordered.verdict.tolist(),
            "before": ordered.a.to_numpy(float),
            "now": ordered.b.to_numpy(float),
            "ratio": ordered.ratio.to_numpy(float),
            "low": ordered.low.to_numpy(float),
            "high": ordered.high.to_numpy(float),
            "over": ordered.over.tolist(),
        }
    )
    form = _FORMS[quantity]
    formats = {"before": form, "now": form} | dict.fromkeys(("ratio", "low", "high"), _ratio)
    return Table(key=key, title=f"{_TITLES[quantity]}: every case", frame=frame, formats=formats)


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _failing(found: Comparison) -> list[Section]:
    rows = found.changes[found.changes.verdict.eq(FAILS)]
    if len(rows) == 0:
        return []
    frame = pd.DataFrame(
        {"case": [case_text(row) for row in rows_of(rows)], "now": rows.over.tolist()}
    )
    blocks = (Table(key="fails", title="Was ok, and is not", frame=frame),)
    return [Section(key="fails", title="Fails now", blocks=blocks)]


def _only(found: Comparison) -> list[Section]:
    blocks: list[str | Chart | Table] = [
        details(f"{len(part)} cases only in {folder}", bullets(map(case_text, rows_of(part))))
        for folder, part in ((found.a, found.only_a), (found.b, found.only_b))
        if len(part)
    ]
    return [Section(key="only", title="Only in one", blocks=tuple(blocks))] if blocks else []


def _markup(section: Section, out: Path) -> str:
    parts = []
    for block in section.blocks:
        if isinstance(block, Chart):
            parts.append(figure_markup(render(block, out / "figures")))
            tables.write(replace(block.table, key=block.key), out / "figures")
        elif isinstance(block, Table):
            tables.write(block, out / "tables")
            parts.append(f'<div class="table">{table(block)}</div>')
        else:
            parts.append(str(block))
    level = "h1" if section.key == "verdict" else "h2"
    inside = "\n".join(parts)
    return f'<section id="{section.key}"><{level}>{section.title}</{level}>\n{inside}</section>'
