"""Each Combiner beside the sparse pattern it grew from: what the summaries are worth."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.axes import error_axis, is_narrow, panel_title
from reports.frame.tidy import each_row
from reports.style import FAINT, look
from reports.text import size_text, three


def draw(figure: Figure, pairs: pd.DataFrame) -> None:
    """`pairs` is `frame.tradeoff.parents` of one source, dtype and length."""
    width, height = figure.get_size_inches()
    rows = _ordered(pairs)
    left = 0.3 + 0.058 * max(len(str(text)) for text in rows.label)
    right = 0.12 if is_narrow(figure) else 1.55
    axes = figure.add_axes(
        (left / width, 0.44 / height, 1 - (left + right) / width, 1 - 0.8 / height)
    )
    panel(axes, pairs)
    if not is_narrow(figure):
        for at, row in enumerate(each_row(rows)):
            axes.annotate(
                f"{row.parent_label}: {three(row.parent_keys)} keys, here {three(row.keys)}",
                (1, at), xycoords=("axes fraction", "data"), xytext=(6, 0), fontsize=6.3,
                textcoords="offset points", va="center", color=FAINT, annotation_clip=False,
                gid=f"label:{row.asked}",
            )  # fmt: skip
    panel_title(axes, f"{rows.source.iloc[0]}, {size_text(rows.length.iloc[0])} tokens")


def panel(axes: Axes, pairs: pd.DataFrame) -> None:
    """A row a Combiner, the closest at the top."""
    rows = _ordered(pairs)
    for at, row in enumerate(each_row(rows)):
        child, parent = look(str(row.asked)), look(str(row.parent))
        better = row.error < row.parent_error
        axes.plot(
            [row.parent_error, row.error], [at, at], linewidth=2.2, solid_capstyle="butt",
            color=child.colour if better else "#c3c8d0", alpha=0.6, zorder=2, label="_gap",
            gid=f"band:{row.asked}",
        )  # fmt: skip
        axes.plot(
            [row.parent_error], [at], marker=parent.marker, color=parent.colour, markersize=5,
            linestyle="none", zorder=3, gid=f"parent:{row.asked}",
        )  # fmt: skip
        axes.plot(
            [row.error], [at], marker=child.marker, color=child.colour, markersize=6,
            linestyle="none", zorder=4, gid=f"series:{row.asked}",
        )  # fmt: skip
    top = float(max(rows.error.max(), rows.parent_error.max()))
    error_axis(axes, top, "x")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), list(rows.label), fontsize=6.8)
    for tick, asked in zip(axes.get_yticklabels(), rows.asked, strict=True):
        tick.set(color=look(asked).ink, gid=f"label:{asked}")
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("output error")


def _ordered(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs.sort_values("error", ascending=False, kind="stable").reset_index(drop=True)
