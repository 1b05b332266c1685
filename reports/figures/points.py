"""Points of error against cost: one look for every figure that weighs one against the other."""

import pandas as pd
from matplotlib.axes import Axes

from reports.figures.labels import Label, point_labels
from reports.frame.tradeoff import SINKS
from reports.style import Look, look

FRONTIER = "#3d434c"


def look_of(row: pd.Series) -> Look:
    """The look of one row of a trade-off."""
    return look(row.asked, row.backend, simulated=bool(row.simulated), ranked=bool(row.ranked))


def draw_points(axes: Axes, frame: pd.DataFrame, x: str) -> None:
    """A marker a pattern, with a whisker from its best to its worst layer; dominated ones fade."""
    for _, row in frame.iterrows():
        drawn = look_of(row)
        alpha = 1.0 if row.on_frontier or row["name"] in ("full", "sinks") else 0.8
        gid = f"series:{row.asked}@{row.backend}"
        if row.worst_layer > row.best_layer:
            axes.plot(
                [row[x], row[x]], [row.best_layer, row.worst_layer], color=drawn.colour,
                linewidth=0.8, alpha=0.38, zorder=2, label="_layers",
                gid=f"band:{row.asked}@{row.backend}",
            )  # fmt: skip
        axes.plot(
            [row[x]], [row.error], marker=drawn.marker, color=drawn.colour, linestyle="none",
            markerfacecolor=drawn.face, markeredgecolor=drawn.colour, alpha=alpha, gid=gid,
            markersize=5.6 if row.on_frontier else 4.6, zorder=5 if row.on_frontier else 4,
            markeredgewidth=1.2 if row.simulated or drawn.hollow else 0.8, label=row.asked,
            fillstyle="left" if row.simulated else "full",
        )  # fmt: skip


def draw_frontier(axes: Axes, stairs: pd.DataFrame, x: str = "ms") -> None:
    """The step line that nothing eligible beats, shaded above."""
    if len(stairs) == 0:
        return
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    xs, ys = [*stairs[x], right], [*stairs.error, stairs.error.iloc[-1]]
    axes.plot(
        [xs[0], *xs], [top, *ys], drawstyle="steps-post", color=FRONTIER, linewidth=1.1, zorder=1.8,
        gid="frontier", label="_frontier",
    )  # fmt: skip
    axes.fill_between(
        [xs[0], *xs], [top, *ys], top, step="post", color="#f1f3f5", linewidth=0, zorder=0.2
    )


def draw_curve(axes: Axes, curve: pd.DataFrame, x: str = "ms") -> None:
    """Window + sinks at several windows, joined."""
    if len(curve) < 2:
        return
    axes.plot(
        curve[x], curve.error, color=look("sinks").colour, linewidth=2.2, alpha=0.55, zorder=3,
        gid="curve:sinks", label="_curve",
    )  # fmt: skip


def name_points(axes: Axes, frame: pd.DataFrame, x: str) -> list[Label]:
    """Label what there is room for: first the frontier, then from the closest on.

    Window + sinks at several windows is one curve with one label, at its largest window.
    """
    sinks = frame[frame.name.eq(SINKS)].sort_values("keys_per_query", kind="stable")
    points = list(zip(sinks[x].astype(float), sinks.error.astype(float), strict=True))
    if len(sinks) > 1:
        last = sinks.tail(1).assign(line="window + sinks")
        frame = pd.concat([frame[~frame.name.eq(SINKS)], last])
    order = frame.assign(last=~frame.on_frontier.astype(bool)).sort_values(
        ["last", "error"], kind="stable"
    )
    labels = [
        Label(
            x=float(row[x]), y=float(row.error), text=str(row.line), look=look_of(row),
            key=f"{row.asked}@{row.backend}",
        )
        for _, row in order.iterrows()
    ]  # fmt: skip
    return point_labels(axes, labels, points)
