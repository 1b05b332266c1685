"""The roofline: FLOPs a second over FLOPs a byte, under the ceilings of the same device.

A filled mark is the work that the definition needs at the chosen length, a hollow one joined to it
what the implementation computed in the same time: the gap is thrown away. Faint lines lead through
the shorter lengths.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports.figures.axes import is_narrow, note, panel_title
from reports.figures.labels import Label, end_labels, legend_height
from reports.figures.latency import PASSES, heading, layout
from reports.figures.lines import each_line
from reports.frame.roofline import Roof, shown_length
from reports.frame.tidy import one_setting
from reports.style import FAINT, INK, PAPER, Look
from reports.text import rate_text, size_text, three

PANEL, NARROW_PANEL = 2.9, 2.7


def entries(rows: pd.DataFrame) -> list[tuple[str, Look]]:
    """What the legend of a narrow figure lists."""
    here = rows[rows.length.eq(shown_length(rows))]
    return [(text, drawn) for text, drawn, _ in each_line(here)]


def heights(rows: pd.DataFrame) -> tuple[float, float]:
    """How tall the wide and the narrow figure must be, in inches."""
    panels, lines = rows["pass"].nunique(), entries(rows)
    longest = max((len(text) for text, _ in lines), default=0)
    each = max(PANEL, 0.8 + 0.122 * len(lines))
    return panels * each, panels * NARROW_PANEL + legend_height(len(lines), longest, 3.25)


def draw(figure: Figure, rows: pd.DataFrame, roofs: Mapping[str, Roof]) -> None:
    """`rows` is `frame.roofline.roofline` of one setting; `roofs` has the roof of each pass."""
    passes = [one for one in PASSES if (one_setting(rows)["pass"] == one).any()]
    for axes, one in zip(layout(figure, len(passes), entries(rows)), passes, strict=True):
        labels = panel(axes, rows[rows["pass"] == one], roofs[one])
        length = shown_length(rows[rows["pass"] == one])
        panel_title(axes, f"{PASSES[one]}, {size_text(length)} tokens")
        if not is_narrow(figure):
            end_labels(axes, labels)
            known = roofs[one].at(1.0)
            heading(figure, axes, "share of the roof" if known else "FLOPs a second")


def panel(axes: Axes, rows: pd.DataFrame, roof: Roof) -> list[Label]:
    """One pass of one setting; the labels of its marks."""
    rows = _with_a_mark(rows)
    length = int(rows.length.max())
    labels = []
    for text, drawn, line in each_line(rows):
        key = f"{line.asked.iloc[0]}@{line.backend.iloc[0]}"
        here = line[line.length.eq(length)]
        if len(line) > 1:
            axes.plot(
                line.intensity, line.rate, color=drawn.colour, linewidth=0.8, alpha=0.4,
                gid=f"trail:{key}", label="_trail", zorder=2,
            )  # fmt: skip
        row = here.iloc[0]
        if np.isfinite(row.computed_rate):
            axes.plot(
                [row.intensity, row.computed_intensity], [row.rate, row.computed_rate],
                color=drawn.colour, linewidth=1.1, gid=f"waste:{key}", label="_waste", zorder=3,
            )  # fmt: skip
            axes.plot(
                [row.computed_intensity], [row.computed_rate], marker=drawn.marker, markersize=4.4,
                markerfacecolor=PAPER, markeredgecolor=drawn.colour, linestyle="none",
                gid=f"computed:{key}", label="_computed", zorder=4,
            )  # fmt: skip
        axes.plot(
            [row.intensity], [row.rate], marker=drawn.marker, markersize=5, color=drawn.colour,
            linestyle="none", gid=f"series:{key}", label=key, zorder=5,
        )  # fmt: skip
        top = roof.at(row.intensity)
        aside = f"{100 * row.rate / top:.2g} %" if top else rate_text(row.rate)
        labels.append(
            Label(x=float(row.intensity), y=float(row.rate), text=text, look=drawn, aside=aside,
                  key=key)
        )  # fmt: skip
    _scales(axes, rows, roof)
    _ceilings(axes, roof)
    return labels


def _with_a_mark(rows: pd.DataFrame) -> pd.DataFrame:
    """The lines that were timed at the length to compare at, up to it."""
    length = shown_length(rows)
    lines = rows.asked + "@" + rows.backend
    return rows[rows.length.le(length) & lines.isin(lines[rows.length.eq(length)])]


def _scales(axes: Axes, rows: pd.DataFrame, roof: Roof) -> None:
    xs = pd.concat([rows.intensity, rows.computed_intensity]).dropna()
    ys = pd.concat([rows.rate, rows.computed_rate]).dropna()
    tops = [one for one in (roof.matmul, roof.exp) if one]
    axes.set_xscale("log")
    axes.set_yscale("log")
    right = max([xs.max(), *([2 * roof.ridge] if roof.ridge else [])])
    axes.set_xlim(xs.min() / 1.6, right * 1.6)
    axes.set_ylim(ys.min() / 1.7, max([ys.max(), *tops]) * 2.2)
    axes.set_xlabel("FLOPs a byte of q, k, v and the output")
    axes.set_ylabel("FLOPs a second")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10, numticks=12))
        axis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: three(x) if x < 1e3 else f"{three(x / 1000)}k")
    )
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: rate_text(y).replace("FLOP/s", "").strip())
    )


def _ceilings(axes: Axes, roof: Roof) -> None:
    """Copying as a slope, products and exponentials as levels; what is unknown is said."""
    left, right = axes.get_xlim()
    look: dict[str, Any] = {"color": INK, "linewidth": 1.2, "zorder": 1.5}
    if roof.copy:
        end = roof.ridge or right
        axes.plot(
            [left, end], [roof.copy * left, roof.copy * end], gid="ceiling:copy", label="_ceiling",
            **look,
        )  # fmt: skip
        axes.annotate(
            "copying", (left, roof.copy * left), textcoords="offset points", xytext=(4, 12),
            fontsize=6, color=FAINT, zorder=6,
        )  # fmt: skip
    if roof.matmul:
        axes.plot(
            [roof.ridge or left, right], [roof.matmul] * 2, gid="ceiling:matmul", label="_ceiling",
            **look,
        )  # fmt: skip
        _level(axes, roof.matmul, "matrix products", below=True)
    if roof.exp:
        start = roof.exp / roof.copy if roof.copy else left
        axes.plot(
            [start, right], [roof.exp] * 2, gid="ceiling:exp", label="_ceiling",
            **{**look, "linewidth": 0.9, "linestyle": (0, (4, 2))},
        )  # fmt: skip
        _level(axes, roof.exp, "exponentials")
    if roof.why:
        first = roof.why.partition(":")[0]
        note(axes, 0.012, 0.985, f"no roof: {first}" if not roof.at(1.0) else first, va="top")


def _level(axes: Axes, height: float, text: str, *, below: bool = False) -> None:
    axes.annotate(
        text, (axes.get_xlim()[1], height), textcoords="offset points", fontsize=6, ha="right",
        xytext=(-2, -2.5 if below else 2.5), va="top" if below else "bottom", color=FAINT, zorder=6,
    )  # fmt: skip
