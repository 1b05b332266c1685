"""The first screen: what to use when, in words, and the figure that says why."""

from functools import partial

import pandas as pd

from reports.chart import Chart, Table
from reports.figures import headline
from reports.frame.tidy import each_row
from reports.frame.tradeoff import at_fixed_block, fixed_block, headline_lengths
from reports.frame.verdict import choices
from reports.run import Run
from reports.sections import Section, verdict_words
from reports.sections.shared import (
    PASS_WORDS,
    missing_text,
    setting_caption,
    source_text,
    weighed,
)
from reports.tables import plain
from reports.text import joined, ms_text, ratio_text, size_text, three, three_places


def section(run: Run) -> Section:
    """What to use when, or why this run cannot say."""
    rows = weighed(run)
    blocks: list[str | Chart | Table] = [verdict_words.markup(run, rows)]
    if len(rows):
        blocks.append(_headline(run, rows))
        if len(choices(rows)):
            blocks.append(choice_table(rows))
    return Section(key="verdict", title="Which attention, at which length", blocks=tuple(blocks))


def _headline(run: Run, rows: pd.DataFrame) -> Chart:
    block = fixed_block(rows)
    shown = at_fixed_block(rows, block)
    shown = shown[shown.length.isin(headline_lengths(shown))]
    count = headline.compared(shown)
    lengths = shown.length.nunique()
    wide = 3.55 + headline.bottom_height(count)
    first = rows.iloc[0]
    at = f", patterns that have blocks at block {block}" if block else ""
    stairs = shown[shown.on_frontier.astype(bool) & shown.length.eq(shown.length.max())]
    said = joined(f"{row.line} (error {three(row.error)} in {ms_text(row.ms)})"
                  for row in each_row(stairs.sort_values("ms")))  # fmt: skip
    columns = {
        "length": "length", "line": "pattern", "ms": "time (ms)", "ms_low": "low",
        "ms_high": "high",
        "error": "output error", "best_layer": "best layer", "worst_layer": "worst layer",
        "keys_per_query": "keys a query", "on_frontier": "frontier",
        "sinks_at_ms": "sinks, equal ms", "sinks_at_keys": "sinks, equal keys",
        "sinks_keys_how": "how",
    }  # fmt: skip
    table = plain("headline", "Error and time", shown.sort_values(["length", "ms"]), columns, {
        "length": lambda n: size_text(int(n)), "time (ms)": three, "low": three, "high": three,
        **dict.fromkeys(
            ("output error", "best layer", "worst layer", "keys a query"), three_places
        ),
        "sinks, equal ms": three, "sinks, equal keys": three,
    })  # fmt: skip
    return Chart(
        key="headline",
        title="Error against time",
        conclusion=f"On the frontier at {size_text(int(shown.length.max()))}: {said}.",
        how="Left and low is good: fast and close to full attention. A point above the step line "
        "is beaten by one that is both faster and closer; below, a pattern earns its place where "
        "it lies left of the marks of window + sinks.",
        caption=f"{PASS_WORDS[first['pass']].capitalize()}, median time; "
        f"{source_text(first.fidelity_source, bool(first.causal))}; mean over layers, thin lines "
        f"from the best to the worst layer{at}. Hollow: a distance, not an error, never ranked. "
        f"Half-filled: simulated with a dense mask, off the frontier. "
        f"{setting_caption(run, shown)}",
        missing=missing_text(_asked(run, shown)),
        table=table,
        draw=partial(headline.draw, frame=shown),
        wide_height=wide,
        narrow_height=2.75 * lengths + 0.5 + headline.bottom_height(count),
    )


def _asked(run: Run, shown: pd.DataFrame) -> pd.DataFrame:
    """The cases that should have been points of a figure, failed ones too."""
    one = shown["pass"].iloc[0]
    lengths = shown.length.unique()
    return run.cost[
        run.cost["pass"].eq(one) & run.cost.length.isin(lengths) & run.cost.name.ne("full")
    ]


def choice_table(rows: pd.DataFrame) -> Table:
    """The fastest pattern within each error at every length."""
    found = choices(rows)
    cells = [
        {
            "output error": f"≤ {row.limit}",
            "length": size_text(row.length),
            "said": f"{row.line}, {ms_text(row.ms)}"
            + ("" if row.dense or not row.speedup > 0 else f" ({ratio_text(row.speedup)})"),
        }
        for row in each_row(found)
    ]
    frame = pd.DataFrame(cells, columns=["output error", "length", "said"])
    order = [size_text(int(n)) for n in sorted(rows.length.unique())]
    wide = frame.pivot_table(index="output error", columns="length", values="said", aggfunc="first")
    wide = wide.reindex(columns=[n for n in order if n in wide.columns]).fillna("none measured")
    wide.columns = pd.Index([f"{n} tokens" for n in wide.columns])
    title = "The fastest pattern within an error (\u00d7 over the fastest dense kernel)"
    return Table(key="choices", title=title, frame=wide.reset_index())
