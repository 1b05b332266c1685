"""What changed between two runs: a small panel a pattern, the ratio of every case over length."""

import math
from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports.figures.axes import is_narrow
from reports.figures.grid import panels, rows_needed
from reports.frame.change import FASTER, LESS, MORE, SAME, SLOWER, UNCLEAR
from reports.frame.names import labels
from reports.frame.tidy import each_row
from reports.style import INK, PAPER, look
from reports.text import MINUS, size_text

LOOKS = {  # colour, marker, filled: told apart by each alone
    FASTER: ("#0072B2", "v", True),
    LESS: ("#0072B2", "v", True),
    SLOWER: ("#D55E00", "^", True),
    MORE: ("#D55E00", "^", True),
    SAME: ("#8a8f98", "o", True),
    UNCLEAR: ("#6b4fa0", "D", False),
}
_LEAST = math.log(1.08)  # the panels show at least so much on either side
_MOST = math.log(8.0)  # and at most so much: what lies beyond stands at the edge
_PANEL, _KEY = 1.3, 0.2  # inches: a panel with its axes, and the key above them


def columns(narrow: bool) -> int:
    """How many panels stand beside each other."""
    return 2 if narrow else 4


def height(patterns: int, narrow: bool) -> float:
    """How tall the figure must be, in inches."""
    return _KEY + (0.16 if narrow else 0) + 0.35 + _PANEL * rows_needed(patterns, columns(narrow))


def series(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(line, rows by length) of each pattern, backend and layer, the most changed first."""
    short = labels(list(part.asked))
    found = []
    for (asked, backend, layer), rows in part.groupby(["asked", "backend", "layer"], sort=True):
        line = short[str(asked)] if backend in ("auto", "") else f"{short[str(asked)]} ({backend})"
        line = line if layer == "" else f"{line}, layer {layer}"
        found.append((line, rows.sort_values("length", kind="stable")))

    def weight(one: tuple[str, pd.DataFrame]) -> tuple[bool, float, str]:
        told = one[1][~one[1].verdict.isin([SAME, UNCLEAR])]
        rows = told if len(told) else one[1]
        return (len(told) == 0, -float(np.abs(np.log(rows.ratio)).max()), one[0])

    return sorted(found, key=weight)


def draw(figure: Figure, part: pd.DataFrame, threshold: float) -> None:
    """`part` is one of `frame.change.facets`; beyond the threshold a change is a regression."""
    narrow = is_narrow(figure)
    lines = series(part)
    top = 0.4 + _KEY + (0.16 if narrow else 0)
    places = panels(
        figure, len(lines), columns(narrow), left=0.52, top=top, bottom=0.42, gap=(0.12, 0.46)
    )
    reach = reach_of(part)
    lengths = sorted({int(n) for n in part.length})
    for index, ((line, rows), axes) in enumerate(zip(lines, places, strict=True)):
        panel(axes, rows, threshold, reach=reach, lengths=lengths)
        title = "\n".join(wrap(line, 28, break_on_hyphens=True))
        axes.set_title(title, fontsize=6.2, fontweight="normal", pad=3, linespacing=0.95,
                       color=look(str(rows.asked.iloc[0])).ink)  # fmt: skip
        axes.tick_params(labelsize=6, labelleft=index % columns(narrow) == 0)
        if index >= len(lines) - columns(narrow):
            axes.set_xlabel("length (tokens)", fontsize=6.5, labelpad=2)
    _legend(figure, part)


def panel(
    axes: Axes,
    rows: pd.DataFrame,
    threshold: float,
    *,
    reach: float | None = None,
    lengths: list[int] | None = None,
) -> None:
    """One pattern: the ratio of each case with its interval, marked by its verdict.

    `reach` is how far the axis goes on either side, as a logarithm.
    """
    reach = reach_of(rows) if reach is None else reach
    lengths = sorted({int(n) for n in rows.length}) if lengths is None else lengths
    asked, backend = rows.asked.iloc[0], rows.backend.iloc[0]
    low, high = math.exp(-reach), math.exp(reach)
    axes.axhspan(1 / (1 + threshold), 1 + threshold, color="#f1f3f5", zorder=0.1)
    axes.axhline(1, color=INK, linewidth=0.9, zorder=1)
    axes.plot(
        rows.length, rows.ratio.clip(low, high), color=look(str(asked), str(backend)).colour,
        linewidth=0.9, alpha=0.45, gid=f"series:{asked}@{backend}", label="_line", zorder=2,
    )  # fmt: skip
    for row in each_row(rows):
        colour, marker, filled = LOOKS[str(row.verdict)]
        if row.high > row.low:
            axes.plot(
                [row.length] * 2, [max(row.low, low), min(row.high, high)], color=colour,
                linewidth=1.1, solid_capstyle="butt", label="_interval", zorder=3,
                gid=f"interval:{asked}@{backend}",
            )  # fmt: skip
        axes.plot(
            [row.length], [min(max(row.ratio, low), high)], marker=marker, color=colour,
            markersize=3.2 if row.verdict == SAME else 4.2, linestyle="none",
            markerfacecolor=colour if filled else PAPER,
            label=str(row.verdict), gid=f"case:{row.case_key}", zorder=4, clip_on=False,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlim(lengths[0] / 1.35, lengths[-1] * 1.35)
    shown = lengths[:: max(1, math.ceil(len(lengths) / 4))]
    axes.xaxis.set_major_locator(FixedLocator([float(n) for n in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size_text(x)))
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(_ticks(reach)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: percent_text(y)))


def percent_text(ratio: float) -> str:
    """A ratio as a change: 1.05 is +5 %, 0.5 is half; from twice on, how many times."""
    if ratio > 1.95:
        return f"{ratio:.3g}\u00d7"
    change = round(100 * (ratio - 1))
    return "0" if change == 0 else f"{'+' if change > 0 else MINUS}{abs(change)} %"


def reach_of(rows: pd.DataFrame) -> float:
    """Every ratio, and most of what the intervals span."""
    ends = np.abs(np.log(rows[["low", "high"]].to_numpy(float)))
    ends = ends[np.isfinite(ends)]
    wide = float(np.quantile(ends, 0.8)) if len(ends) else 0.0
    most = max(float(np.abs(np.log(rows.ratio)).max()), wide) * 1.15
    return min(max(most, _LEAST), _MOST)


def _ticks(reach: float) -> list[float]:
    for step in (1.05, 1.1, 1.25, 1.5, 2.0):
        if reach / math.log(step) <= 3:
            break
    count = int(reach / math.log(step))
    return [*(step**-n for n in range(count, 0, -1)), 1.0, *(step**n for n in range(1, count + 1))]


def _legend(figure: Figure, part: pd.DataFrame) -> None:
    """Only the verdicts that are drawn, each with its number."""
    counted = part.verdict.value_counts()
    there = [verdict for verdict in LOOKS if counted.get(verdict, 0)]
    handles = []
    for verdict in there:
        colour, marker, filled = LOOKS[verdict]
        handles.append(
            Line2D([], [], marker=marker, color=colour, linestyle="none", markersize=4.6,
                   markerfacecolor=colour if filled else PAPER)
        )  # fmt: skip
    narrow = is_narrow(figure)
    figure.legend(
        handles, [f"{verdict} ({counted[verdict]})" for verdict in there], loc="upper left",
        bbox_to_anchor=(0.4 / figure.get_figwidth(), 1 - 0.04 / figure.get_figheight()),
        ncols=2 if narrow else 4, fontsize=7, handletextpad=0.2, columnspacing=1.6,
        borderaxespad=0.1,
    )  # fmt: skip
