"""Axes that several figures share: lengths, times, bytes, and what a narrow figure does."""

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from reports.style import FAINT, INK, PAPER
from reports.text import above_text, bytes_text, ms_text, size_text

LEAST = 5.0
"""The ratio of the ends of a logarithmic axis of times or bytes, at least."""


def is_narrow(figure: Figure) -> bool:
    """Whether the figure is one column of a paper, or a phone, wide."""
    return figure.get_figwidth() < 5


def length_axis(axes: Axes, lengths: Iterable[int], *, label: bool = True) -> None:
    """A log2 axis with a tick at each measured length that has room for its name."""
    found = sorted({int(n) for n in lengths})
    axes.set_xscale("log", base=2)
    if found:
        axes.set_xlim(found[0] / 1.12, found[-1] * 1.12)
    shown = _apart(found)
    axes.xaxis.set_major_locator(FixedLocator([float(n) for n in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size_text(x)))
    if label:
        axes.set_xlabel("length (tokens)")


def _apart(lengths: Sequence[int]) -> list[int]:
    """The lengths whose names do not touch: of neighbours the one with more factors of two."""
    if len(lengths) < 2:
        return list(lengths)
    least = math.log2(lengths[-1] / lengths[0]) / 8.5
    shown: list[int] = []
    for length in sorted(lengths, key=lambda n: (-(n & -n), n)):
        if all(abs(math.log2(length / other)) >= least for other in shown):
            shown.append(length)
    return sorted(shown)


def ms_axis(axes: Axes, which: str = "y") -> None:
    """A log axis of times."""
    _log_axis(axes, which, ms_text)


def bytes_axis(axes: Axes, which: str = "y") -> None:
    """A log2 axis of bytes."""
    _log_axis(axes, which, bytes_text, base=2)


def _log_axis(axes: Axes, which: str, text: object, base: int = 10) -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log", base=base)
    low, high = sorted(axes.get_ylim() if which == "y" else axes.get_xlim())
    if low > 0 and high / low < LEAST:  # so that at least two ticks have a name
        wider = math.sqrt(LEAST * low / high)
        low, high = low / wider, high * wider
        (axes.set_ylim if which == "y" else axes.set_xlim)(low, high)
    decades = math.log10(high / low) if low > 0 else 1
    if base == 10:
        subs = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3 else (1.0,)
        axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
    else:
        axis.set_major_locator(LogLocator(base=2 if decades < 2 else 4, numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: text(x)))  # type: ignore[operator]


def error_axis(axes: Axes, top: float, which: str = "y") -> None:
    """A linear axis of errors from 0, with 1 marked: what an output of zeros would have."""
    top = max(top, 0.1)  # below lies rounding noise, which is not to fill an axis
    low = -0.03 * top
    (axes.set_ylim if which == "y" else axes.set_xlim)(low, top * 1.06)
    if top > 0.85:
        line = axes.axhline if which == "y" else axes.axvline
        line(1, color="#b9bec6", linewidth=0.8, zorder=0.6)


def note(axes: Axes, x: float, y: float, text: str, **settings: object) -> None:
    """A small grey remark inside the axes, in axes coordinates."""
    halo = {"facecolor": PAPER, "alpha": 0.72, "edgecolor": "none", "pad": 0.5}
    defaults = {
        "transform": axes.transAxes, "fontsize": 6.5, "color": FAINT, "bbox": halo,
        "zorder": 6,
    }  # fmt: skip
    axes.text(x, y, text, **{**defaults, **settings})  # type: ignore[arg-type]


def aside(axes: Axes, *texts: str) -> None:
    """A small grey remark above the axes, at their right, where it covers nothing.

    Of several the first that fits beside the title, which must be there before; else the last.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    title = 0.08 * len(axes.get_title(loc="left")) + 0.1  # inches
    room = axes.get_position().width * figure.get_figwidth() - title
    said = next((text for text in texts if 0.051 * len(text) < room), texts[-1])
    axes.set_title(said, loc="right", fontsize=6.3, fontweight="normal", color=FAINT)


def above(axes: Axes, names: Sequence[str]) -> None:
    """Say above the axes what lies beyond their top, with as many names as there is room for."""
    aside(axes, *(above_text(names, shown) for shown in (2, 1, 0)))


def panel_title(axes: Axes, text: str) -> None:
    """The bold title at the left of a panel."""
    axes.set_title(text, color=INK)
