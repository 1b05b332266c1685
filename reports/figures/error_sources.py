"""Output error at sources that have one length: a row a pattern, a column a source."""

from collections.abc import Sequence
from textwrap import wrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.axes import error_axis, is_narrow
from reports.figures.labels import FONT
from reports.figures.lines import each_line
from reports.style import INK, Look
from reports.text import size_text

TOP = 1.5  # an error beyond it is written at the edge: output of zeros has 1


def columns(narrow: bool) -> int:
    """How many sources stand beside each other."""
    return 2 if narrow else 4


def height(errors: pd.DataFrame, narrow: bool) -> float:
    """How tall the panels are together, in inches; 0 where there are no such sources."""
    if len(errors) == 0:
        return 0.0
    deep = -(-errors.source.nunique() // columns(narrow))
    names = _names(_lines(errors), narrow)
    each = 0.155 if max(map(len, names)) == 1 else 0.215  # inches a row of one line or of two
    return deep * (0.95 + each * len(names))


def draw(figure: Figure, errors: pd.DataFrame, top: float) -> None:
    """Into the lowest part of a figure, up to `top` inches; `errors` has one length a source."""
    narrow = is_narrow(figure)
    width, tall = figure.get_size_inches()
    lines = _lines(errors)
    names = ["\n".join(one) for one in _names(lines, narrow)]
    longest = max(len(part) for name in names for part in name.split("\n"))
    left = 0.16 + (0.05 if narrow else 0.058) * longest
    sources = sorted(errors.source.unique())
    across = min(len(sources), columns(narrow))
    wide, deep = (width - left - 0.1) / across, top / -(-len(sources) // across)
    for index, source in enumerate(sources):
        row, column = divmod(index, across)
        part = errors[errors.source.eq(source)]
        place = (left + column * wide, top - (row + 1) * deep + 0.45, wide - 0.12, deep - 0.9)
        axes = figure.add_axes(
            (place[0] / width, place[1] / tall, place[2] / width, place[3] / tall)
        )
        panel(axes, part, lines, names)
        axes.tick_params(axis="y", labelleft=column == 0, labelsize=5.8 if narrow else FONT)
        size = f"{size_text(int(part.length.iloc[0]))} tokens"
        title = f"{source}\n{size}" if narrow else f"{source}, {size}"
        axes.set_title(title, color=INK, fontsize=6.5 if narrow else 8.5)


def panel(
    axes: Axes, rows: pd.DataFrame, lines: Sequence[tuple[str, Look]], names: Sequence[str]
) -> None:
    """One source: a mark an error, or its number at the edge; the first line is at the top."""
    found = {f"{row.asked}@{row.backend}": row for _, row in rows.iterrows()}
    error_axis(axes, TOP, "x")
    for at, (_, drawn) in enumerate(reversed(lines)):
        if (row := found.get(drawn.key)) is None:
            continue
        if row.error > TOP:
            axes.annotate(
                f"{row.error:.1f} \u25b8", (1, at), fontsize=6, ha="right",
                xycoords=("axes fraction", "data"), va="center_baseline", color=drawn.ink,
                gid=f"label:{drawn.key}",
            )  # fmt: skip
            continue
        axes.plot(
            [row.best_layer, row.worst_layer], [at, at], color=drawn.colour, linewidth=0.9,
            alpha=0.45, gid=f"band:{drawn.key}", label="_layers", zorder=2,
        )  # fmt: skip
        axes.plot(
            [row.error], [at], marker=drawn.marker, markersize=4.8, linestyle="none", zorder=3,
            color=drawn.colour, markerfacecolor=drawn.face, gid=f"series:{drawn.key}",
            label=drawn.key,
        )  # fmt: skip
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.set_yticks(range(len(lines)), names[::-1])
    for tick, (_, drawn) in zip(axes.get_yticklabels(), reversed(lines), strict=True):
        tick.set(color=drawn.ink, gid=f"label:{drawn.key}")
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([0, 0.5, 1, 1.5], ["0", "0.5", "1", "1.5"])
    axes.spines.left.set_visible(False)
    axes.set_xlabel("output error")


def _lines(errors: pd.DataFrame) -> list[tuple[str, Look]]:
    """The patterns, the closest on the average of these sources first."""
    mean = errors.groupby(["asked", "backend"]).error.mean()
    lines = [
        (float(mean[rows.asked.iloc[0], rows.backend.iloc[0]]), text, drawn)
        for text, drawn, rows in each_line(errors)
    ]
    return [(text, drawn) for _, text, drawn in sorted(lines, key=lambda one: one[0])]


def _names(lines: Sequence[tuple[str, Look]], narrow: bool) -> list[list[str]]:
    return [wrap(text, 26) if narrow else [text] for text, _ in lines]
