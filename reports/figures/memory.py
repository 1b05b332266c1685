"""Peak memory above the inputs over length, log-log, a panel a pass."""

import pandas as pd
from matplotlib.figure import Figure

from reports.figures.axes import panel_title
from reports.figures.latency import PASSES, beside, entries, layout, panel
from reports.frame.tidy import one_setting


def draw(figure: Figure, frame: pd.DataFrame, exponents: pd.DataFrame) -> None:
    """`frame` is the cost cases of one setting; `exponents` are fitted to `peak_bytes`."""
    passes = [one for one in PASSES if (one_setting(frame)["pass"] == one).any()]
    for axes, one in zip(layout(figure, len(passes), entries(frame)), passes, strict=True):
        rows = frame[frame["pass"] == one]
        slopes = exponents[exponents["pass"] == one] if len(exponents) else exponents
        labels, folded = panel(axes, rows, slopes, "peak_bytes")
        panel_title(axes, PASSES[one])
        beside(figure, axes, labels, folded)
