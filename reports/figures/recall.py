"""What a pattern keeps of the attention that counts: the heaviest keys, and the mass it can see."""

import math
from textwrap import wrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from reports.figures.axes import is_narrow
from reports.frame.tidy import each_row
from reports.style import FAINT, INK, PAPER, look
from reports.text import size_text

MEASURES = {"recall_64": "the top 64 keys", "recall_8": "the top 8", "kept_mass": "mass in sight"}


def height(patterns: int, narrow: bool) -> float:
    """How tall the figure must be, in inches."""
    return 0.95 + (0.24 if narrow else 0.155) * patterns


def draw(figure: Figure, kept: pd.DataFrame) -> None:
    """`kept` is `frame.spread.kept` of one source and length."""
    width, tall = figure.get_size_inches()
    narrow = is_narrow(figure)
    names = ["\n".join(wrap(str(line), 22)) if narrow else str(line) for line in kept.line]
    left = 0.2 + 0.058 * max(len(part) for name in names for part in name.split("\n"))
    right = 0.16 if narrow else 1.1
    axes = figure.add_axes((left / width, 0.42 / tall, 1 - (left + right) / width, 1 - 0.95 / tall))
    panel(axes, kept.assign(line=names))
    first = kept.iloc[0]
    figure.text(
        0.1 / width, 1 - 0.42 / tall, f"{first.source}, {size_text(int(first.length))} tokens",
        color=INK, fontsize=8.5, fontweight="bold",
    )  # fmt: skip
    handles = [
        Line2D([], [], marker="s", color=FAINT, linestyle="none", markersize=4.5),
        Line2D([], [], marker="s", color=FAINT, markerfacecolor=PAPER, linestyle="none",
               markersize=4.5),
        Line2D([], [], marker="|", color=FAINT, linestyle="none", markersize=7),
    ]  # fmt: skip
    figure.legend(
        handles, list(MEASURES.values()), loc="upper right", ncols=3, fontsize=6.5,
        bbox_to_anchor=(1 - 0.05 / width, 1 - 0.02 / tall), handletextpad=0.2, columnspacing=1.0,
        borderaxespad=0.1,
    )  # fmt: skip
    if not narrow:
        for at, row in enumerate(each_row(kept[::-1])):
            axes.annotate(
                f"{_entropy(row)}", (1, at), xycoords=("axes fraction", "data"), xytext=(6, 0),
                textcoords="offset points", fontsize=6.3, va="center", color=FAINT,
                annotation_clip=False, gid=f"label:{row.asked}@{row.backend}",
            )  # fmt: skip
        figure.text(
            1 - (right - 0.08) / width, 1 - 0.5 / tall, "entropy, nats\n(full's)", fontsize=6,
            color=FAINT, va="bottom",
        )  # fmt: skip


def panel(axes: Axes, kept: pd.DataFrame) -> None:
    """A row a pattern, the best at the top: filled top 64, hollow top 8, a bar for the mass."""
    rows = kept[::-1].reset_index(drop=True)
    for at, row in enumerate(each_row(rows)):
        drawn = look(str(row.asked), str(row.backend), simulated=bool(row.simulated))
        key = f"{row.asked}@{row.backend}"
        axes.plot(
            [row.recall_64_low, row.recall_64_high], [at, at], color=drawn.colour, linewidth=0.9,
            alpha=0.5, gid=f"band:{key}", label="_layers", zorder=2,
        )  # fmt: skip
        axes.plot(
            [row.kept_mass], [at], marker="|", markersize=8, markeredgewidth=1.4, linestyle="none",
            color=drawn.colour, gid=f"mass:{key}", label="_mass", zorder=3,
        )  # fmt: skip
        axes.plot(
            [row.recall_8], [at], marker=drawn.marker, markersize=4.6, linestyle="none",
            markerfacecolor=PAPER, markeredgecolor=drawn.colour, gid=f"top8:{key}", label="_top8",
            zorder=4,
        )  # fmt: skip
        axes.plot(
            [row.recall_64], [at], marker=drawn.marker, markersize=5, linestyle="none",
            color=drawn.colour, gid=f"series:{key}", label=key, zorder=5,
        )  # fmt: skip
    axes.set_xlim(-0.02, 1.03)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
    axes.set_yticks(range(len(rows)), [str(line) for line in rows.line], fontsize=6.5)
    for tick, asked, backend in zip(axes.get_yticklabels(), rows.asked, rows.backend, strict=True):
        tick.set(color=look(str(asked), str(backend)).ink, gid=f"label:{asked}@{backend}")
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("weight that is kept")


def _entropy(row: object) -> str:
    own, full = (getattr(row, name) for name in ("entropy", "full_entropy"))
    return f"{own:.2f} ({full:.2f})" if math.isfinite(own) else f"\u2013 ({full:.2f})"
