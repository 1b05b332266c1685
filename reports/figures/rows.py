"""How errors spread over the rows: what a mean hides."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports.figures.axes import is_narrow, panel_title
from reports.figures.labels import Label, end_labels
from reports.figures.latency import layout
from reports.figures.lines import each_line
from reports.style import FAINT
from reports.text import size_text, three, three_places

FLOOR = 1e-3


def draw(figure: Figure, spreads: pd.DataFrame) -> None:
    """`spreads` is `frame.spread.row_quantiles` of one source and length."""
    lines = [(text, drawn) for text, drawn, _ in each_line(spreads)]
    axes = layout(figure, 1, lines)[0]
    labels = []
    for text, drawn, row in each_line(spreads):
        first = row.iloc[0]
        measured = np.asarray(first.by_quantile, dtype=float)
        errors = np.clip(measured, FLOOR, None)  # a logarithm has no place for an exact row
        share = np.linspace(0, 100, len(errors))
        key = f"{first.asked}@{first.backend}"
        axes.plot(
            share, errors, color=drawn.colour, linestyle=drawn.dash, gid=f"series:{key}", label=key,
            linewidth=1.7 if first["name"] in ("full", "sinks") else 1.2, marker=drawn.marker,
            markevery=25, markersize=3.4, markerfacecolor=drawn.face,
        )  # fmt: skip
        p95 = float(np.interp(95, share, measured))
        labels.append(
            Label(
                x=100, y=float(errors[-1]), text=text, look=drawn, aside=three_places(p95), key=key
            )
        )
    axes.set_yscale("log")
    axes.set_xlim(0, 100)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 3), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: three(y)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f} %"))
    axes.set_xlabel("share of rows with at most this error")
    axes.axvline(95, color="#b9bec6", linewidth=0.8)
    first = spreads.iloc[0]
    panel_title(axes, f"{first.source}, {size_text(first.length)} tokens")
    axes.set_ylabel("relative error of a row")
    if not is_narrow(figure):
        end_labels(axes, labels)
        width, height = figure.get_size_inches()
        figure.text(
            1 - 0.04 / width, axes.get_position().y1 + 0.09 / height, "95 % of rows below",
            ha="right", fontsize=6.3, color=FAINT,
        )  # fmt: skip
