"""Error against measured time at the longest captured lengths, and each pattern against the sinks.

Above: every pattern at one block, the step frontier and the curve of window + sinks. Below: each
pattern's error beside that of window + sinks with as many keys, and with as many milliseconds.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.axes import above, error_axis, is_narrow, ms_axis, panel_title
from reports.figures.labels import HALO
from reports.figures.points import draw_curve, draw_frontier, draw_points, name_points
from reports.frame.tidy import each_row
from reports.frame.tradeoff import SINKS, sinks_curve, staircase
from reports.style import FAINT, INK, PAPER, look
from reports.text import size_text


def draw(figure: Figure, frame: pd.DataFrame) -> None:
    """`frame` is the trade-off of one setting, pass and source, at one or two lengths."""
    lengths = sorted(frame.length.unique())
    rivals = compared(frame)
    width, height = figure.get_size_inches()
    narrow = is_narrow(figure)
    rows, columns = (len(lengths), 1) if narrow else (1, len(lengths))
    below = bottom_height(rivals)
    scatter = figure.add_gridspec(
        rows, columns, left=0.5 / width, right=1 - 0.1 / width, top=1 - 0.3 / height,
        bottom=(below + 0.5) / height, wspace=0.06, hspace=0.32,
    )  # fmt: skip
    top = min(1.5, float(frame.error.max()) if len(frame) else 1.0)
    shared: Axes | None = None
    for index, length in enumerate(lengths):
        place = scatter[index, 0] if narrow else scatter[0, index]
        axes = figure.add_subplot(place, sharex=shared, sharey=shared)
        shared = axes
        panel_title(axes, f"{size_text(length)} tokens")
        _scatter(axes, frame[frame.length == length], frame, top)
        if not narrow and index:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("output error (0 = full attention)")
    if len(rivals):
        _rivals(figure, rivals, lengths, below)


def _scatter(axes: Axes, part: pd.DataFrame, frame: pd.DataFrame, top: float) -> None:
    seen = part[part.error.le(top)]
    axes.set_xlim(frame.ms.min() / 1.5, frame.ms.max() * 1.6)
    ms_axis(axes, "x")
    error_axis(axes, top)
    draw_frontier(axes, staircase(part))
    draw_curve(axes, sinks_curve(part))
    draw_points(axes, seen, "ms")
    axes.set_xlabel("time a call")
    name_points(axes, seen, "ms")
    beyond = part[~part.index.isin(seen.index)]
    if len(beyond):
        above(axes, _names(beyond))


def compared(frame: pd.DataFrame) -> pd.DataFrame:
    """The patterns that can be set against window + sinks, the closest first."""
    known = frame.sinks_at_keys.notna() | frame.sinks_at_ms.notna()
    use = frame[known & frame.ranked & ~frame.name.isin(["full", SINKS, "uniform"])]
    order = use.groupby("asked").error.mean().sort_values(kind="stable").index
    return use.set_index("asked").loc[order].reset_index() if len(use) else use


def bottom_height(rivals: pd.DataFrame) -> float:
    """How many inches the lower half needs."""
    return 0.0 if len(rivals) == 0 else 1.2 + 0.165 * rivals.asked.nunique()


def _rivals(figure: Figure, rivals: pd.DataFrame, lengths: list[int], below: float) -> None:
    width, height = figure.get_size_inches()
    narrow = is_narrow(figure)
    names = list(dict.fromkeys(rivals.asked))
    text = rivals.drop_duplicates("asked").set_index("asked").line
    longest = max(len(line) for line in text)
    left = min(0.25 + 0.058 * longest, 1.9 if narrow else 2.6)
    shown = lengths[-1:] if narrow else lengths
    grid = figure.add_gridspec(
        1, len(shown), left=left / width, right=1 - 0.1 / width, bottom=0.72 / height,
        top=(below - 0.38) / height, wspace=0.08,
    )  # fmt: skip
    values = rivals[["error", "sinks_at_keys", "sinks_at_ms"]].to_numpy(float)
    top = min(1.5, float(np.nanmax(values)))
    for column, length in enumerate(shown):
        axes = figure.add_subplot(grid[0, column])
        part = rivals[rivals.length == length].set_index("asked")
        for height_, asked in enumerate(names):
            if asked in part.index:
                _pair(axes, part.loc[asked], len(names) - 1 - height_, asked, top)
        error_axis(axes, top, "x")
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_yticks(range(len(names)), [text[asked] for asked in reversed(names)], fontsize=6.5)
        for tick, asked in zip(axes.get_yticklabels(), reversed(names), strict=True):
            tick.set(color=look(asked).ink, gid=f"label:{asked}")
        axes.tick_params(axis="y", length=0, labelleft=column == 0)
        axes.spines.left.set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"output error at {size_text(length)}")
    axes = figure.axes[-len(shown)]
    figure.text(
        0.1 / width, (below - 0.28) / height, "Against window + sinks", fontsize=8.5,
        fontweight="bold", color=INK,
    )  # fmt: skip
    _key(figure, any_ms=bool(rivals.sinks_at_ms.notna().any()),
         any_keys=bool(rivals.sinks_at_keys.notna().any()))  # fmt: skip


def _pair(axes: Axes, row: pd.Series, height: float, asked: str, top: float) -> None:
    drawn, sinks = look(asked, simulated=bool(row.simulated)), look("sinks").colour
    rival = row.sinks_at_ms if np.isfinite(row.sinks_at_ms) else row.sinks_at_keys
    better = row.error < rival
    axes.plot(
        [row.error, rival], [height, height], color=drawn.colour if better else "#c3c8d0",
        linewidth=2.6 if better else 1.4, alpha=0.55 if better else 1, zorder=2, label="_gap",
        solid_capstyle="butt", gid=f"band:{asked}",
    )  # fmt: skip
    axes.plot(
        [row.sinks_at_ms], [height], marker="o", markersize=4.6, markerfacecolor=PAPER,
        markeredgecolor=sinks, linestyle="none", zorder=3, gid=f"equal-ms:{asked}",
    )  # fmt: skip
    axes.plot(
        [row.sinks_at_keys], [height], marker="|", markersize=7.5, markeredgecolor=sinks,
        markeredgewidth=1.6, linestyle="none", zorder=3, gid=f"equal-keys:{asked}",
    )  # fmt: skip
    if row.error > top:
        axes.annotate(
            f"{row.error:.1f} \u25b8", (1, height), xycoords=("axes fraction", "data"), fontsize=6,
            ha="right", va="center_baseline", color=drawn.ink, bbox=HALO, zorder=4,
            gid=f"rival:{asked}",
        )  # fmt: skip
        return
    axes.plot(
        [row.error], [height], marker=drawn.marker, markersize=5, color=drawn.colour,
        linestyle="none", zorder=4, gid=f"rival:{asked}",
    )  # fmt: skip


def _key(figure: Figure, *, any_ms: bool, any_keys: bool) -> None:
    """Only the marks that are drawn."""
    from matplotlib.lines import Line2D

    sinks = look("sinks").colour
    none = {"linestyle": "none", "markeredgecolor": sinks}
    handles = [
        Line2D([], [], marker="s", color=FAINT, linestyle="none", markersize=4.5),
        Line2D([], [], marker="o", markerfacecolor=PAPER, markersize=4.6, **none),  # type: ignore[arg-type]
        Line2D([], [], marker="|", markersize=7.5, markeredgewidth=1.6, **none),  # type: ignore[arg-type]
    ]
    texts = ["the pattern", "window + sinks, equal ms", "window + sinks, equal keys"]
    there = [True, any_ms, any_keys]
    narrow = is_narrow(figure)
    figure.legend(
        [one for one, drawn in zip(handles, there, strict=True) if drawn],
        [one for one, drawn in zip(texts, there, strict=True) if drawn],
        loc="lower center", ncols=2 if narrow else 3, fontsize=6.5, handletextpad=0.3,
        bbox_to_anchor=(0.5, 0.0), borderaxespad=0.2, columnspacing=1.2,
    )  # fmt: skip


def _names(part: pd.DataFrame) -> list[str]:
    return [f"{row.line} {row.error:.1f}" for row in each_row(part)]
