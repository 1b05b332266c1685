"""What a model loses: a line a schedule, with perplexity, KL, retrieval, keys and milliseconds."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from reports.figures.axes import is_narrow
from reports.style import FAINT, INK, PAPER, RULE, Look, look
from reports.text import size_text, three

WIDE_PANELS = ("perplexity", "kl", "second_copy", "ms")
NARROW_PANELS = ("perplexity", "second_copy")
_TITLES = {
    "perplexity": "perplexity", "kl": "KL to full", "second_copy": "second copy",
    "ms": "prefill (ms)",
}  # fmt: skip
_LOG = ("kl", "ms")
_SHARES = {"perplexity": 1.5, "kl": 1.0, "second_copy": 1.0, "ms": 1.0}  # of the width
_ROW, _AROUND = 0.155, 0.78  # inches: a line, and the titles and ticks of all
_POINTS, _NARROW_POINTS = 6.3, 5.6  # of the names
_LETTER = 0.0088  # inches of width, a point
_LONGEST = {True: 31, False: 38}  # letters of a name, where the figure is narrow, and else
_KEYS = 6  # letters of room for the keys
MOST = 3.0  # times the perplexity of full attention: what is beyond is written, not drawn


def heights(frame: pd.DataFrame) -> tuple[float, float]:
    """Of the wide and the narrow figure, in inches."""
    height = len(frame) * _ROW + _AROUND
    return height, height


def draw(figure: Figure, frame: pd.DataFrame) -> None:
    """Rows of one model, text and length: a line each, the lowest perplexity on top."""
    rows = frame.sort_values("perplexity", kind="stable").reset_index(drop=True)
    narrow = is_narrow(figure)
    width, height = figure.get_size_inches()
    points = _NARROW_POINTS if narrow else _POINTS
    lines = [str(one).replace("combiner-", "c-") if narrow else str(one) for one in rows.line]
    names = [shortened(one, _LONGEST[narrow]) for one in lines]
    gutter = 0.1 + _LETTER * points * (max(map(len, names)) + _KEYS)
    panels = NARROW_PANELS if narrow else WIDE_PANELS
    grid = figure.add_gridspec(
        1, len(panels), width_ratios=[_SHARES[one] for one in panels], left=gutter / width,
        right=1 - 0.14 / width, bottom=0.3 / height, top=1 - 0.4 / height, wspace=0.14,
    )  # fmt: skip
    for number, column in enumerate(panels):
        axes = figure.add_subplot(grid[0, number])
        _column(axes, rows, column)
        title = _TITLES[column].removeprefix("second ") if narrow else _TITLES[column]
        axes.set_title(title, color=INK, fontsize=points + 1.2)
    _names(figure.axes[0], rows, names, points)


def shortened(text: str, longest: int) -> str:
    """The text, without its middle where it is longer."""
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _names(axes: Axes, rows: pd.DataFrame, names: list[str], points: float) -> None:
    """The name and the keys of every line, at the left of the first panel."""
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    space = axes.get_yaxis_transform()
    for y, (name, (_, row)) in enumerate(zip(names, rows.iterrows(), strict=True)):
        keys = f"{row.keys_per_query:.0f}"
        axes.annotate(
            keys, (0, y), xycoords=space, xytext=(-3, 0), textcoords="offset points",
            ha="right", va="center", fontsize=points, color=FAINT,
        )  # fmt: skip
        axes.annotate(
            name, (0, y), xycoords=space, xytext=(-_KEYS * _LETTER * points * 72, 0),
            textcoords="offset points", ha="right", va="center", fontsize=points,
            color=_look(row).ink, weight="bold" if row["name"] == "full" else "normal",
        )  # fmt: skip
    axes.annotate(
        "keys", (0, 1), xycoords="axes fraction", xytext=(-3, 6), textcoords="offset points",
        ha="right", fontsize=points, color=FAINT,
    )  # fmt: skip


def _column(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    full = rows[rows.name.eq("full")][column]
    limit = math.inf
    if column == "perplexity" and len(full):
        limit = MOST * float(full.iloc[0])
    rivals = {row.asked: float(row.perplexity) for _, row in rows.iterrows()}
    for y, (_, row) in enumerate(rows.iterrows()):
        value = float(row[column])
        drawable = math.isfinite(value) and (value > 0 or column not in _LOG)
        if drawable and value <= limit:
            _point(axes, row, column, y)
        elif drawable:
            axes.annotate(
                f"{three(value)} ▸", (1, y), xycoords=axes.get_yaxis_transform(), ha="right",
                va="center", fontsize=6.3, color=_look(row).ink, zorder=5,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
        rival = rivals.get(row.rival, math.inf) if column == "perplexity" else math.inf
        if rival <= limit:
            axes.plot(
                [rival], [y], marker="|", color=INK, markersize=7, linestyle="none", zorder=3,
                label="_rival", gid=f"rival:{row.asked}@{row.backend}",
            )  # fmt: skip
    if column in _LOG:
        _logarithmic(axes)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: three(x)))
    if len(full) and column in ("perplexity", "second_copy"):
        axes.axvline(float(full.iloc[0]), color=INK, linewidth=0.7, alpha=0.5, label="_full")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=6.3)
    axes.grid(visible=True, axis="y", color=RULE, linewidth=0.5)
    axes.margins(x=0.07)


def _point(axes: Axes, row: pd.Series, column: str, y: int) -> None:
    drawn, value = _look(row), float(row[column])
    low, high = row.get(f"{column}_low", value), row.get(f"{column}_high", value)
    if not (math.isfinite(low) and math.isfinite(high)):
        low = high = value
    if column in _LOG:
        low = max(low, value / 100)  # an interval that holds 0 has no end on such an axis
    axes.errorbar(
        [value], [y], xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
        marker=drawn.marker, color=drawn.colour, markerfacecolor=drawn.face, linestyle="none",
        elinewidth=0.8, markersize=4.4, label=row.asked, zorder=4,
    )[0].set_gid(f"series:{row.asked}@{row.backend}")  # fmt: skip


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    span = high / low
    subs = (1.0, 2.0, 5.0) if span < 8 else (1.0, 3.0) if span < 60 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: three(x)))


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
