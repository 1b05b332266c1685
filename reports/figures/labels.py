"""Labels that do not overlap: at the ends of lines, beside points, and in a legend below."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from reports.style import FAINT, PAPER, Look

FONT = 6.5
HALO = {"facecolor": PAPER, "alpha": 0.88, "edgecolor": "none", "pad": 0.5}  # behind a text
POINT = 1 / 72  # inches: everything here is placed in inches, which hold at every resolution


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text that belongs to a point in data coordinates; `aside` stands right-aligned after it."""

    x: float
    y: float
    text: str
    look: Look
    aside: str = ""
    key: str = ""  # which pattern and backend it names, so that a page can hide it


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions nearest to the wanted ones that lie at least `gap` apart, inside [low, high].

    The order is kept. Where the room is too small the gaps shrink evenly.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = np.argsort(wanted, kind="stable")
    shifted = [wanted[i] - rank * gap for rank, i in enumerate(order)]
    blocks: list[tuple[float, int]] = []  # (mean, size): pool neighbours that would overlap
    for value in shifted:
        mean, size = value, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    level = [mean for mean, size in blocks for _ in range(size)]
    top = high - gap * (len(wanted) - 1)
    placed = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        placed[i] = min(max(level[rank], low), top) + rank * gap
    return placed


def end_labels(
    axes: Axes, labels: Sequence[Label], folded: Sequence[Label] = (), *, gap: float = 8.6
) -> None:
    """Write each label at the right of the axes, level with its point, joined by a thin line.

    Those `folded` end in the middle of the axes, where a leader would cross every other line: they
    are listed below the others with their marks. Limits and scales must be final. `gap` is in
    points.
    """
    figure, box = _figure(axes), _box(axes)
    points = [_inches(axes, label.x, label.y) for label in labels]
    low = box.y0 + gap * POINT * (len(folded) + 1.4 if folded else 0)
    heights = spread([p[1] for p in points], gap * POINT, min(low, box.y1), box.y1)
    if folded:
        room = (box.y1 - box.y0 - gap * POINT * (len(labels) + 1.4)) / len(folded)
        _listed(axes, folded, min(gap * POINT, max(room, 0.6 * gap * POINT)))
    edge, text = box.x1 + 4 * POINT, box.x1 + 13 * POINT
    for label, point, height in zip(labels, points, heights, strict=True):
        axes.add_line(
            Line2D(
                [point[0] + 2.5 * POINT, edge, text - 2 * POINT], [point[1], height, height],
                transform=figure.dpi_scale_trans, color=label.look.colour, linewidth=0.5,
                alpha=0.65, clip_on=False, zorder=1.5, label="_leader", gid=_gid(label),
            )
        )  # fmt: skip
        axes.text(
            text, height, label.text, transform=figure.dpi_scale_trans, fontsize=FONT,
            color=label.look.ink, va="center_baseline", clip_on=False, gid=_gid(label),
        )  # fmt: skip
        _aside(axes, label, height)


def _listed(axes: Axes, folded: Sequence[Label], gap: float) -> None:
    """Marks and names at the foot of what is at the right of the axes; `gap` is in inches."""
    figure, box = _figure(axes), _box(axes)
    left, text = box.x1 + 13 * POINT, box.x1 + 31 * POINT
    settings: dict[str, Any] = {
        "transform": figure.dpi_scale_trans, "fontsize": FONT, "clip_on": False,
        "va": "center_baseline",
    }  # fmt: skip
    axes.text(left, box.y0 + gap * len(folded), "timed at few lengths",
              **{**settings, "color": FAINT})  # fmt: skip
    for at, label in enumerate(reversed(folded)):
        height, drawn = box.y0 + gap * at, label.look
        axes.add_line(
            Line2D(
                [left, left + 7 * POINT, left + 14 * POINT], [height] * 3, markevery=[1],
                transform=figure.dpi_scale_trans, color=drawn.colour, marker=drawn.marker,
                linestyle=drawn.dash, linewidth=1.1, markersize=3, markerfacecolor=drawn.face,
                clip_on=False, label="_key", gid=_gid(label),
            )
        )  # fmt: skip
        axes.text(text, height, label.text, color=drawn.ink, gid=_gid(label), **settings)
        _aside(axes, label, height)


def _aside(axes: Axes, label: Label, height: float) -> None:
    """What stands right-aligned at the edge of the figure, level with a label."""
    if not label.aside:
        return
    figure = _figure(axes)
    axes.text(
        figure.get_figwidth() - 3 * POINT, height, label.aside, fontsize=FONT,
        transform=figure.dpi_scale_trans, color=label.look.ink, va="center_baseline", ha="right",
        clip_on=False, gid=_gid(label),
    )  # fmt: skip


