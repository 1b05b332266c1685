"""A line a pattern over length: what latency, memory, speed-up and error figures have in common."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes

from reports.figures.labels import HALO, Label
from reports.frame.names import by_number
from reports.style import PAPER, Look, look


def each_line(frame: pd.DataFrame) -> Iterator[tuple[str, Look, pd.DataFrame]]:
    """(text, look, rows by length) of every pattern and backend, dense baselines last, on top."""
    keys = ["asked", "backend"]
    groups = [part for _, part in frame.groupby(keys, sort=False)]
    groups.sort(key=lambda part: (by_number(part.asked.iloc[0]), part.backend.iloc[0]))
    for part in sorted(groups, key=lambda part: part.name.iloc[0] == "full"):
        rows = part.sort_values("length", kind="stable")
        first = rows.iloc[0]
        simulated, ranked = bool(rows.simulated.any()), bool(rows.ranked.all())
        drawn = look(first.asked, first.backend, simulated=simulated, ranked=ranked)
        text = f"{first.line} (simulated)" if simulated else str(first.line)
        yield text, drawn, rows


def is_short(line: pd.DataFrame, rows: pd.DataFrame) -> bool:
    """Whether a line has few of a panel's lengths and ends before the last of them.

    A leader from its end to a label at the right would cross every other line.
    """
    few = 2 * line.length.nunique() < rows.length.nunique()
    return bool(few or (line.length.max() < rows.length.max() and line.length.nunique() < 3))


def draw_line(
    axes: Axes, rows: pd.DataFrame, drawn: Look, y: str, band: tuple[str, str] | None = None
) -> None:
    """One line with its markers and, where given, the band between two columns."""
    key = f"{rows.asked.iloc[0]}@{rows.backend.iloc[0]}"
    bold = rows.name.iloc[0] in ("full", "sinks")
    axes.plot(
        rows.length, rows[y], color=drawn.colour, marker=drawn.marker, linestyle=drawn.dash,
        markerfacecolor=drawn.face, markeredgecolor=drawn.colour, gid=f"series:{key}", label=key,
        linewidth=1.7 if bold else 1.2, markersize=3.6, zorder=4 if bold else 3,
    )  # fmt: skip
    if y == "ms" and "host" in rows and rows.host.ne("").any():
        waited = rows[rows.host.ne("")]
        axes.plot(
            waited.length, waited[y], linestyle="none", marker="o", markersize=6.5,
            markerfacecolor=PAPER, markeredgecolor=drawn.colour, markeredgewidth=0.9, zorder=4.5,
            gid=f"series:{key}", label="_host",
        )  # fmt: skip
    if band is not None and rows[list(band)].notna().any(axis=None):
        axes.fill_between(
            rows.length, rows[band[0]], rows[band[1]], color=drawn.colour, alpha=0.18,
            linewidth=0, gid=f"band:{key}", zorder=1,
        )  # fmt: skip


def draw_end(axes: Axes, rows: pd.DataFrame, failed: pd.DataFrame, drawn: Look, y: str) -> None:
    """A cross at the first length beyond the last point that failed, and its status beside it."""
    if len(rows) == 0 or len(failed) == 0:
        return
    last = rows.iloc[-1]
    beyond = failed[failed.length > last.length].sort_values("length")
    if len(beyond) == 0:
        return
    miss = beyond.iloc[0]
    before = rows.iloc[-2] if len(rows) > 1 else last
    growth = (last[y] / before[y]) if before[y] > 0 else 1.0
    height = last[y] * growth
    axes.plot(
        [last.length, miss.length], [last[y], height], color=drawn.colour, linewidth=0.8,
        linestyle=(0, (1, 2)), zorder=2, label="_missing",
    )  # fmt: skip
    axes.plot(
        [miss.length], [height], marker="X", markersize=5.5, color=drawn.colour,
        markeredgecolor=PAPER, markeredgewidth=0.6, linestyle="none", zorder=5,
        gid=f"end:{last.asked}@{last.backend}", label="_end",
    )  # fmt: skip
    axes.annotate(
        str(miss.status), (miss.length, height), textcoords="offset points", xytext=(0, 5),
        ha="center", fontsize=6, color=drawn.ink, annotation_clip=False, zorder=6, bbox=HALO,
    )  # fmt: skip


def at_end(rows: pd.DataFrame, text: str, drawn: Look, y: str, aside: str = "") -> Label:
    """The label of a line, at its last point."""
    last = rows.iloc[-1]
    key = f"{last.asked}@{last.backend}"
    return Label(
        x=float(last.length), y=float(last[y]), text=text, look=drawn, aside=aside, key=key
    )
