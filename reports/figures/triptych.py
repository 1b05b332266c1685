"""One map: full attention, the pattern, and their difference, signed and absolute.

Signed differences cancel inside a bin; absolute ones were taken before pooling and cannot.
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports.figures.axes import is_narrow
from reports.frame.maps import Map, pooled
from reports.style import FAINT, INK, look
from reports.text import size_text, two_digits

WEIGHTS, SIGNED, ABSOLUTE = "viridis", "RdBu_r", "magma_r"
FUTURE, UNATTENDED = "#eceff2", "#ffffff"
DPI = 200
DECADES = 6


def height(narrow: bool) -> float:
    """How tall the figure must be, in inches."""
    return 4 * 2.98 + 0.1 if narrow else 6.36


def draw(figure: Figure, found: Map, head: int, title: str = "") -> None:
    """Four panels of one head; `title` is the measured distance, said above the difference."""
    narrow = is_narrow(figure)
    width, tall = figure.get_size_inches()
    most = 2.36 if narrow else 2.5
    found = pooled(found, int(most * DPI))
    side = (int(most * DPI) // found.bins) * found.bins / DPI  # whole pixels a bin
    full, effective = found.full[head], found.effective[head]
    limits = shared_limits(full, effective, found.visible)
    signed = float(np.abs(np.where(found.visible > 0, found.difference[head], 0)).max()) or 1.0
    norms = (
        LogNorm(*limits),
        LogNorm(*limits),
        SymLogNorm(signed / 1e3, vmin=-signed, vmax=signed),
        LogNorm(*limits),
    )
    named = ("full attention", found.asked.partition("[")[0], "difference", "|difference|")
    asides = ("", "", title or "pattern \u2212 full", "taken before pooling")
    values = (full, effective, found.difference[head], found.absolute[head])
    maps = (WEIGHTS, WEIGHTS, SIGNED, ABSOLUTE)
    step = (tall - 0.1) / (4 if narrow else 2)
    for index in range(4):
        row, column = (index, 0) if narrow else divmod(index, 2)
        x = 0.42 + column * (width - 0.92 - side)
        y = tall - 0.3 - side - row * step
        axes = figure.add_axes((x / width, y / tall, side / width, side / tall))
        image = panel(axes, values[index], found, norms[index], maps[index])
        bar = figure.add_axes(((x + side + 0.06) / width, y / tall, 0.08 / width, side / tall))
        _bar(figure, image, bar, norms[index])
        colour = look(found.asked).ink if index == 1 else INK
        axes.set_title(named[index], color=colour, pad=4, fontsize=7.6)
        if asides[index]:
            axes.set_title(asides[index], loc="right", fontsize=6.2, fontweight="normal",
                           color=FAINT, pad=4)  # fmt: skip


def shared_limits(full: np.ndarray, effective: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """The limits of the log colour scale of both maps: at most six decades below the largest."""
    values = np.concatenate([full[seen > 0], effective[seen > 0]])
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) == 0:
        return 1e-6, 1.0
    top = float(values.max())
    return max(float(values.min()), top * 10.0**-DECADES) * 0.999, top


def panel(
    axes: Axes, values: np.ndarray, found: Map, norm: LogNorm | SymLogNorm, colours: str
) -> AxesImage:
    """One map with queries from the top; the future is grey, what has no weight is white."""
    length = found.length
    shown = np.where(found.visible > 0, values, np.nan)
    positive = isinstance(norm, LogNorm)
    if positive:
        shown = np.where(shown > 0, np.clip(shown, norm.vmin, None), shown)
    axes.imshow(
        np.where(found.visible > 0, 0.0, 1.0), cmap=_two(), vmin=0, vmax=1,
        extent=(0, length, length, 0), zorder=0,
    )  # fmt: skip
    hidden = ~np.isfinite(shown) | ((shown <= 0) if positive else False)
    image = axes.imshow(
        np.where(hidden, np.nan, shown), norm=norm, cmap=colours, extent=(0, length, length, 0),
        zorder=1, gid="map",
    )  # fmt: skip
    axes.grid(visible=False)
    ticks = [float(x) for x in np.linspace(0, length, 5)]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda x, _: size_text(x)))
    axes.tick_params(labelsize=6, length=2)
    axes.set_xlabel("key", fontsize=6.5, labelpad=1)
    axes.set_ylabel("query", fontsize=6.5, labelpad=1)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_linewidth(0.5)
    return image


def _two() -> ListedColormap:
    return ListedColormap([UNATTENDED, FUTURE])


def _signed(x: float) -> str:
    """+0.08, +0.0027, or 2\u00b710\u207b\u2076 where that is shorter; 0 as it is."""
    if x == 0:
        return "0"
    sign = "+" if x > 0 else "\u2212"
    if abs(x) >= 1e-3:
        return f"{sign}{two_digits(abs(x)):g}"
    power = math.floor(math.log10(abs(x)))
    return f"{sign}${round(abs(x) / 10**power)}\\cdot 10^{{{power}}}$"


def _bar(figure: Figure, image: AxesImage, bar: Axes, norm: LogNorm | SymLogNorm) -> None:
    colorbar = figure.colorbar(image, cax=bar)
    if not isinstance(norm, LogNorm):
        top = float(norm.vmax or 1.0)
        colorbar.set_ticks([-top, -top / 30, 0, top / 30, top])
        bar.yaxis.set_major_formatter(FuncFormatter(lambda x, _: _signed(x)))
    bar.yaxis.set_minor_locator(NullLocator())
    bar.tick_params(labelsize=5.8, length=2, pad=1.5)
    bar.spines[:].set_visible(False)
