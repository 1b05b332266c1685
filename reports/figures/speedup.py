"""Speed-up over the fastest dense kernel, with the parity line and where each pattern passes it."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports.figures.axes import is_narrow, length_axis, note, panel_title
from reports.figures.labels import Label, end_labels
from reports.figures.latency import PASSES, layout
from reports.figures.lines import at_end, draw_line, each_line
from reports.frame.tidy import each_row, one_setting
from reports.style import INK, PAPER, look
from reports.text import ratio_text


def times_text(ratio: float) -> str:
    """A power of two as it stands at an axis: 4 or 1/4, and a multiplication sign."""
    return ratio_text(ratio) if ratio >= 1 else f"1/{ratio_text(1 / ratio)}"


def rows_shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Every timed row but the dense kernels and the patterns that are quadratic by design."""
    return frame[frame.speedup.gt(0) & ~frame.name.eq("full") & ~frame.quadratic]


def draw(figure: Figure, frame: pd.DataFrame, crossings: pd.DataFrame) -> None:
    """`frame` is the cost cases of one setting with speed-ups; `crossings` its crossovers."""
    shown = rows_shown(one_setting(frame))
    passes = [one for one in PASSES if (shown["pass"] == one).any()]
    lines = [(text, drawn) for text, drawn, _ in each_line(shown)]
    for axes, one in zip(layout(figure, len(passes), lines), passes, strict=True):
        labels = panel(axes, shown[shown["pass"] == one], crossings[crossings["pass"].eq(one)])
        if not is_narrow(figure):
            end_labels(axes, labels)
        panel_title(axes, PASSES[one])


def panel(axes: Axes, rows: pd.DataFrame, crossings: pd.DataFrame) -> list[Label]:
    """One pass of one setting: what `rows_shown` gives; the labels of its lines."""
    labels = []
    for text, drawn, line in each_line(rows):
        draw_line(axes, line, drawn, "speedup", ("speedup_low", "speedup_high"))
        labels.append(at_end(line, text, drawn, "speedup", f"{ratio_text(line.speedup.iloc[-1])}"))
    axes.axhline(1, color=INK, linewidth=1.1, zorder=2)
    length_axis(axes, rows.length)
    axes.set_yscale("log", base=2)
    low, high = min(0.8, rows.speedup.min() / 1.15), max(1.25, rows.speedup.max() * 1.15)
    axes.set_ylim(low, high)
    axes.axhspan(1, high, color="#eef6f1", zorder=0.1)
    axes.yaxis.set_major_locator(LogLocator(base=2, numticks=14))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: times_text(y)))
    axes.set_ylabel("times as fast")
    note(axes, 0.012, 0.985, "faster than the fastest dense kernel", va="top")
    if math.log(1 / low) > 0.08 * math.log(high / low):  # else the line runs through the word
        note(axes, 0.988, 0.015, "slower", va="bottom", ha="right")
    for mark in each_row(crossings[crossings.crossover.notna()]):
        drawn = look(str(mark.asked), str(mark.backend))
        axes.plot(
            [mark.crossover], [1], marker="o", markersize=6, markerfacecolor=PAPER,
            markeredgecolor=drawn.colour, markeredgewidth=1.4, linestyle="none", zorder=7,
            gid=f"crossover:{mark.asked}@{mark.backend}", label="_crossover",
        )  # fmt: skip
    return labels
