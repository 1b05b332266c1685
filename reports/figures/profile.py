"""One query's attention over the keys, full and the pattern's, on a logarithmic scale."""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from reports.style import PAPER, look
from reports.text import size_text

GREY = "#9aa1ab"


def draw(
    axes: Axes,
    keys: npt.NDArray[np.float64],
    full: npt.NDArray[np.float64],
    effective: npt.NDArray[np.float64],
    asked: str,
    length: int,
) -> None:
    """Mean weights of a row of bins; keys without weight leave a gap."""
    drawn = look(asked)
    axes.plot(keys, np.where(full > 0, full, np.nan), color=GREY, linewidth=2.2, alpha=0.8,
              label="full attention", gid="full", drawstyle="steps-mid")  # fmt: skip
    name = asked.partition("[")[0]
    axes.plot(keys, np.where(effective > 0, effective, np.nan), color=drawn.colour, linewidth=1.2,
              label=name, gid=f"series:{asked}", drawstyle="steps-mid")  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator([float(x) for x in np.linspace(0, length, 5)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size_text(x)))
    axes.set_xlabel("key (tokens)")
    axes.set_ylabel("mean weight")
    axes.legend(
        loc="upper left",
        fontsize=6.5,
        bbox_to_anchor=(0, 1.0),
        facecolor=PAPER,
        framealpha=0.8,
        frameon=True,
        edgecolor="none",
    )
