"""How errors spread over the queries: what a mean hides, and where the bad rows lie."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from reports.figures.axes import is_narrow, panel_title
from reports.figures.labels import FONT, POINT, Label, end_labels, legend_height, spread
from reports.figures.latency import layout
from reports.figures.lines import each_line
from reports.style import FAINT, Look
from reports.text import size_text, three, three_places

FLOOR = 1e-3  # what is smaller is drawn here: an exact row has no place on a logarithm
MARKED = (50, 95, 99)  # per cent of the rows
_WRITTEN = 2  # of these, beside the lines
_STEP = 36 * POINT  # between the columns of numbers


def heights(spreads: pd.DataFrame, positions: pd.DataFrame) -> tuple[float, float]:
    """How tall the wide and the narrow figure must be, in inches."""
    panels = 1 + (len(positions) > 0)
    lines = _entries(spreads)
    longest = max((len(text) for text, _ in lines), default=0)
    each = max(2.6, 0.72 + 0.122 * len(lines))
    return panels * each, panels * 2.4 + legend_height(len(lines), longest, 3.25)


def draw(figure: Figure, spreads: pd.DataFrame, positions: pd.DataFrame) -> None:
    """`spreads` and `positions` are `row_quantiles` and `row_positions` of one source and length.

    The second may be empty: records older than it do not have it.
    """
    panels = 1 + (len(positions) > 0)
    both = layout(figure, panels, _entries(spreads), gutter=3.4, aside=1.4)
    labels = cumulative(both[0], spreads)
    first = spreads.iloc[0]
    panel_title(both[0], f"{first.source}, {size_text(first.length)} tokens")
    if not is_narrow(figure):
        key_beside(both[0], labels)
    if len(positions):
        last = over_position(both[1], positions)
        panel_title(both[1], "over the query's position")
        if not is_narrow(figure):
            end_labels(both[1], last)
            _heading(both[1], ("95 %, last rows",))


def cumulative(axes: Axes, spreads: pd.DataFrame) -> list[Label]:
    """The share of rows with at most an error, a line a pattern; its label has what it marks."""
    labels = []
    for text, drawn, row in each_line(spreads):
        first = row.iloc[0]
        measured = np.asarray(first.by_quantile, dtype=float)
        share = np.linspace(0, 100, len(measured))
        key = f"{first.asked}@{first.backend}"
        axes.plot(
            np.clip(measured, FLOOR, None), share, color=drawn.colour, linestyle=drawn.dash,
            gid=f"series:{key}", label=key, marker=drawn.marker, markevery=[50, 95],
            linewidth=1.7 if first["name"] in ("full", "sinks") else 1.2, markersize=3.4,
            markerfacecolor=drawn.face,
        )  # fmt: skip
        at = [float(np.interp(one, share, measured)) for one in MARKED]
        labels.append(
            Label(x=max(at[1], FLOOR), y=95, text=text, look=drawn, key=key,
                  aside="  ".join(map(three_places, at)))
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0, 100)
    _error_axis(axes.xaxis)
    axes.set_yticks([0, 25, 50, 75, 95])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0f} %"))
    axes.axhline(95, color="#b9bec6", linewidth=0.8, zorder=1)
    axes.set_xlabel("relative error of a row")
    axes.set_ylabel("rows with at most this error")
    return labels


def over_position(axes: Axes, positions: pd.DataFrame) -> list[Label]:
    """The 95th percentile of the errors over where the query stands."""
    labels = []
    for text, drawn, row in each_line(positions):
        first = row.iloc[0]
        bounds = np.asarray(first.edges, dtype=float)
        middle = np.sqrt(np.maximum(bounds[:-1], 0.5) * bounds[1:])
        errors = np.clip(np.asarray(first.p95, dtype=float), FLOOR, None)
        key = f"{first.asked}@{first.backend}"
        axes.plot(
            middle, errors, color=drawn.colour, linestyle=drawn.dash, gid=f"series:{key}",
            label=key, marker=drawn.marker, markersize=3, markerfacecolor=drawn.face,
            linewidth=1.7 if first["name"] in ("full", "sinks") else 1.2,
        )  # fmt: skip
        known = np.flatnonzero(np.isfinite(errors))
        if len(known):
            at = known[-1]
            labels.append(
                Label(x=float(middle[at]), y=float(errors[at]), text=text, look=drawn, key=key,
                      aside=three_places(float(first.p95[at])))
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ends = [float(2**n) for n in range(0, int(np.log2(bounds[-1])) + 1, 2)]
    axes.xaxis.set_major_locator(FixedLocator(ends))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size_text(x)))
    _error_axis(axes.yaxis)
    axes.set_xlabel("query (tokens from the start)")
    axes.set_ylabel("95 % of the rows below")
    return labels


def _entries(spreads: pd.DataFrame) -> list[tuple[str, Look]]:
    return [(text, drawn) for text, drawn, _ in each_line(spreads)]


def _error_axis(axis: Axis) -> None:
    low, high = sorted(axis.get_view_interval())
    subs = (1,) if high > 1e3 * low else (1, 3)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: three(x)))


def key_beside(axes: Axes, labels: list[Label]) -> None:
    """A line a pattern at the right, from the closest to the farthest, with its three numbers."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    box = axes.get_position()
    low, high, left = box.y0 * height, box.y1 * height, box.x1 * width + 6 * POINT
    order = sorted(labels, key=lambda label: (label.x, label.text))
    places = spread([high - 8.6 * POINT * at for at in range(len(order))], 8.6 * POINT, low, high)
    settings: dict[str, Any] = {
        "transform": figure.dpi_scale_trans,
        "fontsize": FONT,
        "va": "center_baseline",
    }
    for label, y in zip(order, places, strict=True):
        ink, gid = label.look.ink, f"label:{label.key}"
        axes.add_line(
            Line2D(
                [left, left + 8 * POINT, left + 16 * POINT], [y] * 3, markevery=[1],
                transform=figure.dpi_scale_trans, color=label.look.colour, clip_on=False, gid=gid,
                linestyle=label.look.dash, marker=label.look.marker, markersize=3.2, linewidth=1.1,
                markerfacecolor=label.look.face, label="_key",
            )
        )  # fmt: skip
        axes.text(left + 20 * POINT, y, label.text, color=ink, gid=gid, clip_on=False, **settings)
        for at, number in enumerate(reversed(label.aside.split("  ")[:_WRITTEN])):
            axes.text(
                width - 3 * POINT - at * _STEP, y, number, color=ink, ha="right", gid=gid,
                clip_on=False, **settings,
            )  # fmt: skip
    _heading(axes, tuple(f"{one} %" for one in reversed(MARKED[:_WRITTEN])))


def _heading(axes: Axes, words: tuple[str, ...]) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    for at, word in enumerate(words):
        figure.text(
            1 - (3 * POINT + at * _STEP) / width, axes.get_position().y1 + 0.09 / height, word,
            ha="right", fontsize=6.3, color=FAINT,
        )  # fmt: skip
