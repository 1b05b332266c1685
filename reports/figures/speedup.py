"""Speed-up over the fastest dense kernel, with the parity line and where each pattern passes it."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports.figures.axes import aside, is_narrow, length_axis, panel_title
from reports.figures.labels import Label, end_labels
from reports.figures.latency import PASSES, layout
from reports.figures.lines import at_end, draw_line, each_line, is_short
from reports.frame.tidy import each_row, one_setting
from reports.style import INK, PAPER, look
from reports.text import ratio_text, size_text


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
    folds = any(is_short(part, rows) for _, rows in shown.groupby("pass")
                for _, _, part in each_line(rows))  # fmt: skip
    room = {"gutter": 3.2, "aside": 1.45} if folds else {}
    for axes, one in zip(layout(figure, len(passes), lines, **room), passes, strict=True):
        labels, folded = panel(
            axes, shown[shown["pass"] == one], crossings[crossings["pass"] == one]
        )
        panel_title(axes, PASSES[one])
        aside(axes, "tinted: faster than the fastest dense kernel", "tinted: ahead of dense",
              "tinted: faster")  # fmt: skip
        if not is_narrow(figure):
            end_labels(axes, labels, folded)


def panel(
    axes: Axes, rows: pd.DataFrame, crossings: pd.DataFrame, *, fold: bool = True
) -> tuple[list[Label], list[Label]]:
    """One pass of one setting: what `rows_shown` gives.

    Returns:
        The labels of the lines, and those that are too short for a label at the right (`fold`).
    """
    labels, folded = [], []
    for text, drawn, line in each_line(rows):
        draw_line(axes, line, drawn, "speedup", ("speedup_low", "speedup_high"))
        last = line.iloc[-1]
        said = ratio_text(last.speedup)
        if fold and is_short(line, rows):
            said = f"{said} at {size_text(last.length)}"
            folded.append(at_end(line, text, drawn, "speedup", said))
        else:
            labels.append(at_end(line, text, drawn, "speedup", said))
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
    for mark in each_row(crossings[crossings.crossover.notna()]):
        drawn = look(str(mark.asked), str(mark.backend))
        axes.plot(
            [mark.crossover], [1], marker="o", markersize=6, markerfacecolor=PAPER,
            markeredgecolor=drawn.colour, markeredgewidth=1.4, linestyle="none", zorder=7,
            gid=f"crossover:{mark.asked}@{mark.backend}", label="_crossover",
        )  # fmt: skip
    return labels, folded
