"""Where the mass goes: attention by distance, the pattern's beside that of full attention."""

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from reports.figures.axes import is_narrow
from reports.figures.grid import panels, rows_needed
from reports.figures.labels import patch_key
from reports.frame.tidy import each_row
from reports.style import look
from reports.text import size_text

GREY = "#d5d9df"


def columns(narrow: bool) -> int:
    """How many panels stand beside each other."""
    return 2 if narrow else 4


def height(patterns: int, narrow: bool) -> float:
    """How tall the figure must be, in inches."""
    return 0.65 + 1.35 * rows_needed(patterns, columns(narrow))


def draw(figure: Figure, spreads: pd.DataFrame) -> None:
    """`spreads` is `frame.spread.mass_by_distance` of one source and length."""
    across = columns(is_narrow(figure))
    places = panels(figure, len(spreads), across, left=0.42, top=0.6, bottom=0.42, gap=(0.14, 0.52))
    top = max(float(np.max([*row.full, *row.effective])) for row in each_row(spreads))
    for index, (row, axes) in enumerate(zip(each_row(spreads), places, strict=True)):
        panel(axes, list(row.edges), list(row.full), list(row.effective), str(row.asked))
        title = "\n".join(wrap(str(row.line), 26))  # of all patterns, some need two lines
        axes.set_title(title, fontsize=6.6, fontweight="normal", pad=3,
                       color=look(str(row.asked)).ink)  # fmt: skip
        axes.set_ylim(0, top * 1.08)
        axes.set_gid(f"panel:{row.asked}")
        axes.tick_params(labelsize=6, labelleft=index % across == 0)
        if index >= len(spreads) - across:
            axes.set_xlabel("query \u2212 key (tokens)", fontsize=6.5, labelpad=2)
    width, tall = figure.get_size_inches()
    figure.legend(
        [patch_key(GREY), patch_key("#5f6670")], ["full attention", "the pattern (line)"],
        loc="upper left", bbox_to_anchor=(0.3 / width, 1 - 0.02 / tall), ncols=2, fontsize=6.5,
        handlelength=1, handleheight=0.7, borderaxespad=0.2,
    )  # fmt: skip


def panel(
    axes: Axes, edges: list[float], full: list[float], effective: list[float], asked: str
) -> None:
    """One pattern: full attention as grey bars, the pattern as a line over equal steps."""
    at = np.arange(len(full))
    drawn = look(asked)
    axes.bar(at, full, width=0.92, color=GREY, gid=f"full:{asked}", zorder=1)
    ends = np.r_[at[0] - 0.46, at, at[-1] + 0.46]  # the edges of the first and the last bar
    axes.plot(
        ends, [effective[0], *effective, effective[-1]], drawstyle="steps-mid",
        color=drawn.colour, linewidth=1.5,
        gid=f"series:{asked}", zorder=3,
    )  # fmt: skip
    axes.grid(axis="x", visible=False)
    step = max(1, len(full) // 4)
    axes.xaxis.set_major_locator(FixedLocator([float(x) for x in at[::step]]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: size_text(edges[int(x)]) if 0 <= x < len(edges) else "")
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
