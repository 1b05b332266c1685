"""How far patterns are from full attention: over length, over rows, over heads, beside parents."""

from functools import partial

import numpy as np
import pandas as pd

from reports.chart import Chart, Table
from reports.figures import error_length, heads, parents, recall, rows
from reports.frame.parents import parents as parent_pairs
from reports.frame.spread import (
    at_each_source,
    at_one_place,
    kept,
    row_positions,
    row_quantiles,
    with_heads,
    worst_heads,
)
from reports.frame.tidy import each_row
from reports.frame.tradeoff import over_layers, thinned
from reports.html import paragraph
from reports.run import Run
from reports.sections import Block, BySource, Section
from reports.sections.shared import lengths_text, missing_text, source_text
from reports.tables import errors as errors_table
from reports.tables import plain
from reports.text import DASH, joined, size_text, three, three_places


def section(run: Run) -> Section:
    """Every distance that was measured."""
    here = at_one_place(run.fidelity)
    if len(here) == 0:
        text = "This run has no errors: no fidelity case ended well."
        return Section(key="fidelity", title="Fidelity", blocks=(paragraph(text, "empty"),))
    first = here.iloc[0]
    every = at_each_source(run.fidelity)
    same = run.fidelity[
        run.fidelity.causal.eq(first.causal) & run.fidelity.dtype.eq(first["dtype"])
        & run.fidelity.device.eq(first.device)
    ]  # fmt: skip
    blocks: list[Block | BySource] = [
        paragraph(
            "Output error is the norm of what a pattern's output misses over the norm of full "
            "attention's output, for each head, averaged over heads, then over layers: 0 is "
            "full attention, 1 is what an output of zeros would have. For patterns that reshape or "
            "replace softmax it is a distance, not an error: hollow marks, never ranked."
        ),
        _over_length(same),
        BySource(parts=tuple((source, _at(part)) for source, part in every)),
    ]
    return Section(key="fidelity", title="Fidelity", blocks=tuple(blocks))


def _at(here: pd.DataFrame) -> tuple[Chart | Table, ...]:
    """What is known at one source and length."""
    first = here.iloc[0]
    title = f"Distances at {size_text(first.length)}, {first.source}"
    blocks: list[Chart | Table] = [errors_table(here, "errors", title)]
    if chart := _parents(here):
        blocks.append(chart)
    quantiles = row_quantiles(thinned(here))
    if len(quantiles):
        blocks.append(_rows(here, quantiles, row_positions(thinned(here))))
    found = kept(thinned(here))
    if len(found):
        blocks.append(_recall(here, found))
    known = with_heads(thinned(here))
    if len(known):
        blocks.append(_heads(here, known))
    return tuple(blocks)


def _place(here: pd.DataFrame) -> str:
    first = here.iloc[0]
    layers = sorted({layer for layer in here.layer if layer}, key=lambda x: (len(x), x))
    said = f", layers {joined(layers)}" if layers else ""
    sampled = here[here.exact_rows.eq(False)] if "exact_rows" in here else here[:0]
    rows_said = f" on {int(sampled.sampled_rows.median())} sampled rows" if len(sampled) else ""
    return (
        f"{source_text(first.source, bool(first.causal))}{said}; {size_text(first.length)} tokens; "
        f"{first['dtype']} on {first.device}{rows_said}."
    )


def _best(errors: pd.DataFrame, count: int = 3) -> str:
    use = errors[errors.ranked & errors.name.ne("full")].sort_values("error", kind="stable")
    return joined(f"{row.line} {three(row.error)}" for row in each_row(use.head(count)))


