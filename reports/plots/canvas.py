"""Where a figure is drawn: the Axes of the caller, or those of a figure made for it."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attnbench import BadInput
from reports.figures.labels import Label, end_labels
from reports.figures.latency import layout
from reports.figures.lines import each_line
from reports.frame.tidy import mixed
from reports.style import WIDE, Look


def new_figure(height: float) -> Figure:
    """A figure two columns of a paper wide, which a notebook shows by itself."""
    from matplotlib import pyplot

    return pyplot.figure(figsize=(WIDE, height))


def with_labels(lines: Sequence[tuple[str, Look]], *, aside: float = 0.95) -> Axes:
    """New Axes with room for labels at the right; `aside` inches for the numbers behind them."""
    figure = new_figure(max(2.6, 0.72 + 0.122 * len(lines)))
    return layout(figure, 1, list(lines), gutter=3.4, aside=aside)[0]


def bare(height: float, width: float = 4.5) -> Axes:
    """New Axes alone in a figure, so many inches high and wide."""
    from matplotlib import pyplot

    return pyplot.figure(figsize=(width, height), layout="constrained").add_subplot()


def lines_of(frame: pd.DataFrame) -> list[tuple[str, Look]]:
    """The name and look of each line."""
    return [(text, drawn) for text, drawn, _ in each_line(frame)]


def name_lines(axes: Axes, labels: Sequence[Label], given: Axes | None) -> None:
    """Labels at the right of Axes made here; a legend in those of the caller."""
    if given is None:
        end_labels(axes, labels)
        return
    handles = [
        Line2D(
            [], [], color=one.look.colour, marker=one.look.marker, linestyle=one.look.dash,
            markerfacecolor=one.look.face, linewidth=1.2, markersize=3.6,
        )
        for one in labels
    ]  # fmt: skip
    axes.legend(handles, [one.text for one in labels], fontsize=6)


def one_pass(cost: pd.DataFrame, pass_: str) -> pd.DataFrame:
    """The cases of one pass of one setting.

    Raises:
        BadInput: there are none that ended well, or settings are mixed.
    """
    rows = cost[cost["pass"].eq(pass_)]
    if not rows.status.eq("ok").any():
        known = sorted(set(cost["pass"][cost.status.eq("ok")]))
        raise BadInput(f"no timed case of pass {pass_!r}: expected one of {known or 'none'}")
    if names := mixed(rows):
        raise BadInput(
            f"a line cannot mix {', '.join(names)}: give the cases of one setting, such as "
            "reports.open(RUN).setting(0)"
        )
    return rows


def known(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """The rows themselves.

    Raises:
        BadInput: there are none.
    """
    if len(rows) == 0:
        raise BadInput(f"the frame holds no {what}: expected records of a run that measured it")
    return rows
