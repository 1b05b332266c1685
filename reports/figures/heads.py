"""Error of every layer and head: the mean hides the one that hurts."""

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from reports.figures.axes import is_narrow
from reports.figures.grid import panels, rows_needed
from reports.figures.labels import FONT
from reports.frame.names import by_number
from reports.style import FAINT, INK, PAPER, look
from reports.text import DASH

COLOURS, TOP = "magma_r", 1.5
ROW = 0.175  # inches a pattern where there is one layer


def columns(narrow: bool) -> int:
    """How many panels stand beside each other."""
    return 2 if narrow else 4


def height(patterns: int, layers: int, narrow: bool) -> float:
    """How tall the figure must be, in inches."""
    if layers == 1:
        return 1.0 + (0.27 if narrow else ROW) * patterns
    each = 0.52 + 0.155 * max(2, layers)  # a title may take two lines
    return 0.75 + each * rows_needed(patterns, columns(narrow))


def draw(figure: Figure, cells: pd.DataFrame) -> None:
    """`cells` has a row a (pattern, layer) of one source and length, with `error_per_head`."""
    narrow = is_narrow(figure)
    order = cells.groupby("asked").error.mean().sort_values(kind="stable").index
    top = min(TOP, max(float(np.max(one)) for one in cells.error_per_head))
    alone = cells.groupby("asked").layer.nunique().max() == 1
    image = (_rows if alone else _panels)(figure, cells, list(map(str, order)), top)
    width, tall = figure.get_size_inches()
    bar = figure.add_axes((0.42 / width, 0.28 / tall, 1.6 / width, 0.07 / tall))
    figure.colorbar(image, cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=6, length=2)
    bar.spines[:].set_visible(False)
    figure.text(
        2.15 / width, 0.27 / tall, "output error; ○ worst" if narrow else
        f"output error (darkest: {top:.2g} and above); ○ worst head",
        fontsize=6.3, color=FAINT, va="bottom",
    )  # fmt: skip


def _rows(figure: Figure, cells: pd.DataFrame, order: list[str], top: float) -> AxesImage:
    """One layer: a row a pattern, one below the other, with the errors in the cells."""
    narrow = is_narrow(figure)
    width, tall = figure.get_size_inches()
    lines = cells.drop_duplicates("asked").set_index("asked").line
    names = ["\n".join(wrap(str(lines[asked]), 22 if narrow else 60)) for asked in order]
    left = 0.16 + 0.056 * max(len(part) for name in names for part in name.split("\n"))
    each = (tall - 1.0) / len(order)
    image: AxesImage | None = None
    for index, (asked, name) in enumerate(zip(order, names, strict=True)):
        y = tall - 0.3 - each * (index + 1)
        place = (left / width, y / tall, 1 - (left + 0.1) / width, 0.9 * each / tall)
        axes = figure.add_axes(place)
        part = cells[cells.asked == asked]
        image = panel(axes, part, top)
        axes.set_gid(f"panel:{asked}")
        axes.set_yticks([0], [name], fontsize=5.8 if narrow else FONT, color=look(asked).ink)
        axes.set_ylabel("")
        if index < len(order) - 1:
            axes.tick_params(labelbottom=False)
            axes.set_xlabel("")
        values = list(map(float, part.error_per_head.iloc[0]))
        if len(values) <= (4 if narrow else 12):
            _written(axes, values, top)
    layer = str(cells.layer.iloc[0])
    if layer:
        figure.text(left / width, 1 - 0.24 / tall, f"layer {layer}", fontsize=8.5, color=INK,
                    fontweight="bold")  # fmt: skip
    assert image is not None
    return image


def _written(axes: Axes, values: list[float], top: float) -> None:
    for head, value in enumerate(values):
        axes.text(
            head + 0.42, 0, f"{value:.2f}", fontsize=5.8, ha="right", va="center_baseline",
            color=PAPER if value > 0.45 * top else INK,
        )  # fmt: skip


def _panels(figure: Figure, cells: pd.DataFrame, order: list[str], top: float) -> AxesImage:
    """Several layers: a panel a pattern."""
    narrow = is_narrow(figure)
    places = panels(
        figure, len(order), columns(narrow), left=0.42, bottom=0.72, top=0.3, gap=(0.3, 0.52)
    )
    image: AxesImage | None = None
    for index, (asked, axes) in enumerate(zip(order, places, strict=True)):
        part = cells[cells.asked == asked]
        image = panel(axes, part, top)
        title = "\n".join(wrap(str(part.line.iloc[0]), 26, break_on_hyphens=True))
        axes.set_title(title, fontsize=6.2, fontweight="normal", pad=3, color=look(str(asked)).ink)
        axes.set_gid(f"panel:{asked}")
        axes.tick_params(labelleft=index % columns(narrow) == 0)
        if index % columns(narrow):
            axes.set_ylabel("")
        if index < len(order) - columns(narrow):
            axes.set_xlabel("")
    assert image is not None
    return image


def panel(axes: Axes, part: pd.DataFrame, top: float = TOP) -> AxesImage:
    """One pattern: a cell a layer and head, the worst ringed; `top` is the darkest error."""
    part = part.sort_values("layer", kind="stable", key=lambda one: one.map(by_number))
    values = np.array([list(map(float, one)) for one in part.error_per_head])
    image = axes.imshow(values, cmap=COLOURS, vmin=0, vmax=top, aspect="auto")
    worst = np.unravel_index(int(values.argmax()), values.shape)
    axes.plot(
        [worst[1]], [worst[0]], marker="o", markersize=3.2, markerfacecolor="none",
        markeredgecolor="#ffffff" if values.max() > 0.45 * top else "#1c1f24", linestyle="none",
    )  # fmt: skip
    axes.grid(visible=False)
    names = [layer or DASH for layer in part.layer]
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xticks(range(0, values.shape[1], max(1, values.shape[1] // 4)))
    axes.tick_params(labelsize=6, length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("layer", fontsize=6.5)
    axes.set_xlabel("head", fontsize=6.5, labelpad=1)
    return image