def _over_length(same: pd.DataFrame) -> Chart:
    errors = thinned(over_layers(same))
    wide, narrow = error_length.heights(errors)
    grown = bool(errors.groupby("source").length.nunique().gt(1).any())
    longest = errors[errors.length.eq(errors.length.max())]
    table = plain("error-length", "Error over length", errors, {
        "source": "source", "line": "pattern", "length": "length", "error": "output error",
        "best_layer": "best layer", "worst_layer": "worst layer", "layers": "layers",
        "uniform_error": "uniform map", "sinks_error": "window + 4 sinks, equal keys",
    }, {
        "length": lambda n: size_text(int(n)),
        **dict.fromkeys(("output error", "best layer", "worst layer", "uniform map",
                         "window + 4 sinks, equal keys"), three_places),
    })  # fmt: skip
    uniform = errors.uniform_error.mean()
    noise = errors.dtype_error.mean()
    scale = f" The uniform map has {three(uniform)}." if np.isfinite(uniform) else ""
    floor = f" The dtype alone: {three_places(noise)}." if np.isfinite(noise) else ""
    return Chart(
        key="error-length",
        title="Error over length" if grown else "Error by source",
        conclusion=f"Closest at {size_text(int(longest.length.max()))}: {_best(longest)}.",
        how=f"{'Lower' if grown else 'Left'} is closer to full attention; compare the order of "
        f"the {'lines' if grown else 'rows'} across sources, for what is close on one kind of "
        "input may be far on another.",
        caption=f"Mean over heads and layers. {_drawn(grown)}{lengths_text(list(errors.length))} "
        f"tokens, {errors['dtype'].iloc[0]}.{scale}{floor}",
        missing=missing_text(same),
        table=table,
        draw=partial(error_length.draw, errors=errors),
        wide_height=wide,
        narrow_height=narrow,
    )


def _drawn(grown: bool) -> str:
    """What the lines of the figure of errors join."""
    rows = "thin lines from the best to the worst layer. "
    if not grown:
        return f"{rows[0].upper()}{rows[1:]}"
    return (
        "A line joins only means over the same layers, and points apart have other layers. "
        f"Sources with one length share rows, {rows}"
    )


def _parents(here: pd.DataFrame) -> Chart | None:
    pairs = parent_pairs(over_layers(here))
    if len(pairs) == 0:
        return None
    better = int((pairs.error < pairs.parent_error).sum())
    table = plain("parents", "Combiners and their parents", pairs, {
        "label": "Combiner", "error": "output error", "keys": "keys a query",
        "parent_label": "parent", "parent_error": "parent's error", "parent_keys": "parent's keys",
        "keys_ratio": "keys, parent / Combiner",
    }, dict.fromkeys(("output error", "parent's error", "keys a query", "parent's keys",
                      "keys, parent / Combiner"), three_places))  # fmt: skip
    tall = 0.85 + 0.26 * len(pairs)
    return Chart(
        key="parents",
        title="Each Combiner beside its sparse parent",
        conclusion=f"{better} of {len(pairs)} Combiners are closer than the parent they grew from.",
        how="The blue mark is the sparse pattern, the other one the same pattern with summaries of "
        "what it leaves out: a coloured bar to the left is what the summaries are worth.",
        caption=f"Keys a query differ where no parent with as many was measured; both are written. "
        f"{_place(here)}",
        table=table,
        draw=partial(parents.draw, pairs=pairs),
        wide_height=tall,
        narrow_height=tall,
    )


def _rows(here: pd.DataFrame, quantiles: pd.DataFrame, positions: pd.DataFrame) -> Chart:
    wide, narrow = rows.heights(quantiles, positions)
    marks = {f"{at} %": [float(one[at]) for one in quantiles.by_quantile] for at in rows.MARKED}
    frame = quantiles[["line"]].assign(**marks)
    worst = quantiles.assign(p95=marks["95 %"])
    worst = worst[worst.ranked & worst.name.ne("full")].sort_values("p95", kind="stable")
    said = joined(f"{row.line} {three(row.p95)}" for row in each_row(worst.head(3)))
    below = (
        " Below, the 95th percentile of the rows of each octave of positions."
        if len(positions)
        else " These records are older than errors by position, which a new run has."
    )
    return Chart(
        key="rows",
        title="Error of every query: its cumulative distribution",
        conclusion=f"95 % of the rows lie below, for the best three: {said}.",
        how="A line farther to the left is closer to full attention, and one that bends to the "
        "right at the top has a few rows that are far worse than its mean says; the columns at the "
        "right say below which error half and 95 % of the rows lie.",
        caption=f"Relative error of each row's output, over all heads; mean over layers of the "
        f"quantiles; what is below {rows.FLOOR:g} is drawn there.{below} {_place(here)}",
        table=plain("rows", "Quantiles of the rows' errors", frame,
                    {"line": "pattern", **{k: k for k in marks}},
                    dict.fromkeys(marks, three_places)),
        draw=partial(rows.draw, spreads=quantiles, positions=positions),
        wide_height=wide,
        narrow_height=narrow,
    )  # fmt: skip


