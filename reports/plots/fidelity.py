"""How far patterns are from full attention: the fidelity frame in, Axes out."""

import pandas as pd
from matplotlib.axes import Axes

from attnbench import BadInput
from reports.figures import distance
from reports.figures import error_cost as error_cost_figure
from reports.figures import error_length as error_length_figure
from reports.figures import heads as heads_figure
from reports.figures import parents as parents_figure
from reports.figures import recall as recall_figure
from reports.figures import rows as rows_figure
from reports.frame import spread
from reports.frame.parents import parents as paired
from reports.frame.scaling import with_speedup
from reports.frame.tradeoff import over_layers, thinned, tradeoff
from reports.plots.canvas import bare, known, lines_of, name_lines, one_pass, with_labels
from reports.style import house
from reports.text import size_text


def error_length(
    fidelity: pd.DataFrame, *, source: str | None = None, ax: Axes | None = None
) -> Axes:
    """Output error over length on one source; a line joins only means over the same layers.

    Args:
        fidelity: the fidelity cases.
        source: captured before others if None.
        ax: drawn into; a new figure if None.

    Raises:
        BadInput: no error was measured there.
    """
    here = _here(fidelity, source)
    first = here.iloc[0]
    same = fidelity[
        fidelity.causal.eq(first.causal) & fidelity.dtype.eq(first["dtype"])
        & fidelity.device.eq(first.device) & fidelity.source.eq(first.source)
    ]  # fmt: skip
    errors = thinned(over_layers(same))
    with house():
        axes = ax or with_labels(lines_of(errors))
        name_lines(axes, error_length_figure.panel(axes, errors), ax)
        axes.set_title(str(first.source))
    return axes


def error_cost(
    cost: pd.DataFrame,
    fidelity: pd.DataFrame,
    *,
    length: int | None = None,
    pass_: str = "fwd",
    by: str = "ms",
    source: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Error against what it costs at one length, with the frontier and the curve of the sinks.

    Args:
        cost: the cost cases of one setting.
        fidelity: the fidelity cases.
        length: tokens; the longest with both if None.
        pass_: fwd, bwd or fwdbwd.
        by: ms or keys_per_query.
        source: of the errors; captured before others if None.
        ax: drawn into; a new figure if None.

    Raises:
        BadInput: times and errors do not meet there, or settings are mixed.
    """
    if by not in error_cost_figure.COSTS:
        raise BadInput(f"by must be one of {list(error_cost_figure.COSTS)}, got {by!r}")
    rows = tradeoff(with_speedup(one_pass(cost, pass_)), fidelity)
    rows = known(rows[rows.error.notna()], "times and errors of one pattern, dtype and length")
    source = source or spread.best_source(rows.assign(source=rows.fidelity_source))
    rows = known(rows[rows.fidelity_source.eq(source)], f"errors on {source}")
    wanted = int(rows.length.max()) if length is None else length
    rows = known(rows[rows.length.eq(wanted)], f"times and errors at {wanted} tokens")
    with house():
        axes = ax or bare(3.4, 5.4)
        axes.set_title(f"{source}, {size_text(wanted)} tokens")
        error_cost_figure.panel(axes, rows, x=by)
    return axes


def row_errors(
    fidelity: pd.DataFrame, *, source: str | None = None, ax: Axes | None = None
) -> Axes:
    """The share of queries with at most an error; arguments and errors as `error_length`."""
    rows = known(spread.row_quantiles(thinned(_here(fidelity, source))), "errors of rows")
    with house():
        axes = ax or with_labels(lines_of(rows), aside=1.4)
        labels = rows_figure.cumulative(axes, rows)
        if ax is None:
            rows_figure.key_beside(axes, labels)
        else:
            name_lines(axes, labels, ax)
        axes.set_title(_place(rows))
    return axes


def row_positions(
    fidelity: pd.DataFrame, *, source: str | None = None, ax: Axes | None = None
) -> Axes:
    """The 95th percentile of the errors over the query's position; as `row_errors`."""
    rows = known(spread.row_positions(thinned(_here(fidelity, source))), "errors by position")
    with house():
        axes = ax or with_labels(lines_of(rows))
        name_lines(axes, rows_figure.over_position(axes, rows), ax)
        axes.set_title(_place(rows))
    return axes


def recall(fidelity: pd.DataFrame, *, source: str | None = None, ax: Axes | None = None) -> Axes:
    """What is kept of the heaviest keys, a row a pattern; arguments and errors as `row_errors`."""
    rows = known(spread.kept(thinned(_here(fidelity, source))), "recall")
    with house():
        axes = ax or bare(recall_figure.height(len(rows), False), 5.4)
        recall_figure.panel(axes, rows)
        axes.set_title(_place(rows))
    return axes


def parents(fidelity: pd.DataFrame, *, source: str | None = None, ax: Axes | None = None) -> Axes:
    """Each Combiner beside its sparse parent; arguments and errors as `row_errors`."""
    pairs = known(paired(over_layers(_here(fidelity, source))), "Combiners with their parents")
    with house():
        axes = ax or bare(0.85 + 0.26 * len(pairs), 5.4)
        parents_figure.panel(axes, pairs)
        axes.set_title(f"{pairs.source.iloc[0]}, {size_text(pairs.length.iloc[0])} tokens")
    return axes


def heads(
    fidelity: pd.DataFrame, asked: str, *, source: str | None = None, ax: Axes | None = None
) -> Axes:
    """The error of every layer and head of one pattern, the worst ringed.

    Args:
        fidelity: the fidelity cases.
        asked: the pattern, as asked.
        source: captured before others if None.
        ax: drawn into; a new figure if None.

    Raises:
        BadInput: no error of a head was measured there.
    """
    rows = _of(spread.with_heads(_here(fidelity, source)), asked)
    with house():
        axes = ax or bare(1.0 + 0.2 * rows.layer.nunique())
        heads_figure.panel(axes, rows)
        axes.set_title(f"{rows.line.iloc[0]}: output error")
    return axes


def mass_by_distance(
    fidelity: pd.DataFrame, asked: str, *, source: str | None = None, ax: Axes | None = None
) -> Axes:
    """Attention by distance of one pattern over that of full attention; as `heads`."""
    row = _of(spread.mass_by_distance(_here(fidelity, source)), asked).iloc[0]
    with house():
        axes = ax or bare(2.4)
        distance.panel(axes, list(row.edges), list(row.full), list(row.effective), asked)
        axes.set_title(str(row.line))
        axes.set_xlabel("query \u2212 key (tokens)")
        axes.set_ylabel("share of the mass")
    return axes


def _here(fidelity: pd.DataFrame, source: str | None) -> pd.DataFrame:
    rows = spread.at_one_place(fidelity, source)
    return known(rows, "errors" if source is None else f"errors on {source}")


def _of(rows: pd.DataFrame, asked: str) -> pd.DataFrame:
    known(rows, "such numbers")
    found = rows[rows.asked.eq(asked)]
    if len(found) == 0:
        raise BadInput(f"no {asked!r} there: expected one of {sorted(set(rows.asked))}")
    return found


def _place(rows: pd.DataFrame) -> str:
    return f"{rows.source.iloc[0]}, {size_text(int(rows.length.iloc[0]))} tokens"
