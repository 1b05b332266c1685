"""Output error over length, a panel a source; sources with one length share rows below."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures import error_sources, latency
from reports.figures.axes import above, error_axis, is_narrow, length_axis, panel_title
from reports.figures.labels import Label, end_labels
from reports.figures.lines import at_end, draw_line, each_line
from reports.style import Look

TOP = 1.5  # an error beyond it is written, not drawn: output of zeros has 1


def draw(figure: Figure, errors: pd.DataFrame) -> None:
    """`errors` is `frame.tradeoff.over_layers` of one causality, dtype and device."""
    grown, single = _parts(errors)
    below = error_sources.height(single, is_narrow(figure))
    if len(single):
        error_sources.draw(figure, single, below)
    if len(grown) == 0:
        return
    sources = sorted(grown.source.unique())
    panels = latency.layout(figure, len(sources), _entries(grown), foot=below)
    for axes, source in zip(panels, sources, strict=True):
        panel_title(axes, str(source))
        labels = panel(axes, grown[grown.source == source])
        if not is_narrow(figure):
            end_labels(axes, labels)


def heights(errors: pd.DataFrame) -> tuple[float, float]:
    """How tall the wide and the narrow figure must be, in inches."""
    grown, single = _parts(errors)
    wide, narrow = latency.heights(grown.source.nunique(), _entries(grown))
    return wide + error_sources.height(single, False), narrow + error_sources.height(single, True)


def _parts(errors: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The sources with lines over length, and those that have one length."""
    several = errors.groupby("source").length.transform("nunique").gt(1)
    return errors[several], errors[~several]


def _entries(errors: pd.DataFrame) -> list[tuple[str, Look]]:
    return [(text, drawn) for text, drawn, _ in each_line(errors)] if len(errors) else []


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
        above(axes, beyond)
    return labels
