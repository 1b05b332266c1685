"""Error of every layer and head: the mean hides the one that hurts."""

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from reports.figures.axes import is_narrow
from reports.figures.grid import panels, rows_needed
from reports.frame.names import by_number
from reports.style import FAINT, look
from reports.text import DASH

COLOURS, TOP = "magma_r", 1.5


def columns(narrow: bool) -> int:
    """How many panels stand beside each other."""
    return 2 if narrow else 4


def height(patterns: int, layers: int, narrow: bool) -> float:
    """How tall the figure must be, in inches."""
    each = 0.52 + 0.155 * max(2, layers)  # a title may take two lines
    return 0.75 + each * rows_needed(patterns, columns(narrow))


def draw(figure: Figure, cells: pd.DataFrame) -> None:
    """`cells` has a row a (pattern, layer) of one source and length, with `error_per_head`."""
    narrow = is_narrow(figure)
    order = cells.groupby("asked").error.mean().sort_values(kind="stable").index
    top = min(TOP, max(float(np.max(one)) for one in cells.error_per_head))
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
    width, tall = figure.get_size_inches()
    bar = figure.add_axes((0.42 / width, 0.28 / tall, 1.6 / width, 0.07 / tall))
    if image is not None:
        figure.colorbar(image, cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=6, length=2)
    bar.spines[:].set_visible(False)
    figure.text(
        2.15 / width, 0.27 / tall, "output error; ○ worst" if narrow else
        f"output error (darkest: {top:.2g} and above); ○ worst head",
        fontsize=6.3, color=FAINT, va="bottom",
    )  # fmt: skip


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
