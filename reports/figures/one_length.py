"""Times at one length: a row a pattern, a panel a pass, and the fastest dense kernel as a line."""

from collections.abc import Sequence
from textwrap import wrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.axes import is_narrow, ms_axis, panel_title
from reports.figures.labels import FONT
from reports.figures.latency import PASSES
from reports.figures.lines import each_line
from reports.frame.scaling import is_dense
from reports.frame.tidy import one_setting
from reports.style import FAINT, INK, Look
from reports.text import ratio_text

ASIDE = 0.42  # inches for the speed-ups at the right of a panel
FASTER = "#eef6f1"

Row = tuple[str, Look, pd.Series]


def heights(frame: pd.DataFrame) -> tuple[float, float]:
    """How tall the wide and the narrow figure must be, in inches."""
    lines = frame.drop_duplicates(["asked", "backend"])
    folded = sum(len(_wrapped(str(line))) for line in lines.line)
    each = 0.95 + 0.135 * folded
    return 0.95 + 0.155 * len(lines), frame["pass"].nunique() * each


def draw(figure: Figure, frame: pd.DataFrame) -> None:
    """`frame` is the cost cases of one setting and length that ended well, with speed-ups."""
    passes = [one for one in PASSES if (one_setting(frame)["pass"] == one).any()]
    narrow = is_narrow(figure)
    lines = _order(frame, passes)
    names = ["\n".join(_wrapped(text)) if narrow else text for text, _, _ in lines]
    width, height = figure.get_size_inches()
    left = 0.16 + 0.058 * max(len(part) for name in names for part in name.split("\n"))
    columns, rows = (1, len(passes)) if narrow else (len(passes), 1)
    across = (width - left - 0.1) / columns
    down = height / rows
    for index, one in enumerate(passes):
        row, column = (index, 0) if narrow else (0, index)
        axes = figure.add_axes(
            (
                (left + column * across) / width,
                (height - (row + 1) * down + 0.45) / height,
                (across - ASIDE) / width,
                (down - 0.75) / height,
            )
        )
        panel(axes, frame[frame["pass"].eq(one)], lines, names)
        axes.tick_params(labelleft=column == 0)
        panel_title(axes, PASSES[one])


def panel(axes: Axes, rows: pd.DataFrame, lines: Sequence[Row], names: Sequence[str]) -> None:
    """One pass, a row for each of `lines`, the first at the top, under these names."""
    dense = rows[is_dense(rows)].ms.min()
    axes.set_xlim(rows.ms.min() / 1.3, rows.ms.max() * 1.3)
    ms_axis(axes, "x")
    if dense > 0:
        axes.axvspan(axes.get_xlim()[0], dense, color=FASTER, zorder=0.1, linewidth=0)
        axes.axvline(dense, color=INK, linewidth=1.1, zorder=2, gid="dense")
    found = {(row.asked, row.backend): row for _, row in rows.iterrows()}
    for at, (_, drawn, first) in enumerate(reversed(lines)):
        row = found.get((first.asked, first.backend))
        if row is None:
            continue
        key = f"{row.asked}@{row.backend}"
        axes.plot([row.p20_ms, row.p80_ms], [at, at], color=drawn.colour, linewidth=1.1, alpha=0.5,
                  gid=f"band:{key}", label="_band", zorder=3)  # fmt: skip
        axes.plot([row.ms], [at], marker=drawn.marker, markersize=5, linestyle="none",
                  color=drawn.colour, markerfacecolor=drawn.face, gid=f"series:{key}", label=key,
                  zorder=4)  # fmt: skip
        if row["name"] != "full" and row.speedup > 0:
            axes.annotate(
                ratio_text(row.speedup), (1, at), xycoords=("axes fraction", "data"),
                xytext=(3, 0), textcoords="offset points", fontsize=FONT, va="center_baseline",
                color=drawn.ink, annotation_clip=False, gid=f"label:{key}",
            )  # fmt: skip
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.set_yticks(range(len(lines)), names[::-1], fontsize=FONT)
    axes.tick_params(axis="y", length=0)
    for tick, (_, drawn, _) in zip(axes.get_yticklabels(), reversed(lines), strict=True):
        tick.set(color=drawn.ink, gid=f"label:{drawn.key}")
    axes.spines.left.set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("median time a call", color=FAINT)


def _order(frame: pd.DataFrame, passes: Sequence[str]) -> list[Row]:
    """The lines from the fastest to the slowest by the first pass, those without one last."""
    lines = [(text, drawn, rows.iloc[0]) for text, drawn, rows in each_line(frame)]
    first = frame[frame["pass"].eq(passes[0])]
    ms = {(row.asked, row.backend): float(row.ms) for _, row in first.iterrows()}
    return sorted(lines, key=lambda one: ms.get((one[2].asked, one[2].backend), float("inf")))


def _wrapped(text: str) -> list[str]:
    return wrap(text, 24, break_on_hyphens=True)