def _recall(here: pd.DataFrame, found: pd.DataFrame) -> Chart:
    use = found[found.ranked & found.name.ne("full")]
    said = joined(f"{row.line} {100 * row.recall_64:.0f} %" for row in each_row(use.head(3)))
    named = {
        "line": "pattern", "recall_64": "top 64 kept", "recall_64_low": "lowest layer",
        "recall_64_high": "highest layer", "recall_8": "top 8 kept", "kept_mass": "mass in sight",
        "entropy": "entropy", "full_entropy": "full's entropy",
    }  # fmt: skip
    shares = ("top 64 kept", "lowest layer", "highest layer", "top 8 kept", "mass in sight")
    return Chart(
        key="recall",
        title="How much of the heaviest keys is kept",
        conclusion=f"Of full attention's weight on its top 64 keys the most is kept by {said}.",
        how="100 % would keep all of the weight that full attention puts on the keys it looks at "
        "most. Far less than the mass in sight says that a pattern may look there and does not; a "
        "hollow mark at the left of the filled one says that it blurs the very heaviest.",
        caption=f"Recall: the sum of the smaller of the two weights over full attention's heaviest "
        f"keys of a row, over full attention's weight on them; mean over rows, heads and layers, "
        f"thin lines from the lowest to the highest layer. Mass in sight: full attention's weight "
        f"on pairs that have any in the pattern. {_place(here)}",
        table=plain("recall", "Weight kept", found, named, {
            **dict.fromkeys(shares, lambda x: f"{100 * x:.1f} %"),
            **dict.fromkeys(("entropy", "full's entropy"), three_places),
        }),
        draw=partial(recall.draw, kept=found),
        wide_height=recall.height(len(found), False),
        narrow_height=recall.height(len(found), True),
    )  # fmt: skip


def _heads(here: pd.DataFrame, known: pd.DataFrame) -> Chart:
    layers = int(known.groupby("asked").layer.nunique().max())
    count = known.asked.nunique()
    worst = worst_heads(known)
    said = ""
    if len(worst):
        top = worst.iloc[0]
        said = (f"The worst head is {int(top['head'])} of layer {top['layer'] or DASH} under "
                f"{top['pattern']}, with an error of {three(top['error'])}.")  # fmt: skip
    spread = float(np.max([np.max(one) - np.min(one) for one in known.error_per_head]))
    return Chart(
        key="heads",
        title="Error of every layer and head",
        conclusion=said or f"Heads differ by up to {three(spread)}.",
        how="A dark cell is a head that the pattern breaks, however good the mean; look for rows "
        "(a layer) and columns (a head) that stay light in one pattern and dark in another.",
        caption=f"Panels from the closest pattern to the farthest, one colour scale. "
        f"{_place(here)}",
        table=plain("heads", "The twenty worst heads", worst, {
            "pattern": "pattern", "layer": "layer", "head": "head", "error": "output error",
        }, {"output error": three_places}),
        draw=partial(heads.draw, cells=known),
        wide_height=heads.height(count, layers, False),
        narrow_height=heads.height(count, layers, True),
        kind="image",
    )  # fmt: skip