def point_labels(
    axes: Axes, labels: Sequence[Label], obstacles: Sequence[tuple[float, float]] = ()
) -> list[Label]:
    """Write each label beside its point where there is room, the first ones first.

    Returns those for which there was none. `obstacles` are further points, in data coordinates.
    """
    figure, box = _figure(axes), _box(axes)
    spots = [_inches(axes, label.x, label.y) for label in labels]
    taken = [_around(*spot, 3.4 * POINT) for spot in spots]
    taken += [_around(*_inches(axes, *spot), 2.2 * POINT) for spot in obstacles]
    left_over = []
    for label, (x, y) in zip(labels, spots, strict=True):
        width, height = _size(label.text)
        for dx, dy, align in _places(width, height):  # noqa: B007 - read after the loop
            near = (x + dx, y + dy - height / 2, x + dx + width, y + dy + height / 2)
            inside = (
                box.x0 <= near[0]
                and near[2] <= box.x1 + 0.02
                and box.y0 <= near[1] <= box.y1 - height
            )
            if inside and not any(_overlap(near, other) for other in taken):
                break
        else:
            left_over.append(label)
            continue
        taken.append(near)
        if abs(dy) > 9 * POINT:
            end = near[0] if dx >= 0 else near[2] if dx + width <= 0 else x
            axes.add_line(
                Line2D(
                    [x, end], [y, y + dy - np.sign(dy) * height * 0.4], linewidth=0.5, alpha=0.7,
                    transform=figure.dpi_scale_trans, color=label.look.colour, zorder=2,
                    label="_leader", gid=_gid(label),
                )
            )  # fmt: skip
        axes.text(
            x + dx + (width if align == "right" else 0), y + dy, label.text,
            transform=figure.dpi_scale_trans, fontsize=FONT, color=label.look.ink, ha=align,
            va="center_baseline", zorder=6, bbox=HALO, gid=_gid(label),
        )  # fmt: skip
    return left_over


def legend_below(figure: Figure, entries: Sequence[tuple[str, Look]], *, bottom: float) -> None:
    """A legend under the axes, in columns; `bottom` is the height it may use, in inches."""
    if not entries:
        return
    handles = [
        Line2D(
            [], [], color=look.colour, marker=look.marker, linestyle=look.dash,
            markerfacecolor=look.face, linewidth=1.2, markersize=3.6,
        )
        for _, look in entries
    ]  # fmt: skip
    longest = max(len(text) for text, _ in entries)
    columns = max(1, int(figure.get_figwidth() // (0.42 + 0.058 * longest)))
    legend = figure.legend(
        handles, [text for text, _ in entries], loc="upper center", ncols=columns, fontsize=6.3,
        bbox_to_anchor=(0.5, bottom / figure.get_figheight()), handlelength=2.2, columnspacing=1.0,
        handletextpad=0.5, borderaxespad=0, labelspacing=0.35,
    )  # fmt: skip
    _tag(legend, entries)


def legend_height(entries: int, longest: int, width: float) -> float:
    """How many inches `legend_below` needs."""
    columns = max(1, int(width // (0.42 + 0.058 * longest)))
    return 0.08 + 0.132 * -(-entries // columns)


def patch_key(colour: str) -> Rectangle:
    """A legend handle for an area."""
    return Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor=PAPER)


def _tag(legend: Legend, entries: Sequence[tuple[str, Look]]) -> None:
    """Let a page hide an entry with its pattern."""
    for handle, text, (_, look) in zip(
        legend.legend_handles, legend.get_texts(), entries, strict=True
    ):
        for part in (handle, text):
            if part is not None and look.key:
                part.set_gid(f"label:{look.key}")


def _gid(label: Label) -> str | None:
    return f"label:{label.key}" if label.key else None


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _box(axes: Axes) -> Bbox:
    """Where the axes lie, in inches."""
    return axes.get_window_extent().transformed(_figure(axes).dpi_scale_trans.inverted())


def _inches(axes: Axes, x: float, y: float) -> tuple[float, float]:
    point = _figure(axes).dpi_scale_trans.inverted().transform(axes.transData.transform((x, y)))
    return float(point[0]), float(point[1])


def _size(text: str) -> tuple[float, float]:
    return 0.555 * FONT * len(text) * POINT, 1.25 * FONT * POINT


def _around(x: float, y: float, half: float) -> tuple[float, float, float, float]:
    return x - half, y - half, x + half, y + half


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _places(width: float, height: float) -> list[tuple[float, float, str]]:
    """Offsets of a label's left middle from its point, the best first."""
    aside = 5 * POINT
    tried = [(aside, 0.0, "left"), (-aside - width, 0.0, "right")]
    for step in (0.85, 1.7, 2.6, 3.6, 4.8):
        for sign in (1, -1):
            lift = sign * step * height
            tried += [(aside * 0.7, lift, "left"), (-aside * 0.7 - width, lift, "right")]
            tried += [(-width / 2, lift, "left")]
    return tried
