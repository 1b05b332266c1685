"""Cost against error at several lengths, and the list of what nothing beats."""

from functools import partial

import pandas as pd

from reports.chart import Chart, Table
from reports.figures import error_cost
from reports.html import paragraph
from reports.run import Run
from reports.sections import BySource, Section
from reports.sections.shared import PASS_WORDS, setting_caption, source_text, weighed_by_source
from reports.tables import plain
from reports.text import joined, ms_text, ratio_text, size_text, three_places

MOST = 3  # lengths in the figure


def section(run: Run) -> Section:
    """The trade-off, where times and errors meet."""
    found = weighed_by_source(run)
    if not found:
        return Section(key="frontier", title="Frontier", blocks=(paragraph(_why(run), "empty"),))
    parts = tuple((source, (_chart(run, rows), _stairs(rows))) for source, rows in found)
    return Section(key="frontier", title="Frontier", blocks=(BySource(parts=parts),))


def _why(run: Run) -> str:
    if len(run.cost[run.cost.status.eq("ok")]) == 0:
        return "No frontier: this run has no times."
    if len(run.fidelity[run.fidelity.status.eq("ok")]) == 0:
        return "No frontier: this run has no errors."
    cost = joined(sorted(set(run.cost["dtype"])))
    errors = joined(sorted(set(run.fidelity["dtype"])))
    return (
        "No frontier: no time and no error share pattern, causality, dtype and length "
        f"(times in {cost}, errors in {errors})."
    )


def _chart(run: Run, rows: pd.DataFrame) -> Chart:
    lengths = sorted(rows.length.unique())[-MOST:]
    shown = rows[rows.length.isin(lengths)]
    first = rows.iloc[0]
    count = shown[shown.length.eq(lengths[-1]) & shown.on_frontier.astype(bool)]
    said = joined(str(one) for one in count.sort_values("ms").line)
    table = plain("error-cost", "Error and cost", shown.sort_values(["length", "ms"]), {
        "length": "length", "line": "pattern", "ms": "time (ms)", "keys_per_query": "keys a query",
        "error": "output error", "total_variation": "total variation", "speedup": "\u00d7 dense",
        "on_frontier": "frontier",
    }, {
        "length": lambda n: size_text(int(n)), "\u00d7 dense": ratio_text,
        **dict.fromkeys(
            ("time (ms)", "keys a query", "output error", "total variation"), three_places
        ),
    })  # fmt: skip
    return Chart(
        key="error-cost",
        title="Error against cost",
        conclusion=f"At {size_text(int(lengths[-1]))} nothing is both faster and closer than: "
        f"{said}.",
        how="At the left what you pay today, in milliseconds of this implementation; at the right "
        "what the idea needs, in keys a query: a pattern that is good at the right and poor at the "
        "left wants a better kernel.",
        caption=f"{PASS_WORDS[first['pass']].capitalize()}; "
        f"{source_text(first.fidelity_source, bool(first.causal))}; means over layers, thin lines "
        f"from the best to the worst. Of window + sinks the blue curve. "
        f"{setting_caption(run, shown)}",
        table=table,
        draw=partial(error_cost.draw, frame=shown),
        wide_height=0.5 + 2.55 * len(lengths),
        narrow_height=0.5 + 2.4 * 2 * len(lengths),
    )


def _stairs(rows: pd.DataFrame) -> Table:
    steps = rows[rows.on_frontier.astype(bool)].sort_values(["length", "ms"])
    return plain("frontier", "On the frontier: nothing measured is both faster and closer", steps, {
        "length": "length", "line": "pattern", "ms": "time", "speedup": "\u00d7 dense",
        "error": "output error", "worst_layer": "worst layer", "keys_per_query": "keys a query",
    }, {
        "length": lambda n: size_text(int(n)), "time": ms_text,
        "\u00d7 dense": ratio_text,
        **dict.fromkeys(("output error", "worst layer", "keys a query"), three_places),
    })  # fmt: skip
