"""The first screen: what to use when, in words, and the figure that says why."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from reports.chart import Chart, Table
from reports.figures import headline
from reports.frame.spread import at_one_place
from reports.frame.tidy import each_row
from reports.frame.tradeoff import at_fixed_block, fixed_block, headline_lengths, over_layers
from reports.frame.verdict import LIMITS, choices, fastest_dense, heads_of, noise, overtakes, rivals
from reports.html import bullets, escape
from reports.run import Run
from reports.sections import Section
from reports.sections.shared import (
    PASS_WORDS,
    cost_settings,
    device_text,
    lengths_text,
    main_pass,
    missing_text,
    setting_caption,
    source_text,
    weighed,
)
from reports.tables import plain
from reports.text import joined, ms_text, ratio_text, size_text, three, three_places, two_digits

NOISY = 0.1  # beyond it the first screen says so


def section(run: Run) -> Section:
    """What to use when, or why this run cannot say."""
    rows = weighed(run)
    said: list[str | tuple[str, list[str]]] = [*_speed(run, rows), *_choice(rows), *_rivals(rows)]
    said += [*_closest(run, rows), *_trust(run, rows)]
    blocks: list[str | Chart | Table] = [said_markup(said)]
    if len(rows):
        blocks.append(_headline(run, rows))
        if len(choices(rows)):
            blocks.append(choice_table(rows))
    return Section(key="verdict", title="Which attention, at which length", blocks=tuple(blocks))


def said_markup(said: Sequence[str | tuple[str, list[str]]]) -> str:
    """The verdict as a list; a sentence may have a list of its own."""
    items = [
        escape(one) if isinstance(one, str) else escape(one[0]) + bullets(one[1]) for one in said
    ]
    return '<ul class="verdict">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _speed(run: Run, rows: pd.DataFrame) -> list[str]:
    parts = [part for part in cost_settings(run) if (part.status == "ok").any()]
    if not parts:
        return ["This run has no times: it can say how close patterns are, not which is faster."]
    frame, one = parts[0], main_pass(parts[0])
    dense = fastest_dense(frame, one)
    if len(dense) == 0:
        return ["No dense SDPA row was timed, so there is nothing to compute a speed-up over."]
    last = dense.iloc[-1]
    fact = f"{last.line}: {ms_text(last.ms)} at {size_text(last.length)}, {PASS_WORDS[one]}"
    found = overtakes(frame, one, rows)
    ahead = found[found["at"].notna()] if len(found) else found
    others = frame[frame.name.ne("full") & frame.ms.notna()]
    if len(others) == 0:
        return [f"Only dense attention has a time ({fact}), so this run cannot say what is faster."]
    if len(ahead) == 0:
        span = lengths_text(list(frame.length))
        return [f"Use full attention: from {span} nothing measured here is faster than the fastest "
                f"dense kernel ({fact}).{_unclear(found)}"]  # fmt: skip
    first = ahead.iloc[0]
    if pd.isna(first.crossover):
        start = (
            f"{first.label} beats the fastest dense kernel ({fact}) already at "
            f"{size_text(int(first.shortest))} tokens, the shortest length it was timed at."
        )
    else:
        known = np.isfinite([first.low, first.high]).all()
        span = f" (between {first.low:,.0f} and {first.high:,.0f})" if known else ""
        start = (
            f"Use full attention below about {two_digits(first['at']):,.0f} tokens{span}: no "
            f"pattern is faster. The first to beat the fastest dense kernel ({fact}) is "
            f"{first.label}."
        )
    never = found[found["at"].isna() & ~found.unclear]
    far = never.longest >= last.length
    late = f" Never within the lengths measured: {joined(never[far].label)}." if far.any() else ""
    near = never[~far]
    if len(near):
        reach = size_text(int(near.longest.max()))
        those = "one was" if len(near) == 1 else f"{len(near)} were"
        late += f" Of those timed to {reach} at most, {those} slower there."
    late += _unclear(found)
    return [f"{start}{late}"]


def _unclear(found: pd.DataFrame) -> str:
    open_ = found[found.unclear] if len(found) else found
    return f" Too noisy to tell: {joined(open_.label)}." if len(open_) else ""


def _choice(rows: pd.DataFrame) -> list[str | tuple[str, list[str]]]:
    if len(rows) == 0:
        return []
    length = int(rows.length.max())
    said: list[str] = []
    for _, same in choices(rows[rows.length == length]).groupby("asked", sort=False):
        row = next(each_row(same))
        limits = joined(f"{limit:g}" for limit in same.limit)
        name = "full attention itself" if row.dense else row.line
        better = f", {ratio_text(row.speedup)} dense" if row.speedup > 0 and not row.dense else ""
        said.append(f"≤ {limits}: {name}, {ms_text(row.ms)}{better}")
    if not said:
        return [f"No pattern that was timed has an output error of {LIMITS[-1]} or less."]
    return [(f"Fastest at {size_text(length)} tokens with an output error", said)]


def _closest(run: Run, rows: pd.DataFrame) -> list[str]:
    """What can be said of errors where no time joins them."""
    here = over_layers(at_one_place(run.fidelity)) if len(rows) == 0 else rows.iloc[:0]
    use = here[here.ranked.eq(True) & here.name.ne("full")] if len(here) else here
    if len(use) == 0:
        return []
    use = use.sort_values("error", kind="stable").head(3)
    best = joined(f"{row.line} ({three(row.error)})" for row in each_row(use))
    first = use.iloc[0]
    return [
        f"Closest to full attention at {size_text(first.length)} tokens, {first.source}: {best}."
    ]


def _rivals(rows: pd.DataFrame) -> list[str]:
    if len(rows) == 0:
        return []
    found = rivals(rows)
    said = []
    if found.of_ms:
        said.append(f"{found.equal_ms} of {found.of_ms} patterns at equal milliseconds")
    if found.of_keys:
        said.append(f"{found.equal_keys} of {found.of_keys} at equal keys a query")
    at = size_text(int(rows.length.max()))
    return (
        [f"Closer than the simple rival, a window with sinks, at {at}: {joined(said)}."]
        if said
        else []
    )


def _trust(run: Run, rows: pd.DataFrame) -> list[str]:
    said = []
    if len(rows):
        row = rows.iloc[0]
        good = run.fidelity[run.fidelity.source.eq(row.fidelity_source)]
        texts = good.seed.nunique()
        layers = int(rows.layers.max())
        said.append(
            f"Errors: {source_text(row.fidelity_source, bool(row.causal))}; {texts} sample"
            f"{'s' if texts != 1 else ''} \u00d7 {layers} layer{'s' if layers != 1 else ''} \u00d7 "
            f"{heads_of(good)} heads, {lengths_text(list(rows.length))} tokens."
        )
    elif len(run.fidelity) and len(run.cost):
        said.append(
            "No error joins a time: the two need the same pattern, causality, dtype and length."
        )
    elif len(run.fidelity) == 0:
        said.append("This run has no errors: it cannot say how close a pattern is.")
    timed = run.cost[run.cost.status.eq("ok")]
    if len(timed):
        wide = noise(timed)
        noisy = f", noisy: the median interval is \u00b1{100 * wide:.0f} %" if wide > NOISY else ""
        counts = int(timed.samples.median()) if timed.samples.notna().any() else 0
        said.append(
            f"Times: {device_text(run, timed.machine.iloc[0])}, {timed['dtype'].iloc[0]}, medians "
            f"of {counts} samples a case{noisy}. The error of a layer is not the quality of "
            f"a model."
        )
    return said


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
