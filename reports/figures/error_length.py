"""Output error over length, a panel a source."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.axes import error_axis, is_narrow, length_axis, note, panel_title
from reports.figures.labels import Label, end_labels
from reports.figures.latency import layout
from reports.figures.lines import at_end, draw_line, each_line
from reports.text import above_text

TOP = 1.5  # an error beyond it is written, not drawn: output of zeros has 1


def draw(figure: Figure, errors: pd.DataFrame) -> None:
    """`errors` is `frame.tradeoff.over_layers` of one causality, dtype and device."""
    sources = sorted(errors.source.unique())
    lines = [(text, drawn) for text, drawn, _ in each_line(errors)]
    for axes, source in zip(layout(figure, len(sources), lines), sources, strict=True):
        labels = panel(axes, errors[errors.source == source])
        panel_title(axes, str(source))
        if not is_narrow(figure):
            end_labels(axes, labels)


def panel(axes: Axes, rows: pd.DataFrame) -> list[Label]:
    """One source; the labels of its lines."""
    top = min(TOP, float(rows.error.max()))
    labels, beyond = [], []
    for text, drawn, line in each_line(rows):
        if line.error.max() > top * 1.05:
            beyond.append(f"{text} {line.error.iloc[-1]:.1f}")
            continue
        for _, same in line.groupby("layer_set", sort=False):
            draw_line(axes, same, drawn, "error")  # a mean over other layers is another mean
        labels.append(at_end(line, text, drawn, "error", f"{line.error.iloc[-1]:.3f}"))
    length_axis(axes, rows.length)
    error_axis(axes, top)
    axes.set_ylabel("output error")
    if beyond:
        note(axes, 0.012, 0.985, above_text(beyond), va="top")
    return labels
