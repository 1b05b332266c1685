"""How near each case comes to what the device can do: one roofline a setting."""

from functools import partial

import pandas as pd

from reports.chart import Chart, Table
from reports.figures import roofline as figure
from reports.frame.roofline import Roof, roof, roofline, shown_length
from reports.frame.tidy import each_row
from reports.frame.tradeoff import thinned
from reports.html import paragraph
from reports.run import Run
from reports.sections import Section
from reports.sections.shared import (
    PASS_WORDS,
    cost_settings,
    main_pass,
    setting_caption,
    setting_heading,
    several_lengths,
)
from reports.tables import plain
from reports.text import bytes_text, joined, rate_text, size_text, three


def section(run: Run) -> Section:
    """Every setting with several lengths under its roof; where none has, the first."""
    timed = cost_settings(run)
    grown = [part for part in timed if several_lengths(part)] or timed[:1]
    parts = [rows for part in grown if len(rows := roofline(thinned(part)))]
    if not parts:
        text = paragraph("No roofline: no cost case ended well.", "empty")
        return Section(key="roofline", title="Roofline", blocks=(text,))
    blocks: list[str | Chart | Table] = []
    for index, rows in enumerate(parts):
        if len(parts) > 1:
            blocks.append(setting_heading(rows))
        blocks.append(_chart(run, rows, f"-{index + 1}" if index else ""))
    return Section(key="roofline", title="Roofline", blocks=tuple(blocks))


def roofs_of(run: Run, rows: pd.DataFrame) -> dict[str, Roof]:
    """The roof over each pass of one setting."""
    first = rows.iloc[0]
    facts = run.machines.get(first.machine, {})
    return {
        one: roof(facts, dtype=str(first["dtype"]), pass_=str(one), dim=int(first.dim))
        for one in rows["pass"].unique()
    }


def _chart(run: Run, rows: pd.DataFrame, tail: str) -> Chart:
    roofs = roofs_of(run, rows)
    one = main_pass(rows)
    here = rows[rows["pass"].eq(one)]
    here = here[here.length.eq(shown_length(here))]
    wide, narrow = figure.heights(rows)
    return Chart(
        key=f"roofline{tail}",
        title="Rate against intensity, under the roof",
        conclusion=_said(here, roofs[one], one),
        how="The higher a mark, the faster it computes; under the slope memory holds it back, "
        "under the levels arithmetic does. The hollow mark is what the implementation computed "
        "in the same time: the line up to it is work thrown away on padding and masks.",
        caption=f"Filled: FLOPs of the pairs that the definition scores, over the time of a call "
        f"and over the least bytes it moves. Hollow: those of the pairs computed. "
        f"{_ceilings_said(roofs[one])} {_uncounted(here)}"
        f"Faint lines lead through the shorter lengths. {setting_caption(run, rows)}",
        table=_table(rows, roofs, f"roofline{tail}"),
        draw=partial(figure.draw, rows=rows, roofs=roofs),
        wide_height=wide,
        narrow_height=narrow,
    )


def _said(here: pd.DataFrame, over: Roof, one: str) -> str:
    best = here.sort_values("rate", ascending=False, kind="stable").head(3)
    said = []
    for row in each_row(best):
        top = over.at(row.intensity)
        share = f" ({100 * row.rate / top:.2g} % of the roof)" if top else ""
        said.append(f"{row.line} {rate_text(row.rate)}{share}")
    size = size_text(here.length.iloc[0])
    return f"At {size} tokens, {PASS_WORDS[one]}, the highest rates are those of {joined(said)}."


def _ceilings_said(over: Roof) -> str:
    known = [
        *([f"copying {bytes_text(over.copy)}/s"] if over.copy else []),
        *([f"matrix products {rate_text(over.matmul)}"] if over.matmul else []),
        *([f"exponentials, one a pair, {rate_text(over.exp)}"] if over.exp else []),
    ]
    said = f"Ceilings, measured on the same device: {joined(known)}." if known else ""
    missing = f"{over.why[0].upper()}{over.why[1:]}." if over.why else ""
    return " ".join(one for one in (said, missing) if one)


def _uncounted(here: pd.DataFrame) -> str:
    """Why some marks have no hollow partner."""
    missing = here[here.computed_ratio.isna()]
    if len(missing) == 0:
        return ""
    if len(missing) == len(here):
        return "These records do not say how many pairs were computed. "
    return f"Without a hollow mark, as what they compute is not counted: {joined(missing.line)}. "


def _table(rows: pd.DataFrame, roofs: dict[str, Roof], key: str) -> Table:
    tops = [roofs[row["pass"]].at(float(row.intensity)) for _, row in rows.iterrows()]
    shares = [rate / top if top else None for rate, top in zip(rows.rate, tops, strict=True)]
    frame = rows.assign(share=pd.Series(shares, index=rows.index, dtype=float))
    frame = frame.sort_values(["pass", "length", "rate"], ascending=[True, True, False])
    named = {
        "pass": "pass", "length": "length", "line": "pattern", "ran": "ran", "rate": "FLOP/s",
        "intensity": "FLOPs a byte", "share": "share of the roof",
        "computed_ratio": "computed, over scored", "computed_rate": "computed FLOP/s",
    }  # fmt: skip
    return plain(key, "Rates and intensities", frame, named, {
        "length": lambda n: size_text(int(n)), "FLOP/s": rate_text, "FLOPs a byte": three,
        "share of the roof": lambda x: f"{100 * x:.2g} %", "computed, over scored": three,
        "computed FLOP/s": rate_text,
    })  # fmt: skip
