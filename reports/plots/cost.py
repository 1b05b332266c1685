"""What patterns cost, and what changed between two runs: a frame in, Axes out."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from attnbench import BadInput
from reports.figures import change as change_figure
from reports.figures import latency as latency_figure
from reports.figures import roofline as roofline_figure
from reports.figures import speedup as speedup_figure
from reports.frame import scaling
from reports.frame.change import facet_text, facets
from reports.frame.roofline import roof, shown_length
from reports.frame.roofline import roofline as under_roof
from reports.frame.tradeoff import thinned
from reports.plots.canvas import bare, known, lines_of, name_lines, one_pass, with_labels
from reports.style import house


def latency(cost: pd.DataFrame, *, pass_: str = "fwd", ax: Axes | None = None) -> Axes:
    """Median time over length with bands, and fitted exponents where the figure is made here.

    Args:
        cost: the cost cases of one setting.
        pass_: fwd, bwd or fwdbwd.
        ax: drawn into; a new figure if None.

    Raises:
        BadInput: no such case, or settings are mixed.
    """
    return _over_length(cost, pass_, "ms", ax)


def memory(cost: pd.DataFrame, *, pass_: str = "fwd", ax: Axes | None = None) -> Axes:
    """Peak memory above the inputs over length; arguments and errors as `latency`."""
    return _over_length(cost, pass_, "peak_bytes", ax)


def speedup(cost: pd.DataFrame, *, pass_: str = "fwd", ax: Axes | None = None) -> Axes:
    """Speed-up over the fastest dense kernel; rings where a pattern passes it for good.

    Arguments and errors as `latency`.
    """
    rows = scaling.with_speedup(thinned(one_pass(cost, pass_)))
    shown = known(speedup_figure.rows_shown(rows), "speed-ups over a dense SDPA row")
    with house():
        axes = ax or with_labels(lines_of(shown))
        labels, _ = speedup_figure.panel(axes, shown, scaling.crossovers(rows), fold=False)
        name_lines(axes, labels, ax)
    return axes


def roofline(
    cost: pd.DataFrame,
    machine: Mapping[str, Any] | None = None,
    *,
    pass_: str = "fwd",
    ax: Axes | None = None,
) -> Axes:
    """FLOPs a second over FLOPs a byte, at the longest length of full attention.

    Args:
        cost: the cost cases of one setting.
        machine: its entry in machine.json, for the ceilings.
        pass_: fwd, bwd or fwdbwd.
        ax: drawn into; a new figure if None.

    Raises:
        BadInput: no such case, or settings are mixed.
    """
    rows = known(under_roof(thinned(one_pass(cost, pass_))), "times with their FLOPs")
    first = rows.iloc[0]
    over = roof(machine or {}, dtype=str(first["dtype"]), pass_=pass_, dim=int(first.dim))
    with house():
        here = rows[rows.length.eq(shown_length(rows))]
        axes = ax or with_labels(lines_of(here))
        name_lines(axes, roofline_figure.panel(axes, rows, over), ax)
    return axes


def change(
    changes: pd.DataFrame,
    asked: str,
    *,
    quantity: str = "time",
    facet: int = 0,
    threshold: float = 0.05,
    ax: Axes | None = None,
) -> Axes:
    """What changed between two runs, for one pattern.

    Args:
        changes: of `reports.comparison.compare`.
        asked: the pattern, as asked.
        quantity: time, memory or error.
        facet: which of the facets (pass or source, and shape) that have the pattern.
        threshold: the relative change that counts as a regression.
        ax: drawn into; a new figure if None.

    Raises:
        BadInput: no such case, or no such facet.
    """
    parts = facets(changes[changes.asked.eq(asked)], quantity)
    if not 0 <= facet < len(parts):
        raise BadInput(f"{asked} has {len(parts)} facets of {quantity}, got facet {facet}")
    with house():
        axes = ax or bare(2.4)
        part = parts[facet]
        lengths = sorted({int(n) for n in part.length})
        for _, rows in change_figure.series(part):  # a backend or layer a line
            change_figure.panel(
                axes, rows, threshold, reach=change_figure.reach_of(part), lengths=lengths
            )
        axes.set_title(f"{asked}: {facet_text(part)}", fontsize=6.5)
        axes.set_xlabel("length (tokens)")
    return axes


def _over_length(cost: pd.DataFrame, pass_: str, value: str, ax: Axes | None) -> Axes:
    rows = thinned(one_pass(cost, pass_))
    known(rows[rows[value].gt(0)], f"{value} of pass {pass_}")
    with house():
        axes = ax or with_labels(lines_of(rows[rows.status.eq("ok")]))
        slopes = scaling.exponents(rows, value)
        labels, _ = latency_figure.panel(axes, rows, slopes, value, fold=False)
        name_lines(axes, labels, ax)
    return axes
