"""Error against cost, a row a length: milliseconds at the left, keys a query at the right."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports.figures.axes import above, error_axis, is_narrow, ms_axis, panel_title
from reports.figures.points import draw_curve, draw_frontier, draw_points, name_points
from reports.frame.tidy import each_row
from reports.frame.tradeoff import sinks_curve, staircase
from reports.text import size_text, three

TOP = 1.5
COSTS = ("ms", "keys_per_query")


def draw(figure: Figure, frame: pd.DataFrame) -> None:
    """`frame` is the trade-off of one setting, pass and source, at up to three lengths."""
    lengths = sorted(frame.length.unique())
    costs = [x for x in COSTS if frame[x].gt(0).any()]
    width, height = figure.get_size_inches()
    narrow = is_narrow(figure)
    grid = figure.add_gridspec(
        len(lengths) * (2 if narrow else 1), 1 if narrow else 2, left=0.5 / width,
        right=1 - 0.1 / width, bottom=0.42 / height, top=1 - 0.28 / height, wspace=0.06,
        hspace=0.34,
    )  # fmt: skip
    top = min(TOP, float(frame.error.max()))
    for row, length in enumerate(lengths):
        part = frame[frame.length == length]
        for column, x in enumerate(costs):
            place = grid[2 * row + column, 0] if narrow else grid[row, column]
            axes = figure.add_subplot(place)
            panel_title(axes, f"{size_text(length)} tokens")
            panel(axes, part, frame, x, top)
            if column and not narrow:
                axes.tick_params(labelleft=False)
                axes.set_ylabel("")


def panel(
    axes: Axes,
    part: pd.DataFrame,
    frame: pd.DataFrame | None = None,
    x: str = "ms",
    top: float | None = None,
) -> None:
    """One length of a trade-off, against `ms` or `keys_per_query`.

    Panels of one figure share the limits of `frame` and the largest error that is drawn.
    """
    frame = part if frame is None else frame
    top = min(TOP, float(frame.error.max())) if top is None else top
    axes.set_xlabel("time a call" if x == "ms" else "keys a query (regions count as one)")
    axes.set_ylabel("output error")
    costs = frame[x][frame[x] > 0]  # a pattern that scores no key has no place on a logarithm
    axes.set_xlim(costs.min() / 1.5, costs.max() * 1.7)
    if x == "ms":
        ms_axis(axes, "x")
    else:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=4, numticks=12))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda keys, _: size_text(keys) if keys >= 1 else three(keys))
        )
    error_axis(axes, top)
    part = part[part[x] > 0]
    seen = part[part.error.le(top * 1.05)]
    if x == "ms":
        draw_frontier(axes, staircase(part))
    draw_curve(axes, sinks_curve(part), x)
    draw_points(axes, seen, x)
    name_points(axes, seen, x)
    beyond = part[~part.index.isin(seen.index)]
    if len(beyond):
        above(axes, _names(beyond))


def _names(part: pd.DataFrame) -> list[str]:
    return [f"{row.line} {row.error:.1f}" for row in each_row(part)]
