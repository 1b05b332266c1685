"""Time over length, log-log, a panel a pass: median, p20-p80 band, fitted exponent, what failed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.axes import bytes_axis, is_narrow, length_axis, ms_axis, panel_title
from reports.figures.labels import Label, end_labels, legend_below, legend_height
from reports.figures.lines import at_end, draw_end, draw_line, each_line, is_short
from reports.frame.tidy import one_setting
from reports.style import FAINT, Look
from reports.text import DASH

PASSES = {"fwd": "forward", "bwd": "backward", "fwdbwd": "forward + backward"}


def draw(figure: Figure, frame: pd.DataFrame, exponents: pd.DataFrame) -> None:
    """`frame` is the cost cases of one setting; `exponents` is `frame.scaling.exponents` of it."""
    passes = [one for one in PASSES if (one_setting(frame)["pass"] == one).any()]
    panels = layout(figure, len(passes), entries(frame))
    for axes, one in zip(panels, passes, strict=True):
        rows = frame[frame["pass"] == one]
        slopes = exponents[exponents["pass"] == one] if len(exponents) else exponents
        labels, folded = panel(axes, rows, slopes)
        panel_title(axes, PASSES[one])
        beside(figure, axes, labels, folded)


def entries(frame: pd.DataFrame) -> list[tuple[str, Look]]:
    """What the legend of a narrow figure lists."""
    return [(text, drawn) for text, drawn, _ in each_line(frame[frame.status == "ok"])]


def heights(panels: int, lines: list[tuple[str, Look]]) -> tuple[float, float]:
    """How tall the wide and the narrow figure must be, in inches."""
    longest = max((len(text) for text, _ in lines), default=0)
    each = max(2.5, 0.72 + 0.122 * len(lines))
    return panels * each, panels * 2.4 + legend_height(len(lines), longest, 3.25)


def layout(
    figure: Figure,
    panels: int,
    lines: list[tuple[str, Look]],
    *,
    gutter: float = 2.6,
    aside: float = 0.95,
    foot: float = 0.0,
) -> Sequence[Axes]:
    """Panels one below the other, with room for labels at the right or a legend below.

    At the right are at most `gutter` inches, `aside` of them for what stands beside the text; the
    lowest `foot` inches are left free.
    """
    width, height = figure.get_size_inches()
    longest = max((len(text) for text, _ in lines), default=0)
    gutter = min(gutter, aside + 0.057 * longest)
    if is_narrow(figure):
        below = foot + legend_height(len(lines), longest, width) + 0.42
        box = {"left": 0.68 / width, "right": 1 - 0.12 / width}
        legend_below(figure, lines, bottom=below - 0.46)
    else:
        below = foot + 0.4
        box = {"left": 0.68 / width, "right": 1 - gutter / width}
    room = (height - below) / panels
    grid = figure.add_gridspec(
        panels, 1, **box, bottom=below / height, top=1 - 0.3 / height,
        hspace=0.72 / max(0.5, room - 0.72),
    )  # fmt: skip
    return [figure.add_subplot(grid[row, 0]) for row in range(panels)]


def panel(
    axes: Axes, rows: pd.DataFrame, slopes: pd.DataFrame, value: str = "ms", *, fold: bool = True
) -> tuple[list[Label], list[Label]]:
    """One log-log panel of a time or of `peak_bytes` over length: one pass of one setting.

    Returns:
        The labels of the lines, and those that are too short for a label at the right (`fold`).
    """
    good, failed = rows[rows[value].gt(0)], rows[rows.status.ne("ok")]
    band = ("p20_ms", "p80_ms") if value == "ms" else None
    labels, folded = [], []
    for text, drawn, line in each_line(good):
        draw_line(axes, line, drawn, value, band)
        first = line.iloc[0]
        missed = failed[failed.asked.eq(first.asked) & failed.backend.eq(first.backend)]
        draw_end(axes, line, missed, drawn, value)
        if fold and is_short(line, good):
            folded.append(at_end(line, text, drawn, value))
        else:
            labels.append(at_end(line, text, drawn, value, slope_text(slopes, first)))
    length_axis(axes, rows.length)
    (ms_axis if value == "ms" else bytes_axis)(axes)
    axes.set_ylabel("median time a call" if value == "ms" else "peak memory above the inputs")
    if len(good):
        guides(axes, good.length)
    return labels, folded


def beside(figure: Figure, axes: Axes, labels: list[Label], folded: list[Label]) -> None:
    """What a panel has said of its lines, at its right where the figure is wide."""
    if is_narrow(figure):
        return
    end_labels(axes, labels, folded)
    if any(label.aside for label in labels):
        heading(figure, axes, "fitted exponent")


def heading(figure: Figure, axes: Axes, text: str) -> None:
    """What the numbers at the right of the labels are."""
    width, tall = figure.get_size_inches()
    figure.text(
        1 - 0.04 / width, axes.get_position().y1 + 0.09 / tall, text, ha="right", fontsize=6.3,
        color=FAINT,
    )  # fmt: skip


def slope_text(slopes: pd.DataFrame, line: pd.Series) -> str:
    """The fitted exponent of a line with half its interval: 1.02 ±0.03."""
    if len(slopes) == 0:
        return ""
    found = slopes[slopes.asked.eq(line.asked) & slopes.backend.eq(line.backend)]
    if len(found) == 0 or not np.isfinite(found.exponent.iloc[0]):
        return DASH
    row = found.iloc[0]
    if row.high - row.low > 2:
        return DASH  # any slope would do
    return f"{row.exponent:.2f} ±{(row.high - row.low) / 2:.2f}"


def guides(axes: Axes, lengths: pd.Series) -> None:
    """Two short lines in the empty corner whose slopes are those of L and of L squared."""
    start, end = float(lengths.max()) / 3, float(lengths.max())
    low, high = axes.get_ylim()
    if lengths.nunique() < 2 or high / low < 100:
        return
    axes.set_ylim(low / (high / low) ** 0.06, high)
    foot = low / (high / low) ** 0.02
    for power, text in ((1, "∝ L"), (2, "∝ L²")):
        top = foot * (end / start) ** power
        axes.plot(
            [start, end], [foot, top], color="#c9ced6", linewidth=1.6, zorder=0.5, label="_guide"
        )
        axes.annotate(
            text, (end, top), textcoords="offset points", xytext=(-1, 3), fontsize=6, ha="right",
            color="#9aa1ab", zorder=0.7,
        )  # fmt: skip
