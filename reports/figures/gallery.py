"""What each pattern looks at, small: direct keys dark, regions tinted, its density below."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from reports.figures.axes import is_narrow
from reports.figures.grid import panels, rows_needed
from reports.frame.masks import DIRECT, Tile
from reports.style import FAINT, look

BLANK, FUTURE = "#f3f5f7", "#ffffff"
TINTS = ("#f2a65a", "#7fc8a9", "#8fb8ec", "#e6a4c4", "#d9c55f", "#b9a5e2", "#8fd0d6", "#f0b8a0")
"""The colours of regions; neighbours differ."""


def columns(narrow: bool) -> int:
    """How many masks stand beside each other."""
    return 3 if narrow else 7


def height(tiles: int, narrow: bool) -> float:
    """How tall the figure must be, in inches."""
    return (1.42 if narrow else 1.33) * rows_needed(tiles, columns(narrow)) + 0.12


def draw(figure: Figure, tiles: Sequence[Tile]) -> None:
    """A mask a tile, the query rows from the top."""
    across = columns(is_narrow(figure))
    places = panels(
        figure, len(tiles), across, left=0.08, right=0.08, top=0.24, bottom=0.3, gap=(0.12, 0.44)
    )
    for tile, axes in zip(tiles, places, strict=True):
        panel(axes, tile)
        axes.set_gid(f"name:{tile.asked}")
        name = two_lines(tile.name)
        axes.set_title(
            name, fontsize=6.2, color=look(tile.asked).ink, pad=2.5, loc="left", linespacing=0.95
        )
        axes.text(
            0, -0.045, said(tile),
            transform=axes.transAxes, fontsize=5.4, color=FAINT, va="top",
        )  # fmt: skip


def panel(axes: Axes, tile: Tile) -> None:
    """One mask, the query rows from the top."""
    length = len(tile.cells)
    axes.imshow(paint(tile.cells, tile.asked), extent=(0, length, length, 0), aspect="equal",
                gid=f"mask:{tile.asked}")  # fmt: skip
    axes.set_xticks(range(length + 1), [""] * (length + 1))
    axes.set_yticks(range(length + 1), [""] * (length + 1))
    axes.grid(color="#ffffff", linewidth=0.5)
    axes.set_axisbelow(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def said(tile: Tile) -> str:
    """Density and keys; a pattern that scores no keys, or all through features, says only that."""
    density = f"{100 * tile.density:.0f} %"
    if not 0 < tile.keys_per_query <= len(tile.cells):
        return f"{density} · no single keys"
    return f"{density} · {tile.keys_per_query:.1f} keys"


def two_lines(name: str) -> str:
    """A Combiner's name broken where it fits over its mask."""
    before = "combiner-axial-" if name.startswith("combiner-axial-") else "combiner-"
    return name.replace(before, f"{before}\n", 1)


def paint(cells: np.ndarray, asked: str) -> np.ndarray:
    """An RGB image of the cells: the pattern's own colour, dark, for direct keys."""
    image = np.empty((*cells.shape, 3))
    image[:] = to_rgb(BLANK)
    image[cells == DIRECT] = to_rgb(look(asked).ink)
    for region in np.unique(cells[cells > DIRECT]):
        image[cells == region] = to_rgb(TINTS[int(region) % len(TINTS)])
    return image
