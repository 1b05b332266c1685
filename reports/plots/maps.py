"""Maps and masks: a map, or a pattern's name, in; Axes out."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure

from attnbench import PATTERNS, BadInput
from attnbench.mapfile import Maps
from reports.figures import gallery
from reports.figures import profile as profile_figure
from reports.figures import triptych as triptych_figure
from reports.frame import masks
from reports.frame.maps import Map, pooled, row_profile, view
from reports.plots.canvas import bare, new_figure
from reports.style import house

BINS = 512  # of a map in a figure, at most


def full(maps: Maps, *, head: int = 0, ax: Axes | None = None) -> Axes:
    """The map of full attention, on the logarithmic colours that `effective` shares.

    Args:
        maps: of `attnbench.maps.make` or `load_map`.
        head: its place among those of the map.
        ax: drawn into; a new figure if None.

    Raises:
        BadInput: no such head.
    """
    return _weights(maps, "full", head, ax)


def effective(maps: Maps, *, head: int = 0, ax: Axes | None = None) -> Axes:
    """The map that the pattern's implementation applies; arguments and errors as `full`."""
    return _weights(maps, "effective", head, ax)


def difference(
    maps: Maps, *, head: int = 0, absolute: bool = False, ax: Axes | None = None
) -> Axes:
    """What the pattern adds (red) and lacks (blue), or the absolute difference.

    Signed differences may cancel inside a bin; absolute ones were taken before pooling. Further
    arguments and errors as `full`.
    """
    found = _view(maps, head)
    values = found.absolute[head] if absolute else found.difference[head]
    with house():
        axes = ax or bare(4.2)
        if absolute:
            norm: LogNorm | SymLogNorm = _limits(found, head)
            colours = triptych_figure.ABSOLUTE
        else:
            most = float(np.abs(np.where(found.visible > 0, values, 0)).max()) or 1.0
            norm = SymLogNorm(most / 1e3, vmin=-most, vmax=most)
            colours = triptych_figure.SIGNED
        triptych_figure.panel(axes, values, found, norm, colours)
        axes.set_title("|difference|" if absolute else "pattern \u2212 full")
    return axes


def profile(maps: Maps, row: int, *, head: int = 0, ax: Axes | None = None) -> Axes:
    """One query's weights over the keys, full and the pattern's.

    Args:
        maps: of `attnbench.maps.make` or `load_map`.
        row: the query, in tokens.
        head: its place among those of the map.
        ax: drawn into; a new figure if None.

    Raises:
        BadInput: no such head or row.
    """
    found = view(_checked(maps, head))
    if not 0 <= row < found.length:
        raise BadInput(f"the map has the rows 0 to {found.length - 1}, got {row}")
    with house():
        axes = ax or bare(2.6)
        keys, of_full, ours = row_profile(found, head, row // found.bin_size)
        profile_figure.draw(axes, keys, of_full, ours, found.asked, found.length)
        axes.set_title(f"query {row}")
    return axes


def triptych(
    maps: Maps, *, head: int = 0, title: str = "", figure: Figure | None = None
) -> list[Axes]:
    """Full attention, the pattern and their difference, signed and absolute: four Axes.

    Args:
        maps: of `attnbench.maps.make` or `load_map`.
        head: its place among those of the map.
        title: said above the difference.
        figure: drawn into; a new one if None.

    Raises:
        BadInput: no such head.
    """
    found = view(_checked(maps, head))
    with house():
        made = figure or new_figure(triptych_figure.height(False))
        before = len(made.axes)
        triptych_figure.draw(made, found, head, title)
    return [axes for axes in made.axes[before:] if axes.images]


def mask(name: str, *, ax: Axes | None = None) -> Axes:
    """What a pattern may look at, at 16 tokens with its own small parameters.

    Raises:
        BadInput: no such pattern.
    """
    if name not in PATTERNS:
        raise BadInput(f"no pattern {name!r}: `run_bench.py list` names them")
    with house():
        axes = ax or bare(2.6, 2.4)
        tile = masks.tile(name)
        gallery.panel(axes, tile)
        axes.set_title(f"{name}: {gallery.said(tile)}", fontsize=6.5)
    return axes


def _weights(maps: Maps, which: Literal["full", "effective"], head: int, ax: Axes | None) -> Axes:
    found = _view(maps, head)
    with house():
        axes = ax or bare(4.2)
        values = found.full if which == "full" else found.effective
        triptych_figure.panel(
            axes, values[head], found, _limits(found, head), triptych_figure.WEIGHTS
        )
        axes.set_title("full attention" if which == "full" else found.asked)
    return axes


def _limits(found: Map, head: int) -> LogNorm:
    low, high = triptych_figure.shared_limits(
        found.full[head], found.effective[head], found.visible
    )
    return LogNorm(low, high)


def _view(maps: Maps, head: int) -> Map:
    return pooled(view(_checked(maps, head)), BINS)


def _checked(maps: Maps, head: int) -> Maps:
    if not 0 <= head < len(maps.full):
        raise BadInput(f"the map has {len(maps.full)} heads, got head {head}")
    return maps
