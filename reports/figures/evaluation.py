"""What a model loses: perplexity against keys and milliseconds, and retrieval beside it."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.axes import is_narrow, note, panel_title
from reports.figures.labels import Label, legend_below, legend_height, point_labels
from reports.style import INK, Look, look
from reports.text import above_text, size_text, three

PANELS = {
    "keys_per_query": "keys a query",
    "ms": "prefill (ms)",
}
_PANEL, _UNDER = 2.45, 0.5  # inches: a panel with its title and axis, and below the last one
MOST = 3.0  # times the perplexity of full attention: what is beyond is written, not drawn


def heights(frame: pd.DataFrame) -> tuple[float, float]:
    """Of the wide and the narrow figure, in inches."""
    lengths = frame.length.nunique()
    found = [lengths * panels * _PANEL + _UNDER for panels in (1, 3)]
    wide, narrow = (
        height + _legend(frame, w) for height, w in zip(found, (6.75, 3.25), strict=True)
    )
    return wide, narrow


def draw(figure: Figure, frame: pd.DataFrame) -> None:
    """Rows of one model and text; a row of panels a length: keys, milliseconds, second copy."""
    lengths = sorted(frame.length.unique())
    narrow = is_narrow(figure)
    width, height = figure.get_size_inches()
    below = _legend(frame, width)
    down, across = (3 * len(lengths), 1) if narrow else (len(lengths), 3)
    grid = figure.add_gridspec(
        down, across, left=0.5 / width, right=1 - 0.12 / width, bottom=(below + _UNDER) / height,
        top=1 - 0.3 / height, wspace=0.28, hspace=0.5,
    )  # fmt: skip
    for number, length in enumerate(lengths):
        rows = frame[frame.length.eq(length)]
        places = [
            grid[3 * number + panel, 0] if narrow else grid[number, panel] for panel in range(3)
        ]
        for place, (column, label) in zip(places[:2], PANELS.items(), strict=True):
            axes = figure.add_subplot(place)
            _points(
                axes,
                rows,
                column,
                "perplexity",
                f"{size_text(length)}: perplexity",
                named=not narrow,
            )
            axes.set_xlabel(label)
        axes = figure.add_subplot(places[2])
        _points(
            axes,
            rows,
            "keys_per_query",
            "second_copy",
            "second copy: loss (nats)",
            named=not narrow,
        )
        axes.set_xlabel(PANELS["keys_per_query"])
    legend_below(figure, _entries(frame), bottom=below)


def _entries(frame: pd.DataFrame) -> list[tuple[str, Look]]:
    return [(str(row.line), _look(row)) for _, row in frame.drop_duplicates("asked").iterrows()]


def _legend(frame: pd.DataFrame, width: float) -> float:
    entries = _entries(frame)
    return legend_height(len(entries), max(len(text) for text, _ in entries), width) + 0.06


def _points(axes: Axes, rows: pd.DataFrame, x: str, y: str, title: str, *, named: bool) -> None:
    panel_title(axes, title)
    known = rows[rows[y].notna() & rows[x].notna()]
    full = known[known.name.eq("full")]
    limit = known[y].max() if y != "perplexity" or not len(full) else MOST * full[y].iloc[0]
    shown, beyond = known[known[y] <= limit], known[known[y] > limit]
    if len(known) == 0:
        note(axes, 0.02, 0.95, "not measured", va="top")
    if len(full):
        axes.axhline(full[y].iloc[0], color=INK, linewidth=0.7, alpha=0.5, label="_full")
    labels = []
    for _, row in shown.iterrows():
        drawn = _look(row)
        axes.errorbar(
            [row[x]], [row[y]], yerr=[[row[y] - row[f"{y}_low"]], [row[f"{y}_high"] - row[y]]],
            marker=drawn.marker, color=drawn.colour, markerfacecolor=drawn.face, linestyle="none",
            elinewidth=0.8, markersize=5, label=row.asked, zorder=4,
        )[0].set_gid(f"series:{row.asked}@{row.backend}")  # fmt: skip
        labels.append(Label(x=float(row[x]), y=float(row[y]), text=row.line, look=drawn))
    axes.margins(0.12)
    if len(shown) and (shown[x] > 0).all() and shown[x].max() > 8 * shown[x].min():
        axes.set_xscale("log")
    axes.set_xlim(axes.get_xlim())  # final, for the labels
    axes.set_ylim(axes.get_ylim())
    if named:
        point_labels(axes, labels)
    if len(beyond):
        names = [f"{row.line} {three(row[y])}" for _, row in beyond.iterrows()]
        note(axes, 0.012, 0.985, above_text(names), va="top")


def _look(row: pd.Series) -> Look:
    return look(row.asked, row.backend, ranked=bool(row.ranked))


def draw_layers(figure: Figure, frame: pd.DataFrame) -> None:
    """The loss above full attention with one layer swapped, over the layer, a line a schedule."""
    narrow = is_narrow(figure)
    width, height = figure.get_size_inches()
    axes = figure.add_axes((
        0.7 / width, 0.5 / height, 1 - 0.85 / width, 1 - (1.35 if narrow else 0.85) / height,
    ))  # fmt: skip
    axes.axhline(0, color=INK, linewidth=0.7, alpha=0.5, label="_full")
    for _, rows in frame.groupby(["asked", "length"], sort=True):
        line = rows.sort_values("layer")
        first = line.iloc[0]
        drawn = _look(first)
        axes.errorbar(
            line.layer, line.above_full,
            yerr=[line.above_full - line.above_full_low, line.above_full_high - line.above_full],
            marker=drawn.marker, color=drawn.colour, linestyle=drawn.dash, elinewidth=0.7,
            label=f"{first.line}, {size_text(first.length)}",
        )[0].set_gid(f"series:{first.asked}@{first.backend}")  # fmt: skip
    axes.set_xlabel("the one layer that is swapped")
    axes.set_ylabel("loss above full (nats)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1 if narrow else 2)
